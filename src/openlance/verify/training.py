"""Cases of a training step: packed samples, noised targets, losses and gradients, through the package's own training path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from openlance.data.batch import TrainingBatch, assemble
from openlance.data.layout import Anchors
from openlance.data.sample import Sample
from openlance.flow.path import interpolate, shift_time, velocity_target
from openlance.model.lance import LanceModel
from openlance.sequence.bind import Binder, Grid, MediumGrids
from openlance.sequence.pack import PackedSequence, pack
from openlance.sequence.positions import positions
from openlance.sequence.segment import Kind, Role, Segment
from openlance.sequence.tasks import Task, infer_task
from openlance.train.losses import LossSums, LossWeights, Objective, Path, answer_losses, compute_loss, ragged
from openlance.verify.encoders import vision_tokens
from openlance.verify.golden import Case, Golden
from openlance.verify.sequence import compare_tokens, modality, modes, moving, states
from openlance.verify.tables import DEFAULT_LATENT_SIDE, flat_place
from openlance.verify.understanding import merged_causal

SAMPLE_TASK = {Role.SOURCE: 2, Role.REFERENCE: 3}
"""Codes of `sample_task`: what the media of a sample are for; 0 without them or for questions."""


@dataclass(frozen=True)
class Media:
    """Frames of all samples as recorded, encoded: vision tokens (n, D) with grids, latents (t, h, w, C), each in sequence order."""

    vision: list[tuple[Tensor, Grid]]
    latents: list[Tensor]


def check_training(golden: Golden, case: Case) -> None:
    """Compare everything that a training case holds."""
    model = golden.model(case)
    with torch.no_grad():
        media = _encode(case, model)
    samples = list(_samples(golden, case, model, media))
    documents = [sample.segments for sample in samples]
    places = [positions(list(segments), *_anchors(model)) for segments in documents]
    packed = pack(documents, places)
    side = golden.spec.get("max_latent_size", DEFAULT_LATENT_SIDE)
    _compare_packing(case, samples, packed, side)
    noise, times = _compare_noising(case, samples, packed)
    with torch.no_grad():
        latents = _noisy(samples, noise, times)
        vision = _features(samples, Kind.VISION)
        tokens = torch.cat(vision) if vision else None
        case.compare("lm.output", states(model, packed, latents, times, tokens)[1])
    _compare_losses(case, model, samples, noise, times, len(golden.binder.tokenizer))


def _anchors(model: LanceModel) -> tuple[int, int, bool]:
    """Training anchors vision tokens of questions too, whatever the checkpoint does at inference (SPEC section 4)."""
    return model.config.anchors.vision, model.config.anchors.reference, True


def _encode(case: Case, model: LanceModel) -> Media:
    """Both encoders over the recorded frames; where a case has none, the recorded features themselves."""
    vision: list[tuple[Tensor, Grid]] = []
    names = case.numbered("vit.frames_u8.")
    if names:
        frames = [case.tensor(name) for name in names]
        grids = [model.vision.token_grid(*medium.shape[:3]) for medium in frames]
        vision = list(zip(vision_tokens(model, frames), grids, strict=True))
        merge = model.vision.merge_size
        case.compare("vit.grid_thw", torch.tensor([[t, h * merge, w * merge] for t, h, w in grids]))
        case.compare("vit.embeds", torch.cat([tokens for tokens, _ in vision]))
    elif "vit.embeds" in case.tensors:
        merge = model.vision.merge_size
        grids = [(int(t), int(h) // merge, int(w) // merge) for t, h, w in case.tensor("vit.grid_thw")]
        parts = torch.split(case.tensor("vit.embeds"), [t * h * w for t, h, w in grids])
        vision = list(zip(parts, grids, strict=True))
    latents: list[Tensor] = []
    for index, shape in enumerate(case.scalars["vae_latent_shapes"]):
        if f"vae.frames_u8.{index}" in case.tensors:
            latents.append(model.autoencoder.encode(case.tensor(f"vae.frames_u8.{index}"))[0].cpu())
            case.compare(f"vae_latent.{index}", latents[-1])
        elif f"vae_latent.{index}" in case.tensors:
            latents.append(case.tensor(f"vae_latent.{index}"))
        else:
            start = sum(latent.shape[:3].numel() for latent in latents)
            t, h, w = shape
            latents.append(case.tensor("clean_latent")[start : start + t * h * w].reshape(t, h, w, -1))
    case.compare("vae_latent_shapes", [list(latent.shape[:3]) for latent in latents])
    return Media(vision, latents)


def _samples(golden: Golden, case: Case, model: LanceModel, media: Media) -> Iterator[Sample]:
    """The recorded samples as this package's training samples; media are taken in sequence order, as each sample's plan says."""
    vision, latents = iter(media.vision), iter(media.latents)
    grids = []
    for values in case.given("samples"):
        blocks = [item.partition("/") for item in values["sequence_plan"]]
        seen = [next(vision) for kind, _, _ in blocks if kind.startswith("vit")]
        kept = [next(latents) for kind, _, loss in blocks if kind.startswith("vae") and not loss]
        target = next((next(latents) for kind, _, loss in blocks if kind.startswith("vae") and loss), None)
        task = _task(values, len(seen), target)
        sample = _bind(golden.binder, task, golden, values, seen, kept, target)
        grids.append(_recorded_grids(sample.segments, model.vision.merge_size))
        yield sample
    case.compare("video_grid_thw", grids)


def _task(values: dict[str, Any], media: int, target: Tensor | None) -> Task:
    """The line of the task table that a sample is of. `dataset_type` is, e.g., text2image_general, image2image, x2t_general."""
    kind = str(values.get("dataset_type", ""))
    subject = any(word in kind for word in ("idip", "subject", "reference"))
    if target is None:
        return infer_task("text", ("image",) * media)
    output = "image" if target.shape[0] == 1 else "video"
    first = bool(values.get("frame_condition")) and output == "video"
    kinds = ("image",) if first else (output,) * media
    return infer_task(output, kinds, first_frame=first, subject=subject and media > 0)


def _bind(
    binder: Binder,
    task: Task,
    golden: Golden,
    values: dict[str, Any],
    seen: list[tuple[Tensor, Grid]],
    kept: list[Tensor],
    target: Tensor | None,
) -> Sample:
    """Segments in the order of every sequence, each with the features that fill it."""
    wording = golden.wording(values)
    prompt = "" if values.get("text_dropped") else wording.prompt
    grids = [MediumGrids(grid, _shape(latent)) for (_, grid), latent in zip(seen, [*kept, *[None] * len(seen)], strict=False)]
    segments = [*binder.system(task, wording.system), *binder.blocks(task, grids), *binder.prompt(prompt)]
    if target is None:
        segments += binder.answer(wording.answer)
    else:
        segments += [*binder.target(task, _shape(target) or (0, 0, 0)), *binder.closing()]
    features = []
    for segment in segments:
        source = None
        if segment.medium is not None:
            source = seen[segment.medium][0] if segment.kind is Kind.VISION else kept[segment.medium].flatten(0, 2)
        elif segment.kind is Kind.LATENT and target is not None:
            source = target.flatten(0, 2)
        features.append(source)
    return Sample(task.name, tuple(segments), tuple(features), branches=(0,) * len(segments))


def _shape(latent: Tensor | None) -> Grid | None:
    if latent is None:
        return None
    t, h, w, _ = latent.shape
    return t, h, w


def _recorded_grids(segments: tuple[Segment, ...], merge: int) -> list[list[int]]:
    return [[t, h * merge, w * merge] for t, h, w in (segment.grid for segment in segments if segment.grid is not None)]


def _compare_packing(case: Case, samples: list[Sample], packed: PackedSequence, side: int) -> None:
    """Everything about tokens, over all samples side by side."""
    compare_tokens(case, packed)
    segments = [segment for sample in samples for segment in sample.segments]
    codes = [modality(sample.segments, any(s.kind is Kind.LATENT for s in sample.segments)) for sample in samples]
    case.compare("modality", torch.cat(codes))
    case.compare("latent_position_ids", flat_place(packed.coordinates[:, packed.latent], side))
    case.compare("mse_indexes", torch.nonzero(moving(packed))[:, 0])
    learned = torch.nonzero(_learned(segments))[:, 0]
    case.compare("ce_indexes", learned - 1)
    case.compare("label_ids", packed.ids[learned])
    case.compare("total_mse_tokens", int(moving(packed).sum()))
    lengths = [sum(map(len, sample.segments)) for sample in samples]
    case.compare("sequence_length", len(packed))
    _compare_recorded_samples(case, samples, lengths)
    for name, ours in (("sample_lens", lengths), ("sample_type", ["gen" if cells_of(sample)[1] else "und" for sample in samples])):
        if name in case.scalars:  # the last entry is the reference's padding
            case.expect(name, ours, case.scalars[name][: len(samples)])
    case.seen |= {"split_lens", "attn_modes"}
    sizes, kinds = _split(samples)
    recorded = _recorded_split(case, lengths)
    if recorded is not None:
        case.expect("split_lens", sizes, recorded[0])
        case.expect("attn_modes", kinds, recorded[1])


def _learned(segments: list[Segment]) -> Tensor:
    return torch.tensor([s.kind is Kind.TEXT and s.role is Role.TARGET for s in segments for _ in range(len(s))])


def _compare_recorded_samples(case: Case, samples: list[Sample], lengths: list[int]) -> None:
    """Token counts of each sample, and per token what the media of its sample are for."""
    recorded = case.scalars["samples"]
    for index, (values, length) in enumerate(zip(recorded, lengths, strict=True)):
        if "num_tokens" in values:
            case.expect(f"samples.{index}.num_tokens", length, values["num_tokens"])
    codes = []
    for sample, values in zip(samples, recorded, strict=True):
        roles = {s.role for s in sample.segments if s.kind is Kind.LATENT}
        dropped = Role.SOURCE if values.get("vision_dropped") else None
        codes.append(next((code for role, code in SAMPLE_TASK.items() if role in roles or role is dropped), 0))
    case.compare("sample_task", torch.repeat_interleave(torch.tensor(codes), torch.tensor(lengths)))


def _split(samples: list[Sample]) -> tuple[list[int], list[str]]:
    sizes: list[int] = []
    kinds: list[str] = []
    for sample in samples:
        own = merged_causal([len(segment) for segment in sample.segments], modes(sample.segments))
        sizes, kinds = sizes + own[0], kinds + own[1]
    return sizes, kinds


def _recorded_split(case: Case, lengths: list[int]) -> tuple[list[int], list[str]] | None:
    """The recorded segments, neighbouring causal ones of a sample as one: the reference cuts them in places that change no mask."""
    if "split_lens" not in case.scalars or "attn_modes" not in case.scalars:
        return None
    ends = torch.tensor(lengths).cumsum(0)
    owner, position = [], 0
    for size in case.scalars["split_lens"]:
        owner.append(int((ends <= position).sum()))
        position += size
    rows = list(zip(owner, case.scalars["split_lens"], case.scalars["attn_modes"], strict=True))
    sizes: list[int] = []
    kinds: list[str] = []
    for _, group in groupby([row for row in rows if row[0] < len(lengths)], key=lambda row: row[0]):
        part = list(group)
        own = merged_causal([row[1] for row in part], [row[2] for row in part])
        sizes, kinds = sizes + own[0], kinds + own[1]
    return sizes, kinds


def _features(samples: list[Sample], kind: Kind) -> list[Tensor]:
    pairs = ((s, f) for sample in samples for s, f in zip(sample.segments, sample.features, strict=True))
    return [feature for segment, feature in pairs if segment.kind is kind and feature is not None]


def _compare_noising(case: Case, samples: list[Sample], packed: PackedSequence) -> tuple[Tensor, Tensor]:
    """Noise (G, C) as recorded, times (G,) out of the recorded normal draws, and the noised latents."""
    noise = case.tensor("noise")
    shift = case.given("timestep_shift", 1.0)
    drawn = shift_time(torch.sigmoid(case.tensor("packed_timesteps_presigmoid")), shift)
    times = torch.where(moving(packed)[packed.latent], drawn, 0.0)
    case.compare("timesteps_final", times)
    clean = torch.cat(_features(samples, Kind.LATENT))
    case.compare("clean_latent", clean)
    case.compare("noisy_latent", _noisy(samples, noise, times))
    return noise, times


def _noisy(samples: list[Sample], noise: Tensor, times: Tensor) -> Tensor:
    return interpolate(torch.cat(_features(samples, Kind.LATENT)), noise, times[:, None])


def _compare_losses(case: Case, model: LanceModel, samples: list[Sample], noise: Tensor, times: Tensor, vocabulary: int) -> None:
    """Losses token by token, their means, the loss of the step and the gradient of every weight."""
    vision, reference, understanding = _anchors(model)
    anchors = Anchors(vision, reference, understanding)
    objective = Objective(LossWeights(case.given("ce_weight", 1.0), case.given("mse_weight", 1.0)), vocabulary)
    case.given("vae_resolution"), case.given("vit_resolution")
    rows: list[tuple[Tensor, Tensor]] = []
    start = 0
    for sample in samples:
        batch = assemble([sample], anchors)
        count = cells_of(sample)[1]
        with torch.no_grad():
            path = _path(batch, noise[start : start + count], times[start : start + count])
            rows.append(_token_losses(model, batch, path, objective))
        start += count
    ce, mse = (torch.cat(part) for part in zip(*rows, strict=True))
    case.compare("ce", ce)
    case.compare("mse", mse)
    if len(ce):
        case.compare("ce_mean", float(ce.mean()))
        case.compare("ce_loss_weights", torch.full_like(ce, len(ce) ** -0.5))
    case.compare("mse_mean", float(mse.mean()))
    whole, path = _whole_batch(samples, anchors, noise, times)
    with _Trainable(model) as parameters:
        loss = compute_loss(model, whole, path, objective, whole.counts, LossSums())
        loss.backward()  # type: ignore[no-untyped-call]
        case.compare("loss", float(loss.detach()))
        _compare_gradients(case, model, parameters)


def _path(batch: TrainingBatch, noise: Tensor, times: Tensor) -> Path:
    """The recorded draw for one batch: the time of each target, and noise for all its latent cells."""
    targets = [times[batch.target == number][:1] for number in range(1, batch.num_targets + 1)]
    return Path(torch.cat([torch.zeros(1), *targets]), noise.reshape(batch.latents.shape))


def _token_losses(model: LanceModel, batch: TrainingBatch, path: Path, objective: Objective) -> tuple[Tensor, Tensor]:
    """Cross-entropy (A,) and squared error (target cells, C) of one sample."""
    hidden = model(ragged(model, batch, path))
    ce = answer_losses(model, batch, hidden.understanding, objective.vocabulary).cpu() if batch.answer.numel() else torch.zeros(0)
    cells = torch.nonzero(batch.target)[:, 0]
    if not len(cells):
        return ce, torch.zeros(0, model.config.latent_channels)
    data, noise = batch.latents[cells], path.noise[cells]
    t = path.times[batch.target[cells]][:, None]
    device = model.device
    velocity = model.velocity(hidden.generation[cells.to(device)], interpolate(data, noise, t).to(device), t.to(device))
    return ce, (velocity.cpu() - velocity_target(data, noise)).square()


def cells_of(sample: Sample) -> tuple[int, int]:
    """Tokens (U, G) of the two streams of a sample."""
    generation = sum(segment.cells for segment in sample.segments if segment.kind is Kind.LATENT)
    return sum(map(len, sample.segments)) - generation, generation


def _whole_batch(samples: list[Sample], anchors: Anchors, noise: Tensor, times: Tensor) -> tuple[TrainingBatch, Path]:
    """All samples in one batch, with noise and times in its order: it may put samples of one shape side by side."""
    batch = assemble(samples, anchors)
    sizes = [cells_of(sample) for sample in samples]
    shapes = list(dict.fromkeys(sizes))
    order = sorted(range(len(samples)), key=lambda index: shapes.index(sizes[index]))
    counts = [generation for _, generation in sizes]
    parts, clocks = torch.split(noise, counts), torch.split(times, counts)
    return batch, _path(batch, torch.cat([parts[i] for i in order]), torch.cat([clocks[i] for i in order]))


class _Trainable:
    """The transformer's parameters take gradients inside the block; both encoders stay frozen."""

    def __init__(self, model: LanceModel) -> None:
        frozen = {id(p) for part in (model.vision, model.autoencoder) if part is not None for p in part.parameters()}
        self.parameters = {name: p for name, p in model.named_parameters() if id(p) not in frozen}

    def __enter__(self) -> dict[str, torch.nn.Parameter]:
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        return self.parameters

    def __exit__(self, *_: object) -> None:
        for parameter in self.parameters.values():
            parameter.requires_grad_(False)
            parameter.grad = None


def _compare_gradients(case: Case, model: LanceModel, parameters: dict[str, torch.nn.Parameter]) -> None:
    """Gradient norms under the published names, and which tensors have none."""
    from openlance.weights.names import transformer_slots

    slots = transformer_slots(model.config.transformer)
    norms = {}
    for slot in slots:
        gradient = parameters[slot.target].grad
        if gradient is not None:
            rows = gradient if slot.rows is None else gradient.narrow(0, slot.start, slot.rows)
            norms[slot.name] = float(rows.double().norm())
    recorded = case.given("grad_norms_f64", {})
    for name, value in recorded.items():
        case.expect(f"grad.{name}", norms.get(name, float("nan")), value)
    without = set(case.given("params_without_grad", ()))
    if without:
        trained = {slot.name for slot in slots}
        case.expect("params_without_grad", sorted(without & trained), sorted(trained - set(norms)))
