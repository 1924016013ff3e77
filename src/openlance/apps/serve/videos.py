"""/v1/videos: clips as jobs that outlive the connection and the process."""

import asyncio
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import FileResponse

from openlance.apps.serve.admission import QueueFull
from openlance.apps.serve.errors import ApiError
from openlance.apps.serve.forms import Files, read_form
from openlance.apps.serve.jobs import Job, JobStore
from openlance.apps.serve.runner import JobRunner, build_request
from openlance.apps.serve.schemas import VideoCreate, VideoRemix, form_schema, size_of
from openlance.apps.serve.service import SEED_BITS, Service, ServiceOf
from openlance.errors import RequestError

if TYPE_CHECKING:
    from openlance.media.clip import Clip

router = APIRouter(prefix="/v1/videos", tags=["videos"])
VARIANTS = {"video": ("mp4", "video/mp4"), "thumbnail": ("webp", "image/webp"), "spritesheet": ("jpg", "image/jpeg")}
JobId = Annotated[str, "id of a job"]


def store_of(http: Request) -> JobStore:
    store: JobStore = http.app.state.jobs
    return store


def runner_of(http: Request) -> JobRunner:
    runner: JobRunner = http.app.state.runner
    return runner


def own_job(http: Request, video_id: str) -> Job:
    """The job of an id, if it belongs to the caller. Raises ApiError 404 alike for what is not there and what is another's."""
    job = store_of(http).get(video_id, http.state.owner)
    if job is None:
        message = f"there is no video '{video_id[:100]}': it was deleted, it expired or it never was"
        raise ApiError(404, message, code="not_found", param="video_id")
    return job


OwnJob = Annotated[Job, Depends(own_job)]
Store = Annotated[JobStore, Depends(store_of)]
Runner = Annotated[JobRunner, Depends(runner_of)]


@router.post("", summary="Start a video", openapi_extra=form_schema(VideoCreate, {"input_reference": False}))
async def create(http: Request, service: ServiceOf) -> dict[str, Any]:
    """`input_reference` is a picture, the first frame, or a clip, which is changed as told."""
    body, files = await read_form(http, VideoCreate, ("input_reference",))
    service.check_model(body.model)
    parameters = {**size_of(body.size), **body.parameters(), "num_frames": frames_of(service, body)}
    given = await _reference(service, files)
    return await _accept(http, service, body, parameters, given)


@router.post("/{video_id}/remix", summary="Change a finished video", openapi_extra=form_schema(VideoRemix, {}))
async def remix(http: Request, job: OwnJob, service: ServiceOf, store: Store) -> dict[str, Any]:
    """The new video keeps size and length of the one it comes from."""
    body, _ = await read_form(http, VideoRemix, ())
    service.check_model(body.model)
    given = await asyncio.to_thread(_content(job, store, "mp4").read_bytes)
    return await _accept(http, service, body, body.parameters(), given, job.id)


@router.get("", summary="All videos")
def index(
    http: Request,
    service: ServiceOf,
    store: Store,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    jobs = store.listed(http.state.owner, after, limit + 1, order == "desc")
    data = [video_of(service, job) for job in jobs[:limit]]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, "has_more": len(jobs) > limit, **ends}


@router.get("/{video_id}", summary="How far a video is")
def retrieve(job: OwnJob, service: ServiceOf) -> dict[str, Any]:
    return video_of(service, job)


@router.get("/{video_id}/content", summary="The file of a finished video", response_class=FileResponse)
def content(job: OwnJob, store: Store, variant: Literal["video", "thumbnail", "spritesheet"] = "video") -> FileResponse:
    suffix, kind = VARIANTS[variant]
    return FileResponse(_content(job, store, suffix), media_type=kind, filename=f"{job.id}.{suffix}")


@router.post("/{video_id}/cancel", summary="Stop a video")
def cancel(http: Request, job: OwnJob, service: ServiceOf, runner: Runner) -> dict[str, Any]:
    """The video becomes `failed` with the code `cancelled`; a finished one stays as it is."""
    runner.cancel(job.id)
    return video_of(service, own_job(http, job.id))


