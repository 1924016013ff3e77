"""Preparing a request: sizes decided, media resized and encoded, segments bound, guidance branches laid out."""

import dataclasses
from dataclasses import dataclass, field

from openlance.engine.history import History
from openlance.engine.prefill import Branch, MediumTokens
from openlance.engine.preprocess import PreparedMedium, prepare_medium
from openlance.engine.request import ImageSampling, Request
from openlance.errors import RequestError
from openlance.model.config import LanceConfig
from openlance.model.lance import LanceModel
from openlance.model.pixels import to_pixels
from openlance.sequence.bind import Binder, Grid, MediumGrids
from openlance.sequence.positions import positions, spans_of
from openlance.sequence.segment import CONDITION_ROLES, PROMPT_ROLES, Kind, Role, Segment, without
from openlance.sequence.tasks import Task


@dataclass
class Plan:
    """Everything about a request that is known before any part of the model has run: its exact size, so what it will cost."""

    request: Request
    sampling: ImageSampling
    branches: list[Branch]
    media: list[PreparedMedium]
    """The media that are new to the conversation, to be encoded."""
    target: Grid | None
    notices: list[str] = field(default_factory=list)
    first_frame: int | None = None
    """Which medium of the conversation gives the target's first latent frame."""


def encode_medium(model: LanceModel, medium: PreparedMedium) -> MediumTokens:
    """Vision tokens and latents of a prepared medium."""
    vision = latent = None
    if medium.vision is not None:
        (vision,) = model.vision([model.vision.patchify(medium.vision)])
    if medium.latent is not None:
        latent = model.autoencoder.encode(to_pixels(medium.latent).to(model.device))[0]
    return MediumTokens(vision, latent)


def grids_of(model: LanceModel, medium: PreparedMedium) -> MediumGrids:
    """Token grids of a prepared medium, without encoding it."""
    vision = None if medium.vision is None else model.vision.token_grid(*medium.vision.shape[:3])
    latent = None if medium.latent is None else model.config.latent_grid(*medium.latent.shape[:3])
    return MediumGrids(vision, latent)


def plan(model: LanceModel, binder: Binder, request: Request) -> Plan:
    """Resize the media of a request and lay out its branches; nothing of the model runs, so any thread may plan."""
    task, history = request.task, request.history or History()
    sampling = request.image.resolve(model.config)
    kinds = frozenset(task.blocks) | ({Kind.LATENT} if task.clean_frames else frozenset())
    _check_parts(model, task, kinds)
    prepared = [prepare_medium(model, clip, kinds, request.resolution) for clip in request.media]
    notices: list[str] = []
    target = None if task.output == "text" else target_grid(model.config, request, prepared, notices)
    known = [history.find(clip) for clip in request.media]
    fresh = [medium for medium, index in zip(prepared, known, strict=True) if index is None]
    used = [index for index in known if index is not None]
    segments = history.continued(task, used) or binder.system(task, request.system)
    segments += binder.blocks(task, [grids_of(model, medium) for medium in fresh], first_medium=len(history.media))
    segments += binder.prompt(request.prompt)
    segments += [*binder.target(task, target), *binder.closing()] if target else []
    tokens = sum(len(segment) for segment in segments)
    limit = model.config.transformer.max_position_embeddings
    if tokens > limit:
        raise RequestError(
            f"the request is {tokens} tokens long and the model takes {limit}: use fewer, smaller or shorter media, "
            f"or shorten the prompt (it has {len(binder.tokenizer.encode(request.prompt))})"
        )
    notices += binder.known_words.notices(request.prompt) if binder.known_words else ()
    first_frame = (used[0] if used else len(history.media)) if task.clean_frames else None
    return Plan(request, sampling, lay_out(model.config, segments, sampling), fresh, target, notices, first_frame)


