"""Errors a caller can act on: each message names the value, the limit and the remedy."""


class LanceError(ValueError):
    """Something given to openlance cannot be used as it is; the message says what to do."""


class MediaError(LanceError):
    """An image or a video that cannot be read, is too large, or cannot be written."""


class CheckpointError(LanceError):
    """A checkpoint that is missing, incomplete, misshapen or not ours to read."""


class RequestError(LanceError):
    """A request whose parameters do not fit the task or the model."""


class Cancelled(RuntimeError):
    """The request was cancelled by its owner before it finished."""


class MissingExtra(ImportError):
    """An optional package is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs the package '{package}': install it with  pip install 'openlance[{extra}]'")
