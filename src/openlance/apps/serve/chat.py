"""/v1/chat/completions: questions about text, pictures and clips, and pictures and clips as answers."""

import asyncio
import dataclasses
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.responses import JSONResponse, Response
from sse_starlette import ServerSentEvent

from openlance.apps.serve.errors import ApiError
from openlance.apps.serve.images import picture_of
from openlance.apps.serve.media import data_url
from openlance.apps.serve.schemas import ChatCreate, Message, Part, size_of
from openlance.apps.serve.service import Service, ServiceOf, extras, seeds
from openlance.apps.serve.sse import EventStream, Feed, event_of
from openlance.apps.serve.worker import Handle

if TYPE_CHECKING:
    from openlance.engine.request import Request as EngineRequest
    from openlance.media.clip import Clip

router = APIRouter(prefix="/v1/chat", tags=["chat"])


@dataclass(frozen=True)
class Asked:
    """What a list of messages comes down to: the last words of the user, the media they are about, and a SYSTEM text if one was given.

    Media are those of the last user message; if it has none, those of the latest message that has any.
    """

    prompt: str
    media: "list[Clip]"
    system: str | None


@router.post("/completions", summary="An answer to a conversation")
async def completions(http: Request, service: ServiceOf, body: Annotated[ChatCreate, Body()]) -> Response:
    """With `stream`, pieces of text as events, closed by [DONE]."""
    service.check_model(body.model)
    asked = await read_messages(service, body.messages)
    requests = requests_of(service, body, asked)
    about = {"id": f"chatcmpl-{secrets.token_urlsafe(18)}", "created": int(time.time()), "model": service.model_id}
    if body.stream:
        return await _stream(service, requests, about, bool(body.stream_options and body.stream_options.include_usage))
    handles = await service.finish(requests, http)
    choices = [
        {"index": i, "message": await message_of(handle), "finish_reason": finish_reason(service, handle), "logprobs": None}
        for i, handle in enumerate(handles)
    ]
    return JSONResponse({**about, "object": "chat.completion", "choices": choices, "usage": usage(handles), **extras(handles)})


async def read_messages(service: Service, messages: Sequence[Message]) -> Asked:
    """Raises ApiError when there is no user message, MediaError for media that cannot be read."""
    last = next((i for i, message in reversed(list(enumerate(messages))) if message.role == "user"), None)
    if last is None:
        raise ApiError(400, "messages: there is no user message to answer", code="invalid_value", param="messages")
    prompt, parts = _parts(messages[last])
    for earlier in [*reversed(messages[:last])] if not parts else []:
        _, parts = _parts(earlier)
        if parts:
            break
    if len(parts) > service.settings.max_media:
        raise ApiError(400, f"messages: at most {service.settings.max_media} media", code="invalid_value", param="messages")
    system = "\n".join(_parts(m)[0] for m in messages if m.role in ("system", "developer")) or None
    return Asked(prompt, [await service.media.from_url(url, kind) for kind, url in parts], system)


def _parts(turn: Message) -> tuple[str, list[tuple[str, str]]]:
    """(text, [(kind, address) of each medium]) of a message."""
    content = [Part(type="text", text=turn.content)] if isinstance(turn.content, str) else turn.content or []
    texts, media = [], []
    for part in [*content, *(turn.images or [])]:
        given = {"text": part.text, "image_url": part.image_url, "video_url": part.video_url}[part.type]
        if given is None:
            message = f"messages: a part of type '{part.type}' lacks its field '{part.type}'"
            raise ApiError(400, message, code="invalid_value", param="messages")
        if part.type == "text":
            texts.append(str(given))
        else:
            media.append((part.type.removesuffix("_url"), given if isinstance(given, str) else given.url))
    return "\n".join(texts), media


