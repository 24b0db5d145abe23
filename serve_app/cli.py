"""The command line: ``limner serve`` runs the whole service on this machine, in a Ray cluster of its own.

``limner weights`` installs models for it, ``limner doctor`` tells which of them fit."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from core.settings import AppSettings, LocalServer, data_folder
from serve_app import doctor, weights_cli
from serve_app.ray_token import ray_token

SERVE_CONFIG = Path(__file__).resolve().parent.parent / "serve_config.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the ``limner`` script. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="limner", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="start everything on this machine; Ctrl-C stops it")
    serve.add_argument(
        "--config", type=Path, default=SERVE_CONFIG, help="serve_config.yaml to read arguments from"
    )
    weights_cli.add_commands(commands)
    doctor.add_command(commands, SERVE_CONFIG)
    options = parser.parse_args(argv)
    if options.command == "weights":
        return weights_cli.run(options)
    try:
        server = LocalServer.from_environment()
        settings = app_settings(options.config)
    except ValidationError as error:
        print(f"limner: {error}", file=sys.stderr)
        return 2
    if server.model is not None:
        settings = settings.model_copy(update={"model": server.model})
    if options.command == "doctor":
        return doctor.run(options, settings)
    if not weights_cli.ensure_installed(settings.model):
        return 1
    return run_local(server, settings)


def app_settings(config: Path) -> AppSettings:
    """The application's arguments from a Serve config file."""
    document = yaml.safe_load(config.read_text("utf-8"))
    (application,) = document["applications"]
    return AppSettings.model_validate(application.get("args", {}))


def is_free(host: str, port: int) -> bool:
    """Whether ``port`` can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_ports(number: int) -> list[int]:
    """``number`` different ports that nothing listens on."""
    probes = [socket.socket() for _ in range(number)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for HAProxy's files. Short: a Unix socket below it has 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="limner-", dir="/tmp") as folder:
        yield Path(folder)


# How replicas of one application talk to each other, here and on a cluster.
SPEECH = {
    # Handles speak gRPC instead of going through Ray's objects, which takes a quarter off what the service
    # adds to a picture. Its messages have 4 MB unless told: less than a training's photos.
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**29),
    # One event loop in a replica instead of three: each hand-over from thread to thread takes a tenth to a
    # quarter of a millisecond. Nothing of ours blocks the loop.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}


def ray_environment(server: LocalServer, scratch: Path, token: Path) -> dict[str, str]:
    """Environment of a Ray cluster that shares no port and no file with another on the same machine.

    Who has the secret in the file ``token`` may use it.
    """
    metrics_port, stats_port, fallback_port, grpc_port, first_http_port, first_grpc_port = free_ports(6)
    haproxy = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(scratch / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(scratch / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(scratch),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(scratch / "server-state"),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_port),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(grpc_port),
        # Router replicas listen on ports of this range themselves; a taken one is passed over.
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first_http_port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(min(first_http_port + 1_000, 65_535)),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first_grpc_port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(min(first_grpc_port + 1_000, 65_535)),
        # No load balancer stands in front of a laptop, so nothing has to notice that replicas leave.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    }
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "0.1",
        **SPEECH,
        **(haproxy if server.haproxy else {}),
    }


def run_local(server: LocalServer, settings: AppSettings) -> int:
    """Start a private Ray cluster and the application, and stay until SIGINT or SIGTERM."""
    if not is_free(server.host, server.port):
        print(f"limner: port {server.port} is in use; choose another with LIMNER_PORT", file=sys.stderr)
        return 1
    dashboard_port = server.dashboard_port
    if not is_free("127.0.0.1", dashboard_port):
        (dashboard_port,) = free_ports(1)
    started = time.monotonic()
    stop = threading.Event()
    _stop_on_signals(stop)
    with scratch_folder() as scratch:
        # Ray reads its environment when it is imported.
        os.environ.pop("RAY_ADDRESS", None)
        for name, value in ray_environment(server, scratch, ray_token(data_folder())).items():
            os.environ.setdefault(name, value)
        return _serve(server, settings, dashboard_port, started, stop)


def _stop_on_signals(stop: threading.Event) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())


def _serve(
    server: LocalServer, settings: AppSettings, dashboard_port: int, started: float, stop: threading.Event
) -> int:
    import ray
    from ray import serve

    from serve_app.app import build

    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
    print("limner: starting (a private Ray cluster, then the model)", flush=True)
    cluster: Any = ray.init(
        address="local",
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=dashboard_port,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    _stop_on_signals(stop)  # Ray has put handlers of its own there, which end the process at once
    try:
        serve.start(http_options={"host": server.host, "port": server.port})
        serve.run(build(settings), name="limner", route_prefix="/")
        url = f"http://{server.host}:{server.port}"
        print(
            f"limner: ready after {time.monotonic() - started:.0f} s\n"
            f"  API            {url}/v1/text-to-image\n"
            f"  documentation  {url}/docs\n"
            f"  Ray dashboard  http://127.0.0.1:{dashboard_port}{_asks_for()}\n"
            "Ctrl-C stops everything.",
            flush=True,
        )
        stop.wait()
        print("limner: stopping", flush=True)
    except RuntimeError as error:
        logs = Path(cluster.address_info["session_dir"]) / "logs" / "serve"
        print(f"limner: {error}\nThe replicas' logs are in {logs}", file=sys.stderr)
        return 1
    finally:
        serve.shutdown()
        ray.shutdown()
    return 0


def _asks_for() -> str:
    if os.environ["RAY_AUTH_MODE"] != "token":
        return ""
    return f" (asks once for the token in {os.environ['RAY_AUTH_TOKEN_PATH']})"


if __name__ == "__main__":
    sys.exit(main())
