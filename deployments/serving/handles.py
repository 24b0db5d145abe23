"""Calls to other replicas, with Ray's errors turned into ours. Knows handles; nothing of what they serve."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from core.errors import GenerationFailed, LimnerError, QueueFull

if TYPE_CHECKING:
    from deployments.engine.request import DenoiseEvent, DenoiseRequest
    from deployments.pipeline.denoising import Denoise

_ATTEMPTS = 3


def denoise_through(denoiser: DeploymentHandle[Any]) -> Denoise:
    """The Denoiser's ``denoise`` streams as pipelines want them."""
    streaming: Any = denoiser.options(stream=True)

    async def denoise(request: DenoiseRequest) -> AsyncGenerator[DenoiseEvent, None]:
        from deployments.pipeline.denoising import ReplicaLost

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


async def ask(handle: DeploymentHandle[Any], method: str, *arguments: Any) -> Any:
    """The answer of ``method``; a replica that dies on the way is asked again.

    Raises the ``LimnerError`` that the replica raised.
    """
    for _ in range(_ATTEMPTS):
        response = getattr(handle, method).remote(*arguments)
        try:
            return await response
        except RayTaskError as error:
            raise _cause(error) from None
        except RayActorError:
            continue
        except BackPressureError as error:
            raise QueueFull("Too many requests wait for it.", retry_after_s=1) from error
    raise GenerationFailed(f"Its replica was lost {_ATTEMPTS} times.", retry_after_s=5)


def _cause(error: RayTaskError) -> Exception:
    return error.cause if isinstance(error.cause, LimnerError) else error
