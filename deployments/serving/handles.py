"""Calls to other replicas, with Ray's errors turned into ours. Knows handles; nothing of what they serve."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from core.errors import GenerationFailed, LimnerError, NotReady, QueueFull
from core.types import Accepted, Completed, PipelineEvent
from deployments.serving.affinity import routing_id

if TYPE_CHECKING:
    from deployments.engine.request import DenoiseEvent, DenoiseRequest
    from deployments.pipeline.denoising import Denoise

_ATTEMPTS = 3


def denoise_through(denoiser: DeploymentHandle[Any]) -> Denoise:
    """The Denoiser's ``denoise`` streams as pipelines want them, from a replica near its adapters."""

    async def denoise(request: DenoiseRequest) -> AsyncGenerator[DenoiseEvent, None]:
        from deployments.pipeline.denoising import ReplicaLost

        adapters = routing_id(adapter.adapter_id for adapter in request.adapters)
        streaming: Any = denoiser.options(stream=True, multiplexed_model_id=adapters)
        events = streaming.denoise.remote(request)
        try:
            async for event in events:
                yield event
        except RayTaskError as error:
            raise _cause(error) from None
        except RayActorError as error:
            raise ReplicaLost from error
        except BackPressureError as error:
            raise QueueFull("The denoisers' queues are full.", retry_after_s=1) from error
        finally:
            # Without effect on a stream that has ended; otherwise the engine drops the request.
            events.cancel()

    return denoise


def pictures_through(
    handle: DeploymentHandle[Any], method: str = "generate"
) -> Callable[[Any], AsyncGenerator[PipelineEvent, None]]:
    """The streams of another pipeline's replicas.

    When a replica dies, the request starts over on another one: its seed makes the same pictures, so the
    caller notices a pause and nothing else. Raises the ``LimnerError`` that ended the request.
    """
    stream: Any = getattr(handle.options(stream=True), method)

    async def generate(spec: Any) -> AsyncGenerator[PipelineEvent, None]:
        accepted = False
        for _ in range(_ATTEMPTS):
            try:
                with _rays_errors_as_ours():
                    async with aclosing(_attempt(stream, spec)) as events:
                        async for event in events:
                            if isinstance(event, Accepted) and accepted:
                                continue
                            accepted = True
                            yield event
                            if isinstance(event, Completed):
                                return
            except RayActorError:
                continue
        raise GenerationFailed(f"Its replica was lost {_ATTEMPTS} times.", retry_after_s=5)

    return generate


async def ask(handle: DeploymentHandle[Any], method: str, *arguments: Any) -> Any:
    """The answer of ``method``; a replica that dies on the way is asked again.

    Raises the ``LimnerError`` that the replica raised.
    """
    for _ in range(_ATTEMPTS):
        try:
            with _rays_errors_as_ours():
                return await getattr(handle, method).remote(*arguments)
        except RayActorError:
            continue
    raise GenerationFailed(f"Its replica was lost {_ATTEMPTS} times.", retry_after_s=5)


async def _attempt(stream: Any, spec: Any) -> AsyncGenerator[PipelineEvent, None]:
    events = stream.remote(spec)
    try:
        async for event in events:
            yield event
    finally:
        # Without effect on a stream that has ended; otherwise the replica stops within one step.
        events.cancel()


@contextmanager
def _rays_errors_as_ours() -> Iterator[None]:
    """All but the loss of a replica, after which callers try another one."""
    try:
        yield
    except RayTaskError as error:
        raise _cause(error) from None
    except BackPressureError as error:
        raise QueueFull("Every replica of the pipeline is at its limit.", retry_after_s=1) from error
    except DeploymentUnavailableError as error:
        raise NotReady("No replica of the pipeline is running.", retry_after_s=5) from error


def _cause(error: RayTaskError) -> Exception:
    return error.cause if isinstance(error.cause, LimnerError) else error