@router.delete("/{video_id}", summary="Remove a video")
def delete(job: OwnJob, store: Store, runner: Runner) -> dict[str, Any]:
    """Stops it if it is not finished."""
    runner.cancel(job.id)
    store.delete(job.id)
    return {"id": job.id, "object": "video.deleted", "deleted": True}


async def _reference(service: Service, files: Files) -> bytes | None:
    """The bytes of the reference, uploaded or named by an address, or None."""
    uploads = files.uploads.get("input_reference", [])
    value = files.values.get("input_reference")
    if len(uploads) + (value is not None) > 1:
        raise ApiError(400, "input_reference: one picture or one clip", code="invalid_value", param="input_reference")
    if uploads:
        return uploads[0]
    if value is None:
        return None
    url = value.get("image_url") if isinstance(value, dict) else value
    if not isinstance(url, str):
        raise ApiError(400, "input_reference: a file, a data URL or {'image_url': URL}", code="invalid_value", param="input_reference")
    return await service.media.read_url(url)


async def _accept(
    http: Request, service: Service, body: VideoCreate | VideoRemix, parameters: dict[str, Any], given: bytes | None, old: str | None = None
) -> dict[str, Any]:
    """Check that the model and the machine can do it, write it down, and only then promise it."""
    store, runner = store_of(http), runner_of(http)
    clips: list[Clip] = [] if given is None else [await service.media.from_bytes(given)]
    stored = {
        "prompt": body.prompt,
        "seed": secrets.randbits(SEED_BITS) if body.seed is None else body.seed,
        "parameters": {name: value for name, value in parameters.items() if value is not None},
        "remixed": old,
    }
    counts = await asyncio.to_thread(store.counts)
    if counts.get("queued", 0) >= service.settings.max_jobs:
        raise QueueFull(f"{counts['queued']} videos are waiting already, which is the limit: try again later", 30.0)
    planned, _ = await asyncio.to_thread(service.worker.plan, build_request(service.worker, stored, clips))
    assert planned.target is not None
    config = service.worker.lance.config
    t, h, w = planned.target
    stored["size"] = f"{w * config.spatial_stride}x{h * config.spatial_stride}"
    stored["seconds"] = ((t - 1) * config.temporal_stride + 1) / config.media.fps
    stored["notices"] = planned.notices
    job = await asyncio.to_thread(store.create, http.state.owner, stored, given)
    runner.nudge()
    return video_of(service, job)


def frames_of(service: Service, body: VideoCreate) -> int | None:
    """Frames of a video of so many seconds: the nearest number of the form stride * k + 1. Raises RequestError beyond the model's."""
    if body.num_frames is not None or body.seconds is None:
        return body.num_frames
    config = service.worker.lance.config
    stride, fps, most = config.temporal_stride, config.media.fps, config.media.max_frames
    frames = max(0, round((body.seconds * fps - 1) / stride)) * stride + 1
    if frames > most:
        raise RequestError(f"seconds {body.seconds:g} are {frames} frames: this model makes {most} at most, which are {most / fps:.1f} s")
    return frames


def video_of(service: Service, job: Job) -> dict[str, Any]:
    """A job as OpenAI shows it, with the seed and what was adjusted beside."""
    asked = job.request
    expires = None if job.finished is None else int(job.finished + service.settings.job_seconds)
    return {
        "id": job.id,
        "object": "video",
        "model": service.model_id,
        "status": job.status,
        "progress": 100 if job.status == "completed" else job.progress,
        "created_at": int(job.created),
        "completed_at": int(job.finished) if job.finished and job.status == "completed" else None,
        "expires_at": expires,
        "size": asked["size"],
        "seconds": f"{asked['seconds']:g}",
        "prompt": asked["prompt"],
        "error": job.error,
        "remixed_from_video_id": asked.get("remixed"),
        "seed": asked["seed"],
        "notices": asked.get("notices", []),
    }


def _content(job: Job, store: JobStore, suffix: str) -> Path:
    path = store.path(job.id, suffix)
    if job.status != "completed" or not path.exists():
        message = f"the video is {job.status} and has no content: wait until its status is completed"
        raise ApiError(409, message, code="not_ready", param="video_id")
    return path
