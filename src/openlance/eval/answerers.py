"""Who is evaluated: a model, or one of the two bounds that every score is read against, the truth and the truth through the autoencoder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from openlance.media.clip import IMAGE_FPS, Clip
from openlance.world.examples import Medium, Turn

if TYPE_CHECKING:
    from openlance.pipeline import Lance

Answer = Clip | str
BATCH_CELLS = 2048
"""Latent tokens denoised together: 32 pictures of 128 px, 6 clips of 17 frames. More is no faster on two cores and takes more memory."""
BATCH_TEXTS = 32


@dataclass(frozen=True)
class Ask:
    """One turn to answer: the media it is about (those of the turn, or what came of the turn before) and the seed of the noise."""

    turn: Turn
    media: tuple[Clip, ...]
    seed: int


class Answerer(Protocol):
    """Answers turns in batches."""

    @property
    def name(self) -> str: ...

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        """A clip or a text for each, in order."""


def clip_of(medium: Medium) -> Clip:
    """The pixels of a medium of the world."""
    return Clip(medium.pixels().copy(), IMAGE_FPS if medium.num_frames == 1 else medium.fps)


@dataclass
class ModelAnswerer:
    """A model; `parameters` are those of a request (num_inference_steps, guidance_scale, max_new_tokens, ...)."""

    lance: "Lance"
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.lance.config.name

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        answers: list[Answer] = []
        for batch in self._batches(asks):
            for result in self.lance.engine.run([self._request(ask) for ask in batch]):
                answers.append(result.text or "" if result.clip is None else result.clip)
        return answers

    def _request(self, ask: Ask) -> Any:
        target = ask.turn.target
        size: dict[str, Any] = {"height": target.height, "width": target.width} if target else {}
        if target and target.num_frames > 1:
            size["num_frames"] = target.num_frames
        return self.lance.request(ask.turn.task, ask.turn.text, ask.media, seed=ask.seed, **size, **self.parameters)

    def _batches(self, asks: Sequence[Ask]) -> Iterator[list[Ask]]:
        batch: list[Ask] = []
        cost = 0.0
        for ask in asks:
            share = self._share(ask)
            if batch and cost + share > 1:
                yield batch
                batch, cost = [], 0.0
            batch.append(ask)
            cost += share
        if batch:
            yield batch

    def _share(self, ask: Ask) -> float:
        """How much of a batch a turn takes."""
        target = ask.turn.target
        if target is None:
            return 1 / BATCH_TEXTS
        t, h, w = self.lance.config.latent_grid(target.num_frames, target.height, target.width)
        return t * h * w / BATCH_CELLS


@dataclass(frozen=True)
class Truth:
    """The right answers: what the judge makes of them is its ceiling."""

    name: str = "truth"

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        return [ask.turn.answer or "" if ask.turn.target is None else clip_of(ask.turn.target) for ask in asks]


@dataclass(frozen=True)
class Reconstruction:
    """The right pictures and clips through the autoencoder and back: the best a model with this autoencoder can do."""

    autoencoder: Any
    name: str = "reconstruction"

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        return [self._through(answer) if isinstance(answer, Clip) else answer for answer in Truth().answer(asks)]

    def _through(self, clip: Clip) -> Clip:
        import numpy as np
        import torch

        from openlance.model.pixels import to_pixels, to_uint8

        with torch.inference_mode():
            latents = self.autoencoder.encode(to_pixels(torch.from_numpy(clip.frames)))
            frames = [to_uint8(piece[0]) for piece in self.autoencoder.decode_stream(latents)]
        return Clip(np.concatenate(frames), clip.fps)
