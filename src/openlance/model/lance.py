"""The assembled model: embeddings, two-expert transformer, heads; vision encoder and autoencoder beside it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from openlance.model.attention import RowGroup
from openlance.model.config import LanceConfig
from openlance.model.context import Context
from openlance.model.latent import LatentCodec, place_embedding
from openlance.model.linear import Linear
from openlance.model.mot import Hidden, MixtureOfTransformers
from openlance.model.rope import Rope, Rotation
from openlance.sequence.pack import PackedSequence


@dataclass
class RaggedBatch:
    """Rows of any kind side by side, as two streams. `latents` and `times` may be replaced between steps.

    Shapes: `ids` (U,), `rotations` of (U) and (G) tokens, `place` (G, D), `latents` (G, C), `times` (T,), `time_index` (G,);
    `vision` (V, D) replaces the embeddings at `vision_index` (V,) of the understanding stream.
    """

    groups: list[RowGroup]
    ids: Tensor
    rotations: tuple[Rotation, Rotation]
    place: Tensor
    latents: Tensor
    times: Tensor
    time_index: Tensor
    vision: Tensor | None = None
    vision_index: Tensor | None = None


class LanceModel(nn.Module):
    """Text, vision and latent tokens through one transformer. `vision` and `autoencoder` are attached when a model has them."""

    def __init__(self, config: LanceConfig, vision: nn.Module | None = None, autoencoder: nn.Module | None = None) -> None:
        super().__init__()
        sizes = config.transformer
        self.config = config
        self.embedding = nn.Embedding(sizes.vocab_size, sizes.hidden_size)
        self.transformer = MixtureOfTransformers(sizes)
        self.head = Linear(sizes.hidden_size, sizes.vocab_size, bias=False)
        self.latent = LatentCodec(config.latent_channels, sizes.hidden_size)
        self.rope = Rope(sizes)
        self.vision: Any = vision
        self.autoencoder: Any = autoencoder

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.weight.dtype

    def new_context(self, capacity: int = 0) -> Context:
        return Context(self.config.transformer, self.device, self.dtype, capacity)

    def rotation(self, positions: Tensor) -> Rotation:
        """Rotation of tokens at positions (3, S)."""
        rotation: Rotation = self.rope(positions, self.dtype)
        return rotation

    def place(self, coordinates: Tensor) -> Tensor:
        """Place embedding (G, D) of latent coordinates (3, G)."""
        return place_embedding(coordinates.to(self.device), self.config.transformer.hidden_size).to(self.dtype)

    def forward(self, batch: RaggedBatch) -> Hidden:
        """Hidden states of every token of the batch."""
        u = g = None
        if batch.ids.numel():
            u = self.embedding(batch.ids)
            if batch.vision is not None and batch.vision_index is not None:
                u = u.index_copy(0, batch.vision_index, batch.vision.to(u.dtype))
        if batch.latents.numel():
            g = self.latent.embed(batch.latents, batch.times, batch.time_index, batch.place)
        hidden: Hidden = self.transformer((u, g), batch.rotations, batch.groups)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits (S, vocabulary), float32, of understanding states (S, D)."""
        logits: Tensor = self.head(hidden)
        return logits.float()

    def velocity(self, hidden: Tensor, latents: Tensor, times: Tensor) -> Tensor:
        """Velocity (G, C), float32: noise minus data at `latents` (G, C) and `times` (G, 1).

        A model that predicts data is converted: v = (x_t - x_0) / t.
        """
        prediction: Tensor = self.latent.output(hidden).float()
        if self.config.prediction == "velocity":
            return prediction
        velocity: Tensor = (latents.float() - prediction) / times.clamp_min(1e-3)
        return velocity


def batch_of(model: LanceModel, packed: PackedSequence, latents: Tensor, times: Tensor, vision: Tensor | None = None) -> RaggedBatch:
    """One row with a dense mask out of a whole packed sequence: the plain path of training and of the tests.

    `latents` (G, C) and `times` (G,) of all latent cells in sequence order; `vision` (V, D) of all vision cells.
    """
    device = model.device
    order = packed.stream_order()
    u = int((~packed.latent).sum())
    first, second = order[:u], order[u:]
    distinct, time_index = torch.unique(times, return_inverse=True)
    mask = packed.mask()[order][:, order]
    return RaggedBatch(
        groups=[RowGroup(u, len(packed) - u, mask=mask[None, None].to(device))],
        ids=packed.ids[first].to(device),
        rotations=(model.rotation(packed.positions[:, first]), model.rotation(packed.positions[:, second])),
        place=model.place(packed.coordinates[:, second]),
        latents=latents.to(device),
        times=distinct.to(device),
        time_index=time_index.to(device),
        vision=None if vision is None else vision.to(device),
        vision_index=None if vision is None else torch.nonzero(packed.vision[first])[:, 0].to(device),
    )
