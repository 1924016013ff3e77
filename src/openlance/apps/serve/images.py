"""/v1/images: new pictures, and pictures changed as told."""

import asyncio
import base64
import dataclasses
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.responses import JSONResponse, Response
from sse_starlette import ServerSentEvent

from openlance.apps.serve.errors import ApiError
from openlance.apps.serve.forms import read_form
from openlance.apps.serve.media import data_url
from openlance.apps.serve.schemas import ImageCreate, ImageEdit, form_schema, size_of
from openlance.apps.serve.service import Service, ServiceOf, extras, seeds
from openlance.apps.serve.sse import EventStream, Feed, event_of
from openlance.apps.serve.worker import Handle
from openlance.media.encode import encode

if TYPE_CHECKING:
    from openlance.engine.request import Progress
    from openlance.engine.request import Request as EngineRequest
    from openlance.media.clip import Clip

router = APIRouter(prefix="/v1/images", tags=["images"])


@router.post("/generations", summary="New pictures of a prompt")
async def generations(http: Request, service: ServiceOf, body: Annotated[ImageCreate, Body()]) -> Response:
    """With `stream`, previews and then the picture as events."""
    return await respond(http, service, body, [], "image_generation")


@router.post("/edits", summary="Pictures changed as told", openapi_extra=form_schema(ImageEdit, {"image": True}, ("image",)))
async def edits(http: Request, service: ServiceOf) -> Response:
    """One picture or several; the last one sets the size."""
    body, files = await read_form(http, ImageEdit, ("image", "mask"))
    if "mask" in files.uploads or files.values.get("mask"):
        raise ApiError(400, "masks are not supported: say in the prompt what changes", code="unsupported_parameter", param="mask")
    given = files.values.get("image")
    urls = given if isinstance(given, list) else [given] if given is not None else []
    uploads = files.uploads.get("image", [])
    if not uploads and not urls:
        raise ApiError(400, "image: a picture is needed, as a file or a data URL", code="missing_parameter", param="image")
    if len(uploads) + len(urls) > service.settings.max_media or not all(isinstance(url, str) for url in urls):
        raise ApiError(400, f"image: give at most {service.settings.max_media} files or data URLs", code="invalid_value", param="image")
    clips = [await service.media.from_bytes(data, "image") for data in uploads]
    clips += [await service.media.from_url(url, "image") for url in urls]
    return await respond(http, service, body, clips, "image_edit")


async def respond(http: Request, service: Service, body: ImageCreate, clips: "list[Clip]", event: str) -> Response:
    """Pictures of a body, from `clips` where there are any; as JSON or as events."""
    service.check_model(body.model)
    requests = requests_of(service, body, clips)
    kind = body.output_format or "png"
    if body.stream:
        if len(requests) > 1:
            raise ApiError(400, "n: a stream gives one picture", code="invalid_value", param="n")
        return await _stream(service, requests[0], body.partial_images or 0, kind, event)
    handles = await service.finish(requests, http)
    data = [await asyncio.to_thread(encode, picture_of(handle), kind) for handle in handles]
    return JSONResponse(
        {
            **_description(handles[0], kind),
            "data": [{"url": data_url(p, f"image/{kind}")} if body.response_format == "url" else {"b64_json": base64_of(p)} for p in data],
            "usage": usage(handles),
            **extras(handles),
        }
    )


def requests_of(service: Service, body: ImageCreate, clips: "list[Clip]") -> "list[EngineRequest]":
    """One engine request a picture."""
    from openlance.sequence.tasks import infer_task

    task = infer_task("image", ("image",) * len(clips))
    parameters = {**size_of(body.size), **body.parameters()}
    return [service.worker.lance.request(task, body.prompt, clips, seed=seed, **parameters) for seed in seeds(body.seed, body.n or 1)]


async def _stream(service: Service, request: "EngineRequest", previews: int, kind: str, event: str) -> Response:
    feed: Feed[Progress] = Feed()
    steps = request.image.resolve(service.worker.lance.config).num_inference_steps or 1
    every = max(1, steps // (previews + 1)) if previews else 0
    request = dataclasses.replace(request, on_progress=feed.put, image=dataclasses.replace(request.image, preview_every=every))
    handles = await service.submit([request])
    return EventStream(_events(feed, handles, previews, kind, event), handles)


async def _events(
    feed: "Feed[Progress]", handles: Sequence[Handle], previews: int, kind: str, event: str
) -> AsyncIterator[ServerSentEvent]:
    index = 0
    async for progress in feed.items(handles):
        if progress.preview is not None and index < previews:
            data = await asyncio.to_thread(encode, progress.preview, kind)
            name = f"{event}.partial_image"
            values = {"type": name, "b64_json": base64_of(data), "partial_image_index": index, "created_at": int(time.time())}
            yield event_of({**values, "output_format": kind, "background": "opaque", "quality": "auto", "size": "auto"}, name)
            index += 1
    data = await asyncio.to_thread(encode, picture_of(handles[0]), kind)
    name = f"{event}.completed"
    description = _description(handles[0], kind)
    values = {"type": name, "b64_json": base64_of(data), "created_at": description.pop("created"), "quality": "auto"}
    yield event_of({**values, **description, "usage": usage(handles), **extras(handles)}, name)


def picture_of(handle: Handle) -> "Clip":
    """The clip that a finished request made. Raises what the request raised."""
    clip = handle.future.result().clip
    if clip is None:
        raise ApiError(500, "the request made no picture", "server_error", "internal_error")
    return clip


def _description(handle: Handle, kind: str) -> dict[str, Any]:
    clip = picture_of(handle)
    return {"created": int(time.time()), "background": "opaque", "output_format": kind, "size": f"{clip.width}x{clip.height}"}


def usage(handles: Sequence[Handle]) -> dict[str, Any]:
    """Tokens in and out, as OpenAI counts them."""
    given = sum(handle.cost.prompt_tokens for handle in handles)
    media = sum(handle.cost.media_tokens for handle in handles)
    made = sum(t * h * w for t, h, w in (handle.plan.target or (0, 0, 0) for handle in handles))
    return {
        "input_tokens": given,
        "input_tokens_details": {"text_tokens": given - media, "image_tokens": media},
        "output_tokens": made,
        "total_tokens": given + made,
    }


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