def _check_parts(model: LanceModel, task: Task, kinds: frozenset[Kind]) -> None:
    """A checkpoint may come without its encoders. Raises RequestError when the task needs one that is not there."""
    missing = [(Kind.VISION in kinds and model.vision is None, "vision encoder")]
    missing += [((Kind.LATENT in kinds or task.output != "text") and model.autoencoder is None, "autoencoder")]
    for absent, part in missing:
        if absent:
            raise RequestError(f"'{model.config.name}' has no {part}, which the task '{task.name}' needs: load a checkpoint that has one")


def lay_out(config: LanceConfig, segments: list[Segment], sampling: ImageSampling) -> list[Branch]:
    """The branches that guidance needs: full, without the prompt, without any condition."""
    guidance = sampling.guidance()
    full = branch_of(config, segments)
    if full.fixed == len(segments):
        return [full]
    branches = [full]
    if guidance.drops_prompt:
        dropped = branch_of(config, without(segments, PROMPT_ROLES))
        shipped = sampling.guidance_positions == "shipped"
        branches.append(_with_conditional_positions(dropped, full) if shipped else dropped)
    if guidance.drops_all:
        branches.append(branch_of(config, without(segments, CONDITION_ROLES)))
    return branches


def branch_of(config: LanceConfig, segments: list[Segment]) -> Branch:
    """A branch with its own positions; everything before the target is fixed."""
    anchors = config.anchors
    fixed = next((i for i, segment in enumerate(segments) if segment.role is Role.TARGET), len(segments))
    place = positions(segments, anchors.vision, anchors.reference, anchors.understanding)
    return Branch(tuple(segments), place, fixed)


def _with_conditional_positions(dropped: Branch, full: Branch) -> Branch:
    """The released cached sampler numbers what follows the dropped prompt, up to the target, as if the prompt were there."""
    place = dropped.positions.clone()
    spans, full_spans = spans_of(dropped.segments), spans_of(full.segments)
    prompt = next((i for i, segment in enumerate(full.segments) if segment.role is Role.PROMPT), full.fixed)
    for i in range(prompt, dropped.fixed):
        place[:, spans[i]] = full.positions[:, full_spans[i + 1]]
    return dataclasses.replace(dropped, positions=place)


def target_grid(config: LanceConfig, request: Request, prepared: list[PreparedMedium], notices: list[str]) -> Grid:
    """Latent grid of what is produced; sizes that do not fit are rounded with a notice."""
    task, media = request.task, config.media
    last = next((medium.latent for medium in reversed(prepared) if medium.latent is not None), None)
    frames, (height, width) = (1, media.image_size) if task.output == "image" else (media.num_frames, media.video_size)
    if last is not None and (task.keeps_size or task.clean_frames):
        height, width = last.shape[1], last.shape[2]
        frames = last.shape[0] if task.keeps_size else frames
    if not task.clean_frames:
        height = _side("height", request.height, config, height, notices)
        width = _side("width", request.width, config, width, notices)
    if task.output == "video":
        frames = _frames(request.num_frames or frames, config, notices)
    return config.latent_grid(frames, height, width)


def _side(name: str, wanted: int | None, config: LanceConfig, default: int, notices: list[str]) -> int:
    if wanted is None:
        return default
    media, unit = config.media, config.spatial_stride
    if not isinstance(wanted, int) or not unit <= wanted <= media.max_side:
        raise RequestError(f"{name} {wanted} must be an integer from {unit} to {media.max_side} pixels")
    rounded = max(unit, round(wanted / unit) * unit)
    if rounded != wanted:
        notices.append(f"{name} {wanted} is not a multiple of {unit}: {rounded} is used")
    return rounded


def _frames(wanted: int, config: LanceConfig, notices: list[str]) -> int:
    if not isinstance(wanted, int) or not 1 <= wanted <= config.media.max_frames:
        raise RequestError(f"num_frames {wanted} must be an integer from 1 to {config.media.max_frames}")
    stride = config.temporal_stride
    rounded = round((wanted - 1) / stride) * stride + 1
    if rounded > config.media.max_frames:
        rounded -= stride
    if rounded != wanted:
        notices.append(f"num_frames {wanted} is not of the form {stride}k+1: {rounded} is used")
    return rounded
