"""Cases that generate an image or a clip: from raw media to decoded pixels, through the engine's own parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from openlance.engine.denoise import Denoiser, DenoiseStep
from openlance.engine.engine import Engine, starting_latents
from openlance.engine.prefill import Branch, MediumTokens, prefill
from openlance.engine.prepare import Plan, encode_medium, lay_out, plan
from openlance.engine.preprocess import Resolution
from openlance.engine.request import ImageSampling, Request
from openlance.engine.row import Batcher, Row
from openlance.flow.guidance import Guidance
from openlance.media.resize import PRESETS
from openlance.model.lance import LanceModel
from openlance.model.pixels import to_uint8
from openlance.sequence.bind import Binder
from openlance.sequence.positions import base_positions, spans_of
from openlance.sequence.segment import Kind
from openlance.sequence.tasks import find_task
from openlance.verify.golden import Case, Golden
from openlance.verify.sequence import compare_tokens, modality, modes, moving, states

T = TypeVar("T")
Outputs = list[Tensor | None]


@dataclass(frozen=True)
class Sequence:
    """A planned request with what the encoders made of its media."""

    planned: Plan
    media: list[MediumTokens]

    def latents(self, target: Tensor) -> Tensor:
        """Latents (G, C) of every latent cell in sequence order, given the target's."""
        given = [self.media[s.medium].latent for s in latent_segments(self.planned) if s.medium is not None]
        return torch.cat([*(latent.flatten(0, 2).cpu() for latent in given if latent is not None), target.cpu()])

    def vision(self, branch: Branch) -> Tensor | None:
        """Vision tokens (V, D) of a branch in sequence order."""
        given = [self.media[s.medium].vision for s in branch.segments if s.kind is Kind.VISION and s.medium is not None]
        return torch.cat([tokens for tokens in given if tokens is not None]) if given else None


@dataclass(frozen=True)
class Denoised:
    """A denoising run: what each evaluation saw and gave, the raw velocities (G, C) of its branches, and the final latents (G, C)."""

    steps: list[DenoiseStep]
    branches: list[Outputs]
    latents: Tensor


@torch.inference_mode()
def check_generation(golden: Golden, case: Case) -> None:
    """Compare everything that a generation case holds."""
    model = golden.model(case)
    request = request_of(golden, case)
    planned = plan(model, golden.binder, request)
    sequence = Sequence(planned, [encode_medium(model, medium) for medium in planned.media])
    _compare_media(case, sequence)
    compare_vision(case, model, planned, sequence.media)
    _compare_layout(case, model, planned)
    start = _compare_noise(case, model, sequence)
    run = denoise(model, sequence, start)
    _compare_steps(case, planned, run)
    _compare_states(case, model, sequence, start)
    _compare_latents(case, model, sequence, run)
    _compare_shipped(case, model, sequence, start, run)
    _compare_engine(case, model, golden.binder, request)


def request_of(golden: Golden, case: Case) -> Request:
    """The case as a request: raw media, sizes, seed and sampling parameters; the SYSTEM text is the case's own."""
    task = find_task(case.given("task"))
    sizes = {"height": case.given("H"), "width": case.given("W"), "num_frames": case.given("num_frames_cfg")}
    if task.keeps_size:
        sizes = {}
    case.given("rendered_text"), case.given("entries")
    wording = golden.wording(case.scalars)
    media = case.given("raw_media", {})
    return Request(
        task=task,
        prompt=case.given("prompt", wording.prompt),
        media=tuple(golden.clip(key) for key in media.values()),
        seed=case.given("noise_seed", 42),
        image=sampling_of(case),
        system=wording.system,
        resolution=resolution_of(case),
        **(sizes if task.output == "video" else {key: value for key, value in sizes.items() if key != "num_frames"}),
    )


def sampling_of(case: Case) -> ImageSampling:
    """Sampling parameters of a case; one that it leaves out is the model's default."""
    interval = case.given("cfg_interval")
    return ImageSampling(
        num_inference_steps=case.given("num_timesteps"),
        timestep_shift=case.given("timestep_shift"),
        guidance_scale=case.given("cfg_text_scale"),
        guidance_interval=None if interval is None else (interval[0], interval[1]),
        guidance_renorm=case.given("cfg_renorm_type"),
        guidance_renorm_min=case.given("cfg_renorm_min"),
    )


