"""Multipart bodies: fields into a typed model, files as bytes; a JSON body with the same fields is taken too."""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from openlance.apps.serve.errors import ApiError

B = TypeVar("B", bound=BaseModel)
MAX_FILES = 32
MAX_FIELDS = 64
JSON_FIELDS = ("guidance_interval",)
"""Fields that are no single value: written as JSON in a form."""


@dataclass
class Files:
    """Uploads by field, as bytes, and the fields of a JSON body that stand in their place."""

    uploads: dict[str, list[bytes]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


async def read_form(http: Request, model: type[B], files: Collection[str]) -> tuple[B, Files]:
    """The body as `model` and its files. Fields named in `files` may be uploads, or anything in JSON. Raises ApiError and the like."""
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    given = Files()
    values: dict[str, Any] = {}
    if kind == "application/json":
        values = await _json(http)
        given.values = {name: values.pop(name) for name in list(values) if name in files}
    elif kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        async with http.form(max_files=MAX_FILES, max_fields=MAX_FIELDS) as form:
            for key, value in form.multi_items():
                name = key.removesuffix("[]")
                if isinstance(value, UploadFile):
                    if name not in files:
                        raise ApiError(400, f"unknown file '{name}': remove it", code="unknown_parameter", param=name)
                    given.uploads.setdefault(name, []).append(await value.read())
                elif name in files:
                    given.values[name] = value
                else:
                    values[name] = _field(name, value, [v for k, v in form.multi_items() if k == key])
    else:
        raise ApiError(415, f"content type '{kind[:100]}' is not taken here: send multipart/form-data or application/json")
    try:
        return model.model_validate(values), given
    except ValidationError as error:
        raise RequestValidationError([{**item, "loc": ("body", *item["loc"])} for item in error.errors()]) from error


async def _json(http: Request) -> dict[str, Any]:
    try:
        values = json.loads(await http.body())
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not valid JSON ({str(error)[:100]})", code="invalid_json") from error
    if not isinstance(values, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return values


def _field(name: str, value: str, every: list[Any]) -> Any:
    if name not in JSON_FIELDS:
        return value
    if len(every) > 1:
        return every
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
