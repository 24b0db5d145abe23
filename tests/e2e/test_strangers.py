"""Ray listens on every interface of the machine, and does nothing there for those without the token."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import httpx
import psutil
import pytest

from tests.e2e.conftest import Service

pytestmark = pytest.mark.e2e


def test_the_dashboard_asks_for_the_token(service: Service) -> None:
    path = "/api/serve/applications/"
    assert httpx.get(service.dashboard_url + path, timeout=30).status_code == 401
    wrong = {"Authorization": "Bearer " + "0" * 64}
    assert httpx.get(service.dashboard_url + path, headers=wrong, timeout=30).status_code == 403
    with service.dashboard() as dashboard:
        assert dashboard.get(path).status_code == 200


def test_no_replica_unpickles_what_a_stranger_sends(service: Service) -> None:
    replicas = list(replica_processes(service))
    assert len(replicas) >= 8
    for replica in replicas:
        codes = {code_of_a_call(port) for port in listening(replica)}
        # The others are ports that speak HTTP, or know no such method.
        assert grpc.StatusCode.UNAUTHENTICATED in codes
        assert codes <= {
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.UNIMPLEMENTED,
        }


def replica_processes(service: Service) -> Iterator[psutil.Process]:
    for process in psutil.Process(service.process.pid).children(recursive=True):
        if "ServeReplica" in " ".join(process.cmdline()):
            yield process


def listening(process: psutil.Process) -> set[int]:
    return {each.laddr.port for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN}


def code_of_a_call(port: int) -> grpc.StatusCode:
    """What a replica says to a pickled call that carries no token."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
        try:
            call(b"", timeout=10)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK
