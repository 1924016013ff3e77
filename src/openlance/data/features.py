"""From pixels to features: the frozen encoders, asked only for what a task's segments need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from openlance.data.records import Record
from openlance.data.sample import MediumFeatures
from openlance.media.clip import Clip
from openlance.sequence.segment import Kind


class Encoders(Protocol):
    """What turns media into features. Both take clips of any sizes and keep their order."""

    def vision(self, clips: Sequence[Clip]) -> list[Tensor]:
        """(t, h, w, D) each."""

    def latent(self, clips: Sequence[Clip]) -> list[Tensor]:
        """(t, h, w, C) each, standardised."""


Features = tuple[list[MediumFeatures], Tensor | None]
"""Of the media of a record and of its target."""


def encode_records(records: Sequence[Record], encoders: Encoders) -> list[Features]:
    """Features of many records at once, so that media of one size share a batch."""
    clips: list[Clip] = []
    vision: list[int] = []
    latent: list[int] = []
    plans: list[tuple[list[tuple[int | None, int | None]], int | None]] = []
    for record in records:
        kinds = record.definition.blocks
        media: list[tuple[int | None, int | None]] = []
        for medium in record.media:
            if kinds:
                clips.append(medium.clip())
                vision += [len(clips) - 1] * (Kind.VISION in kinds)
                latent += [len(clips) - 1] * (Kind.LATENT in kinds)
            here = len(clips) - 1
            media.append((here if Kind.VISION in kinds else None, here if Kind.LATENT in kinds else None))
        if record.target is not None:
            clips.append(record.target.clip())
            latent.append(len(clips) - 1)
        plans.append((media, len(clips) - 1 if record.target is not None else None))
    with torch.no_grad():
        seen = dict(zip(vision, encoders.vision([clips[i] for i in vision]), strict=True)) if vision else {}
        kept = dict(zip(latent, encoders.latent([clips[i] for i in latent]), strict=True)) if latent else {}
    return [([MediumFeatures(_at(seen, v), _at(kept, z)) for v, z in media], _at(kept, target)) for media, target in plans]


def _at(found: dict[int, Tensor], index: int | None) -> Tensor | None:
    return None if index is None else found[index]
