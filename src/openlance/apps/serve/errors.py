"""Errors on the wire: whatever went wrong becomes a status and a body in OpenAI's form, with a sentence a person can act on."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from openlance.apps.serve.admission import QueueFull, Refused, TooLarge
from openlance.apps.serve.worker import DeadlineExceeded
from openlance.errors import Cancelled, LanceError

log = logging.getLogger("openlance.serve")
CLIENT_GONE = 499


class ApiError(HTTPException):
    """An error with OpenAI's fields. `kind`: OpenAI's `type`; `param`: the field at fault."""

    def __init__(
        self, status: int, message: str, kind: str = "invalid_request_error", code: str | None = None, param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(status, message, dict(headers or {}))
        self.kind = kind
        self.code = code
        self.param = param

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.detail, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """In ASCII: a message may quote text that has no UTF-8 form."""
        return Response(json.dumps(self.body()), self.status_code, self.headers, "application/json")


def api_error(error: BaseException) -> ApiError:
    """The ApiError that tells a client about `error`. What is no fault of the request and has no remedy says nothing of its inside."""
    import torch

    if isinstance(error, ApiError):
        return error
    if isinstance(error, Refused):
        status, code = (429, "queue_full") if isinstance(error, QueueFull) else (503, "shutting_down")
        kind = "rate_limit_error" if status == 429 else "server_error"
        return ApiError(status, str(error), kind, code, headers={"Retry-After": str(round(error.retry_after))})
    if isinstance(error, TooLarge):
        return ApiError(400, str(error), code="request_too_large")
    if isinstance(error, LanceError):
        return ApiError(400, str(error))
    if isinstance(error, DeadlineExceeded):
        message = f"the request was {error}: ask for less, or send it when fewer others run"
        return ApiError(504, message, "server_error", "deadline_exceeded")
    if isinstance(error, Cancelled):
        return ApiError(CLIENT_GONE, str(error), "server_error", "cancelled")
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        message = "memory ran out for this request; the others go on: ask for a smaller size, fewer frames or fewer media"
        return ApiError(503, message, "server_error", "out_of_memory", headers={"Retry-After": "5"})
    if isinstance(error, HTTPException):
        name = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
        return ApiError(error.status_code, str(error.detail), code=name, headers=error.headers)
    log.error("a request failed", exc_info=error)
    return ApiError(500, f"the server failed on this request ({type(error).__name__}); its log says more", "server_error", "internal_error")


def validation_error(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a body, by the name of its field."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first.get("loc", ())[1:])
    if first.get("type") == "json_invalid":
        reason = first.get("ctx", {}).get("error", "it cannot be parsed")
        return ApiError(400, f"the body is not valid JSON ({reason})", code="invalid_json")
    if first.get("type") == "extra_forbidden":
        return ApiError(400, f"unknown parameter '{where}': remove it", code="unknown_parameter", param=where)
    message = str(first.get("msg", "it is not valid"))
    return ApiError(400, f"{where or 'the body'}: {message}", code="invalid_value", param=where or None)


def install(app: FastAPI) -> None:
    """Answer the errors that endpoints raise on purpose in this form; `guard` answers all others."""

    async def on_error(_: Request, error: Exception) -> Response:
        return (validation_error(error) if isinstance(error, RequestValidationError) else api_error(error)).response()

    for kind in (RequestValidationError, HTTPException, LanceError, Refused, Cancelled):
        app.add_exception_handler(kind, on_error)
