"""What can go wrong with model files, in words that say what to do about it."""

from __future__ import annotations

from core.errors import LimnerError, NotFound


class BrokenWeights(LimnerError):
    """A model's files are missing or are not the ones its manifest lists."""

    code, title = "broken_weights", "Model files missing or corrupt"


class NotInstalled(NotFound):
    """The model is known, but its files are not on this machine."""

    code, title = "model_not_installed", "Model not installed"


class RefusedWeights(LimnerError):
    """A file offered as weights is not taken: a pickle, a wrong hash, truncated, of another model family."""

    status, code, title = 422, "refused_weights", "Weights refused"


class DownloadFailed(LimnerError):
    """The source could not be read to its end. What has arrived is kept: the next try goes on from there."""

    status, code, title, retryable = 502, "download_failed", "Download failed", True
