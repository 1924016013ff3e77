"""What a request costs, from its plan and the model's sizes alone: bytes while it is active, tokens it moves through the model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from openlance.model.context import GROWTH
from openlance.sequence.segment import Kind

if TYPE_CHECKING:
    from openlance.engine.prepare import Plan
    from openlance.model.config import LanceConfig
    from openlance.model.lance import LanceModel

FLOAT = 4
EVALUATIONS = {"heun": 2}
"""Evaluations of the model per step, where a solver needs more than one."""
PIXEL_COPIES = 3
"""Float frames alive at once while a clip is coded: input, output, one in between."""


@dataclass(frozen=True)
class Footprint:
    """Cost of one request.

    context_bytes: keys and values of all branches, with the room they grow into. activation_bytes: the largest forward it causes alone.
    frame_bytes: media and results as pixels, and the coarsest bound on what coding them holds. step_tokens: tokens of its largest repeated
    step. work_tokens: all tokens from prefill to the end, the measure of time. prompt_tokens: of the first branch, media_tokens among them.
    """

    context_bytes: int
    activation_bytes: int
    frame_bytes: int
    step_tokens: int
    work_tokens: int
    prompt_tokens: int
    media_tokens: int

    @property
    def bytes(self) -> int:
        return self.context_bytes + self.activation_bytes + self.frame_bytes


def footprint(model: "LanceModel", plan: "Plan") -> Footprint:
    """The cost of a planned request on `model`."""
    config = model.config
    item = model.embedding.weight.element_size()
    prefill = [branch.fixed_tokens for branch in plan.branches]
    if plan.target is None:
        new = plan.request.text.resolve(config).max_new_tokens or 0
        step, repeats, grown = 1, new, new
    else:
        sizes = plan.sampling
        target = len(plan.branches[0].segments[plan.branches[0].fixed])
        step, grown = target * len(plan.branches), target
        repeats = (sizes.num_inference_steps or 1) * EVALUATIONS.get(str(sizes.solver), 1)
    context = sum(tokens + grown + min(tokens + grown, GROWTH) for tokens in prefill) * context_token_bytes(config, item)
    widest = max(max(prefill), step)
    return Footprint(
        context_bytes=context,
        activation_bytes=widest * activation_token_bytes(config, item) + max(prefill) ** 2 + config.transformer.vocab_size * FLOAT,
        frame_bytes=frame_bytes(plan, config),
        step_tokens=step,
        work_tokens=sum(prefill) + step * repeats,
        prompt_tokens=prefill[0],
        media_tokens=media_tokens(plan),
    )


def context_token_bytes(config: "LanceConfig", item: int) -> int:
    """Keys and values of one token in all layers; `item`: bytes of a number."""
    sizes = config.transformer
    return sizes.num_hidden_layers * 2 * sizes.num_key_value_heads * sizes.head_dim * item


def activation_token_bytes(config: "LanceConfig", item: int) -> int:
    """What one token holds at the widest place of a layer: stream, norm, heads and the three MLP tensors."""
    sizes = config.transformer
    heads = (sizes.num_attention_heads + 2 * sizes.num_key_value_heads) * sizes.head_dim
    return (3 * sizes.hidden_size + 2 * heads + 3 * sizes.intermediate_size) * item


def frame_bytes(plan: "Plan", config: "LanceConfig") -> int:
    """Pixels of media and result, as bytes and as floats, and the widest autoencoder activation of what is coded at once."""
    given = sum(frames.numel() for medium in plan.media for frames in (medium.vision, medium.latent) if frames is not None)
    made = coded = 0
    if plan.target is not None:
        t, h, w = plan.target
        frame = 3 * h * w * config.spatial_stride**2
        made = ((t - 1) * config.temporal_stride + 1) * frame
        coded = min(t, config.temporal_stride) * frame
    coded = max([coded, *(medium.latent.numel() for medium in plan.media if medium.latent is not None)])
    return given + made + coded // 3 * (PIXEL_COPIES * 3 * FLOAT + coder_pixel_bytes(config))


def coder_pixel_bytes(config: "LanceConfig") -> int:
    """Bytes per pixel of the autoencoder's finest level: its width, over the pixels of one of its cells."""
    sizes = config.autoencoder
    width, patch = (sizes["widths"][0], sizes.get("patch_size", 4)) if "widths" in sizes else (sizes.get("dec_dim", 64), 2)
    return PIXEL_COPIES * FLOAT * int(width) // int(patch) ** 2


def media_tokens(plan: "Plan") -> int:
    """Vision and latent tokens that the media put into the first branch."""
    first = plan.branches[0]
    return sum(segment.cells for segment in first.segments[: first.fixed] if segment.kind is not Kind.TEXT)