def requests_of(service: Service, body: ChatCreate, asked: Asked) -> "list[EngineRequest]":
    """One engine request a choice."""
    from openlance.sequence.tasks import infer_task

    wanted = [kind for kind in body.modalities or () if kind != "text"]
    if len(wanted) > 1:
        raise ApiError(400, "modalities: one of image and video at a time", code="invalid_value", param="modalities")
    output = wanted[0] if wanted else "text"
    kinds = tuple("image" if clip.is_image else "video" for clip in asked.media)
    task = infer_task(output, kinds, first_frame=output == "video" and kinds == ("image",))
    if output == "text":
        parameters: dict[str, Any] = {
            "max_new_tokens": body.max_completion_tokens or body.max_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "stop": (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        }
    else:
        frames = body.num_frames if output == "video" else None
        parameters = {**size_of(body.size), "num_frames": frames, **body.parameters()}
    make = service.worker.lance.request
    used = seeds(body.seed, body.n or 1)
    return [make(task, asked.prompt, asked.media, seed=seed, system=asked.system, **parameters) for seed in used]


async def message_of(handle: Handle) -> dict[str, Any]:
    """The assistant's turn: text, or a picture or clip as a data URL."""
    result = handle.future.result()
    if result.clip is None:
        return {"role": "assistant", "content": result.text or "", "refusal": None}
    return {"role": "assistant", "content": "", "refusal": None, "images": [await medium_part(handle)]}


async def medium_part(handle: Handle) -> dict[str, Any]:
    """A message part with what a request made, in a form that the next request may send back."""
    from openlance.media.encode import encode

    clip = picture_of(handle)
    video = handle.plan.request.task.output == "video"
    data = await asyncio.to_thread(encode, clip, "mp4" if video else "png")
    kind = "video_url" if video else "image_url"
    return {"type": kind, kind: {"url": data_url(data, "video/mp4" if video else "image/png")}}


def finish_reason(service: Service, handle: Handle) -> str:
    """`length` when the answer was cut at its limit, else `stop`."""
    result = handle.future.result()
    limit = handle.plan.request.text.resolve(service.worker.lance.config).max_new_tokens or 0
    return "length" if result.clip is None and len(result.token_ids) >= limit else "stop"


def usage(handles: Sequence[Handle]) -> dict[str, Any]:
    """Tokens of the prompt, counted once, and of all choices."""
    given = handles[0].cost.prompt_tokens
    made = 0
    for handle in handles:
        t, h, w = handle.plan.target or (0, 0, 0)
        made += len(handle.future.result().token_ids) + t * h * w
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}


async def _stream(service: Service, requests: "list[EngineRequest]", about: dict[str, Any], with_usage: bool) -> Response:
    feed: Feed[tuple[int, str]] = Feed()

    def give(index: int, piece: str) -> None:
        feed.put((index, piece))

    handles = await service.submit(
        [dataclasses.replace(request, on_text=lambda piece, i=i: give(i, piece)) for i, request in enumerate(requests)]  # type: ignore[misc]
    )
    return EventStream(_events(service, feed, handles, {**about, "object": "chat.completion.chunk"}, with_usage), handles)


async def _events(
    service: Service, feed: Feed[tuple[int, str]], handles: list[Handle], about: dict[str, Any], with_usage: bool
) -> AsyncIterator[ServerSentEvent]:
    def chunk(index: int, delta: dict[str, Any], reason: str | None = None) -> ServerSentEvent:
        tail = {"usage": None} if with_usage else {}
        return event_of({**about, "choices": [{"index": index, "delta": delta, "finish_reason": reason, "logprobs": None}], **tail})

    for index in range(len(handles)):
        yield chunk(index, {"role": "assistant", "content": ""})
    first = True
    async for index, piece in feed.items(handles):
        if first:
            service.worker.metrics.first_token.observe(time.monotonic() - handles[index].arrived)
            first = False
        yield chunk(index, {"content": piece})
    for index, handle in enumerate(handles):
        result = handle.future.result()
        yield chunk(index, {"images": [await medium_part(handle)]} if result.clip else {}, finish_reason(service, handle))
    if with_usage:
        yield event_of({**about, "choices": [], "usage": usage(handles), **extras(handles)})
    yield ServerSentEvent("[DONE]", sep="\n")