def resolution_of(case: Case) -> Resolution:
    """Areas of both streams: numbers of the case, or those of its preset."""
    preset = PRESETS[case.given("resolution_preset", "image_768res")]
    latent, vision = case.given("vae_resolution", "preset"), case.given("vit_resolution", "preset")
    return Resolution(
        preset.vae_resolution if latent == "preset" else latent,
        preset.vit_resolution if vision == "preset" else vision,
    )


def drive(model: LanceModel, work: Generator[list[Row], Outputs, T], watch: Callable[[Outputs], None] | None = None) -> T:
    """Run a generator of rows to its end as the engine does, showing every forward's outputs to `watch`."""
    batcher = Batcher(model)
    try:
        rows = next(work)
        while True:
            outputs = batcher.run(rows) if rows else []
            if watch and rows:
                watch(outputs)
            rows = work.send(outputs)
    except StopIteration as finished:
        result: T = finished.value
        return result


def denoise(model: LanceModel, sequence: Sequence, start: Tensor) -> Denoised:
    """Prefill and denoise from the target's latents `start` (G, C), keeping everything on the way."""
    planned = sequence.planned
    contexts, _ = drive(model, prefill(model, planned.branches, sequence.media))
    denoiser = Denoiser(model, [_target(branch) for branch in planned.branches], contexts, start, planned.sampling)
    steps: list[DenoiseStep] = []
    outputs: list[Outputs] = []
    latents = drive(model, denoiser.run(steps.append), outputs.append)
    return Denoised(steps, outputs, latents)


def _target(branch: Branch) -> Any:
    start = branch.fixed_tokens
    return branch.packed().part(start, start + len(branch.segments[branch.fixed]))


def _compare_media(case: Case, sequence: Sequence) -> None:
    """Preprocessed frames and latents, medium by medium."""
    first = sequence.planned.request.task.clean_frames > 0
    for index, (medium, tokens) in enumerate(zip(sequence.planned.media, sequence.media, strict=True)):
        if medium.latent is not None and tokens.latent is not None:
            case.compare("vae.first_frame_u8" if first else f"vae.cond_frames_u8.{index}", medium.latent)
            case.compare("vae.first_latent" if first else f"vae.cond_latent.{index}", tokens.latent)


def compare_vision(case: Case, model: LanceModel, planned: Plan, media: list[MediumTokens]) -> None:
    """Frames, patches and tokens of the vision encoder over all media."""
    frames = [medium.vision for medium in planned.media if medium.vision is not None]
    if not frames:
        return
    for index, medium in enumerate(frames):
        case.compare(f"vit.frames_u8.{index}", repeat_last(medium, case.tensors.get(f"vit.frames_u8.{index}")))
    patched = [model.vision.patchify(medium) for medium in frames]
    patches = torch.cat([patches for patches, _ in patched])
    case.compare("vit.grid_thw", torch.tensor([grid for _, grid in patched]))
    case.compare("vit.patches", patches)
    case.compare("vit.patches_first16", patches[:16])
    case.compare("vit_patches_full_shape", list(patches.shape))
    for name, total in (("vit_patches_sum_f64", patches.double().sum()), ("vit_patches_abs_sum_f64", patches.double().abs().sum())):
        if name in case.scalars:  # a sum of n values may be off by n times what one may: compare the mean
            case.expect(name, float(total) / patches.numel(), case.scalars[name] / patches.numel())
    case.compare("vit.embeds", torch.cat([tokens.vision for tokens in media if tokens.vision is not None]))


def repeat_last(frames: Tensor, like: Tensor | None) -> Tensor:
    """Frames with the last one repeated up to the number of `like`: the reference records them as the encoder pads them."""
    missing = 0 if like is None else min(like.shape[0] - frames.shape[0], 1)
    return torch.cat([frames, frames[-1:]]) if missing == 1 else frames


