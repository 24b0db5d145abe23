"""The thread that steps an engine. Knows when to step and when to sleep, nothing of what a step does."""

from __future__ import annotations

import logging
import threading

from core.errors import GenerationFailed
from core.telemetry import log, logger
from deployments.engine.engine import Engine

_LOG = logger(__name__)


class EngineThread:
    """Steps ``engine`` in a thread of its own for as long as there is work, and sleeps otherwise."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = threading.Thread(target=self._run, name="denoise-engine", daemon=True)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float | None = None) -> bool:
        """Hand every request back and wait; False when the thread is still in a step after ``timeout_s``."""
        self._engine.hand_back()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while self._engine.wait_for_work():
            try:
                self._engine.step()
            except Exception as error:  # a fault of the engine itself: end what is there, serve what comes
                log(_LOG, logging.ERROR, "engine step failed", error=type(error).__name__, detail=str(error))
                self._engine.fail_all(GenerationFailed("the denoiser failed"))
