"""What every case says about its token sequence: ids, kinds, segments, positions, masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openlance.model.lance import LanceModel, batch_of
from openlance.sequence.pack import PackedSequence
from openlance.sequence.segment import Kind, Role, Segment
from openlance.verify.golden import Case

TEMPLATE, PROMPT, TARGET, SOURCE, REFERENCE, VISION = -1, 0, 1, 2, 3, 4
"""Codes of `modality` in recorded cases."""


def modality(segments: Sequence[Segment], marks_prompt: bool = True) -> Tensor:
    """Code (S,) of every token. `marks_prompt`: sequences that generate mark the prompt, those that answer do not."""
    return torch.tensor([code for segment in segments for code in [_code(segment, marks_prompt)] * len(segment)])


def _code(segment: Segment, marks_prompt: bool) -> int:
    if segment.kind is Kind.VISION:
        return VISION
    if segment.kind is Kind.LATENT:
        return {Role.SOURCE: SOURCE, Role.REFERENCE: REFERENCE}.get(segment.role, TARGET)
    return PROMPT if marks_prompt and segment.role is Role.PROMPT else TEMPLATE


def modes(segments: Sequence[Segment]) -> list[str]:
    """Attention mode of each segment in the words of the recorded cases."""
    return ["noise" if s.noised else "full_noise" if s.kind is Kind.LATENT else "full" if s.two_way else "causal" for s in segments]


def compare_tokens(case: Case, packed: PackedSequence) -> None:
    """Ids, token kinds, positions and mask of a whole sequence."""
    case.compare("input_ids", packed.ids)
    case.compare("text_token_indexes", _where(~packed.latent & ~packed.vision))
    case.compare("vae_token_indexes", _where(packed.latent))
    case.compare("vit_token_indexes", _where(packed.vision))
    case.compare("noise_token_indexes", _where(moving(packed)))
    case.compare("position_ids", packed.positions)
    case.compare("attention_mask", packed.mask())


def moving(packed: PackedSequence) -> Tensor:
    """(S,): latent cells that are noise."""
    return packed.latent & packed.noised & ~packed.clean


def states(model: LanceModel, packed: PackedSequence, latents: Tensor, times: Tensor, vision: Tensor | None) -> tuple[Tensor, Tensor]:
    """Embeddings and final-normed states, both (S, D) in sequence order, of a whole sequence through the plain masked forward."""
    captured: list[tuple[Tensor | None, Tensor | None]] = []
    hook = model.transformer.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    try:
        hidden = model(batch_of(model, packed, latents, times, vision))
    finally:
        hook.remove()
    order = packed.stream_order()
    return _in_sequence(captured[0], order), _in_sequence((hidden.understanding, hidden.generation), order)


def _in_sequence(streams: tuple[Tensor | None, Tensor | None], order: Tensor) -> Tensor:
    joined = torch.cat([stream for stream in streams if stream is not None])
    return joined[torch.argsort(order).to(joined.device)]


def _where(flags: Tensor) -> Tensor:
    return torch.nonzero(flags)[:, 0]