def _compare_layout(case: Case, model: LanceModel, planned: Plan) -> None:
    """Tokens, segments, positions and masks of the full branch and of the one without the prompt."""
    full = planned.branches[0]
    packed = full.packed()
    compare_tokens(case, packed)
    segments = full.segments
    case.compare("modality", modality(segments))
    case.compare("position_ids_before_shift", base_positions(segments))
    case.compare("split_lens", [len(segment) for segment in segments])
    case.compare("attn_modes", modes(segments))
    case.compare("sample_lens", [len(packed)])
    frames, side, merge = model.config.temporal_stride, model.config.spatial_stride, model.vision.merge_size
    latents = latent_segments(planned)
    case.compare("vae_latent_shapes", [list(segment.grid or ()) for segment in latents])
    case.compare("video_sizes", [[(t - 1) * frames + 1, h * side, w * side] for t, h, w in (segment.grid for segment in latents)])
    case.compare("video_grid_thw", [[t, h * merge, w * merge] for t, h, w in (s.grid for s in segments if s.grid is not None)])
    kept = moving(packed)[packed.latent]
    where = torch.nonzero(kept)[:, 0]
    case.compare("noise_rows_in_vae_tokens", [int(where[0]), int(where[-1]) + 1])
    if len(planned.branches) < 2:
        return
    dropped = planned.branches[1]
    bare = dropped.packed()
    case.compare("uncond_input_ids", bare.ids)
    case.compare("uncond_position_ids", bare.positions)
    case.compare("uncond_attention_mask", bare.mask())
    case.compare("uncond_len", len(bare))
    lengths = [len(segment) for segment in dropped.segments]
    for name, ours in (("uncond_split_lens", lengths), ("uncond_attn_modes", modes(dropped.segments))):
        if name in case.scalars:  # the reference pads this branch; what it appends is no part of the sequence
            case.expect(name, ours, case.scalars[name][: len(ours)])


def latent_segments(planned: Plan) -> list[Any]:
    return [segment for segment in planned.branches[0].segments if segment.kind is Kind.LATENT]


def _compare_noise(case: Case, model: LanceModel, sequence: Sequence) -> Tensor:
    """Noise, starting latents and times; returns the target's starting latents (G, C)."""
    planned = sequence.planned
    packed = planned.branches[0].packed()
    start = starting_latents(model, planned, sequence.media)
    kept = moving(packed)[packed.latent]
    case.compare("x_init_all_vae_tokens", sequence.latents(start))
    case.compare("noise", start[kept[-len(start) :]])
    sampling = planned.sampling
    times = Denoiser(model, [_target(planned.branches[0])], [model.new_context()], start, sampling).times.cpu()
    case.compare("timesteps", times)
    case.compare("timestep_per_vae_token_step0", torch.where(kept, times[0], 0.0))
    case.compare("cfg_applied_per_step", [sampling.guidance().acts_at(float(time)) for time in times[:-1]])
    return start


def _compare_steps(case: Case, planned: Plan, run: Denoised) -> None:
    """Velocities and latents of every step."""
    target = _target(planned.branches[0])
    kept = moving(target)[target.latent]
    guidance = planned.sampling.guidance()
    scales = []
    for i, (step, outputs) in enumerate(zip(run.steps, run.branches, strict=True)):
        following = run.steps[i + 1].latents if i + 1 < len(run.steps) else run.latents[kept]
        case.compare(f"step{i}.v_cond", step.full)
        case.compare(f"step{i}.v", step.velocity)
        case.compare(f"step{i}.x_next", following)
        scale = 1.0
        if len(outputs) > 1 and outputs[1] is not None:
            no_prompt = outputs[1][kept]
            case.compare(f"step{i}.v_uncond", no_prompt)
            scale = _renorm_scale(guidance, step, no_prompt)
        scales.append(scale)
    case.compare("renorm_scale_mean_per_step", scales)


def _renorm_scale(guidance: Guidance, step: DenoiseStep, no_prompt: Tensor) -> float:
    """How much the renorm shrank the guided velocity, on average over tokens."""
    guided = no_prompt + guidance.scale * (step.full - no_prompt)
    return float(((step.velocity * guided).sum(-1) / guided.square().sum(-1)).mean())


def _compare_states(case: Case, model: LanceModel, sequence: Sequence, start: Tensor) -> None:
    """Embeddings and hidden states of the first step, through the plain masked forward over the whole sequence."""
    wanted = {"lm.input_step0", "lm.output_step0", "lm.uncond_output_step0"} & set(case.tensors)
    time = float(case.tensors["timesteps"][0]) if "timesteps" in case.tensors else 1.0
    for branch, prefix in zip(sequence.planned.branches[:2], ("", "uncond_"), strict=False):
        names = [f"lm.{prefix}{kind}_step0" for kind in ("input", "output")]
        if not wanted & set(names):
            continue
        packed = branch.packed()
        times = torch.where(moving(packed)[packed.latent], time, 0.0)
        for name, values in zip(names, states(model, packed, sequence.latents(start), times, sequence.vision(branch)), strict=True):
            case.compare(name, values)


def _compare_latents(case: Case, model: LanceModel, sequence: Sequence, run: Denoised) -> None:
    """Final latents of every latent block, and the target decoded."""
    segments = latent_segments(sequence.planned)
    everything = sequence.latents(run.latents)
    blocks = torch.split(everything, [segment.cells for segment in segments])
    for index, (segment, block) in enumerate(zip(segments, blocks, strict=True)):
        case.compare(f"final_latent.{index}", block.reshape(*segment.grid, -1))
    case.compare("latent_abs_max", float(run.latents.abs().max()))
    if "decoded" in case.tensors:
        case.compare("decoded", model.autoencoder.decode(run.latents.reshape(1, *segments[-1].grid, -1))[0])


def _compare_shipped(case: Case, model: LanceModel, sequence: Sequence, start: Tensor, full: Denoised) -> None:
    """The released cached sampler with its two slips, `guidance_positions="shipped"`, and with the first of them mended."""
    planned = sequence.planned
    sampling = dataclasses.replace(planned.sampling, guidance_positions="shipped")
    branches = lay_out(model.config, list(planned.branches[0].segments), sampling)
    run = denoise(model, Sequence(dataclasses.replace(planned, sampling=sampling, branches=branches), sequence.media), start)
    target = _target(branches[0])
    kept = moving(target)[target.latent]
    for i in range(len(run.steps)):
        following = run.steps[i + 1].latents if i + 1 < len(run.steps) else run.latents[kept]
        case.compare(f"kv.step{i}.x_next", following)
    first = run.branches[0]
    if len(first) > 1 and first[0] is not None and first[1] is not None:
        case.compare("kv.step0.v_uncond_all_rows", first[1])
        case.compare("kv.step0.v_all_rows", sampling.guidance().combine(first[0], first[1]))
    for name, ours, plain in zip(("vcond", "vuncond"), first, full.branches[0], strict=False):
        if ours is not None and plain is not None:
            difference = float((ours[kept] - plain[kept]).abs().max())
            case.compare(f"kv_step0_{name}_max_abs_diff_on_noise_tokens", difference)
    latents = latent_segments(planned)
    case.compare("kv.final_latent", run.latents.reshape(*latents[-1].grid, -1))
    difference = float((run.latents - full.latents).abs().max())
    case.compare("kv_vs_full_max_abs_diff", [0.0] * (len(latents) - 1) + [difference])
    corrected = "kv_with_corrected_uncond_context_positions_vs_full_max_abs_diff"
    if corrected in case.scalars and case.scalars[corrected] is not None:
        only_renorm = denoise(model, Sequence(dataclasses.replace(planned, sampling=sampling), sequence.media), start)
        difference = float((only_renorm.latents - full.latents).abs().max())
        case.compare(corrected, [0.0] * (len(latents) - 1) + [difference])
    _compare_shipped_positions(case, branches)


def _compare_shipped_positions(case: Case, branches: list[Branch]) -> None:
    recorded = case.scalars.get("kv_uncond_context_segments_with_cond_positions")
    if recorded is None:
        return
    if len(branches) < 2:
        case.expect("kv_uncond_context_segments_with_cond_positions", [], recorded)
        return
    full, dropped = branches[0], branches[1]
    spans, own = spans_of(full.segments), spans_of(dropped.segments)
    parts = []
    for i in range(len(dropped.segments)):
        j = next((j for j in range(i, full.fixed) if full.segments[j] == dropped.segments[i]), None)
        if i < dropped.fixed and j is not None and j != i:
            start, span = own[i].start, spans[j]
            parts.append(
                {"kv_start": start, "seq_start": span.start, "seq_end": span.stop, "positions_used": dropped.positions[:, own[i]].tolist()}
            )
    case.compare("kv_uncond_context_segments_with_cond_positions", parts)


def _compare_engine(case: Case, model: LanceModel, binder: Binder, request: Request) -> None:
    """The same request through the engine, as a user's call runs it."""
    (result,) = Engine(model, binder).run([request])
    last = case.numbered("final_latent.")
    if last and result.latents is not None:
        case.expect("engine.latents", result.latents, case.tensors[last[-1]])
    if "decoded" in case.tensors and result.clip is not None:
        case.expect("engine.frames", torch.from_numpy(result.clip.frames), torch.from_numpy(to_uint8(case.tensors["decoded"])))
