"""The public face: one object that generates, edits and answers with one model."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from openlance.engine.engine import Engine, Result
from openlance.engine.preprocess import Resolution
from openlance.engine.request import ImageSampling, Progress, Request, TextSampling
from openlance.errors import RequestError
from openlance.media.clip import Clip
from openlance.sequence.bind import Binder
from openlance.sequence.tasks import find_task, infer_task

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from openlance.engine.session import Session
    from openlance.model.config import LanceConfig
    from openlance.model.lance import LanceModel
    from openlance.sequence.tasks import Task

MediumLike: TypeAlias = "Clip | Image | str | Path | bytes | Any"
OnProgress: TypeAlias = Callable[[Progress], None]

IMAGE_FIELDS = frozenset(ImageSampling.__dataclass_fields__)
TEXT_FIELDS = frozenset(TextSampling.__dataclass_fields__)
OTHER_FIELDS = frozenset({"height", "width", "num_frames", "seed", "system", "resolution", "on_progress", "on_text"})


class LanceNotice(UserWarning):
    """Something about a request was adjusted, e.g. a size rounded to what the model can make, or its prompt has words it never met."""


class Lance:
    """One model, ready to use.

    >>> lance = Lance.from_pretrained("nano")
    >>> lance.generate_image("a red circle on a white background", seed=1).save("circle.png")
    """

    def __init__(self, model: LanceModel, binder: Binder) -> None:
        self.model = model
        self.binder = binder
        self.engine = Engine(model, binder)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "nano",
        variant: str = "image",
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        templates: str | Path | None = None,
    ) -> Lance:
        """Load a model.

        `name`: `nano` (inside the package), a folder in the published or in our own layout, or the hub name
        `bytedance-research/Lance`. `variant`: `image` or `video` weights of the published layout. `device`: `auto` takes a GPU
        if there is one. `dtype`: `float32`, `bfloat16`, `float16`, or `auto`,
        which is bfloat16 if the device multiplies it. `templates`: a templates.json to use instead.

        On a processor load in the thread that will use the model, or in one that ends: with threads of two on two cores OpenMP
        waits by sleeping, and a picture of the embedded model took twice as long (LOG.md).

        Raises CheckpointError naming what is missing and what to do.
        """
        from openlance.weights.load import load_pretrained

        return cls(*load_pretrained(name, variant=variant, device=device, dtype=dtype, templates=templates))

    @property
    def config(self) -> LanceConfig:
        return self.model.config

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model in our own layout: sharded safetensors, config.json, tokenizer, templates.json, [words.json]."""
        from openlance.weights.save import save_pretrained

        save_pretrained(self.model, self.binder, Path(folder))

    def load_adapter(self, folder: str | Path) -> None:
        """Merge a LoRA adapter (`output/adapter` of a run, the layout of peft) into the weights; load the model anew to be rid of it.

        Raises CheckpointError naming every tensor that does not fit; the weights are as they were then.
        """
        from openlance.weights.adapter import merge_adapter

        merge_adapter(self.model, Path(folder))
        self.binder.known_words = None  # the adapter may have taught it others

    @overload
    def generate_image(self, prompt: str, **parameters: Any) -> Image: ...
    @overload
    def generate_image(self, prompt: list[str], **parameters: Any) -> list[Image]: ...
    def generate_image(self, prompt: str | list[str], *, references: Sequence[MediumLike] = (), **parameters: Any) -> Image | list[Image]:
        """An image (Pillow) of `prompt`; a list of prompts gives a list, computed in one batch.

        `references`: pictures whose subject must appear. Parameters: height, width (pixels), seed (an int, or one per prompt),
        and those of ImageSampling: num_inference_steps, guidance_scale, timestep_shift, solver, ...
        """
        media = tuple(self.read(medium) for medium in references)
        task = infer_task("image", _kinds(media), subject=bool(media))
        clips = self._clips(task, prompt, media, parameters)
        return clips[0].image() if isinstance(prompt, str) else [clip.image() for clip in clips]

    @overload
    def generate_video(self, prompt: str, **parameters: Any) -> Clip: ...
    @overload
    def generate_video(self, prompt: list[str], **parameters: Any) -> list[Clip]: ...
    def generate_video(
        self, prompt: str | list[str], *, image: MediumLike | None = None, references: Sequence[MediumLike] = (), **parameters: Any
    ) -> Clip | list[Clip]:
        """A clip of `prompt`; `image` is its first frame; `references`: pictures whose subject must appear. `num_frames`: 4k + 1."""
        media = tuple(self.read(medium) for medium in ([image] if image is not None else references))
        task = infer_task("video", _kinds(media), first_frame=image is not None, subject=image is None and bool(media))
        clips = self._clips(task, prompt, media, parameters)
        return clips[0] if isinstance(prompt, str) else clips

    def edit(
        self, source: MediumLike | Sequence[MediumLike], instruction: str | list[str], **parameters: Any
    ) -> Image | Clip | list[Image | Clip]:
        """`source` changed as told: an image gives an image, a clip a clip. Several sources: the last one sets the size.

        A list of instructions gives a list: each applied to the same source.
        """
        sources = source if isinstance(source, list | tuple) else [source]
        media = tuple(self.read(medium) for medium in sources)
        if not media:
            raise RequestError("edit needs an image or a video: pass it first, the instruction second")
        kinds = _kinds(media)
        task = infer_task(kinds[-1], kinds)
        results = [clip.image() if clip.is_image else clip for clip in self._clips(task, instruction, media, parameters)]
        return results[0] if isinstance(instruction, str) else results

    @overload
    def ask(
        self, media: Sequence[MediumLike] | MediumLike, question: str, *, stream: bool = False, **parameters: Any
    ) -> str | Iterator[str]: ...
    @overload
    def ask(
        self, media: Sequence[MediumLike] | MediumLike, question: list[str], *, stream: bool = False, **parameters: Any
    ) -> list[str]: ...
    def ask(
        self, media: Sequence[MediumLike] | MediumLike, question: str | list[str], *, stream: bool = False, **parameters: Any
    ) -> str | list[str] | Iterator[str]:
        """The answer to `question` about images and videos (or about nothing: an empty list). `stream=True` yields pieces of text."""
        given = media if isinstance(media, list | tuple) else [media]
        clips = tuple(self.read(medium) for medium in given)
        task = infer_task("text", _kinds(clips))
        questions = [question] if isinstance(question, str) else question
        if stream:
            if len(questions) != 1:
                raise RequestError(f"stream=True takes one question, not {len(questions)}")
            return self.stream(self.request(task, questions[0], clips, **parameters))
        results = self.run(self._requests(task, questions, clips, parameters))
        answers = [result.text or "" for result in results]
        return answers[0] if isinstance(question, str) else answers

    def session(self, history: bool = False) -> Session:
        """A conversation on this model; with `history`, earlier turns are part of the sequence of later ones."""
        from openlance.engine.history import History
        from openlance.engine.session import Session

        return Session(self, History() if history else None)

    def read(self, medium: MediumLike) -> Clip:
        """A clip from whatever a user has: a path, bytes, a Pillow image, an array, a clip."""
        from openlance.media import read_media

        return medium if isinstance(medium, Clip) else read_media(medium)

    def request(self, task: Task | str, prompt: str, media: Sequence[Clip] = (), **parameters: Any) -> Request:
        """A validated request from flat parameters. Raises RequestError naming unknown ones."""
        task = find_task(task) if isinstance(task, str) else task
        unknown = sorted(set(parameters) - IMAGE_FIELDS - TEXT_FIELDS - OTHER_FIELDS)
        if unknown:
            raise RequestError(f"unknown parameters {unknown}; known: {sorted(IMAGE_FIELDS | TEXT_FIELDS | OTHER_FIELDS)}")
        given = {name: value for name, value in parameters.items() if value is not None}
        resolution = given.get("resolution")
        if resolution is not None and not isinstance(resolution, Resolution):
            given["resolution"] = Resolution(*resolution)
        return Request(
            task=task,
            prompt=prompt,
            media=tuple(media),
            image=ImageSampling(**{name: value for name, value in given.items() if name in IMAGE_FIELDS}),
            text=TextSampling(**{name: value for name, value in given.items() if name in TEXT_FIELDS}),
            **{name: value for name, value in given.items() if name in OTHER_FIELDS},
        )

    def run(self, requests: Sequence[Request]) -> list[Result]:
        """Results of requests of any tasks, computed together."""
        results = self.engine.run(requests)
        for notice in dict.fromkeys(notice for result in results for notice in result.notices):
            warnings.warn(notice, LanceNotice, stacklevel=_caller())
        return results

    def stream(self, request: Request) -> Iterator[str]:
        """Pieces of a text request's answer as they are decoded. Closing the iterator cancels the request."""
        import dataclasses

        pieces: list[str] = []
        ticket = self.engine.submit(dataclasses.replace(request, on_text=pieces.append))
        try:
            while not ticket.future.done():
                self.engine.step()
                yield from pieces
                pieces.clear()
            ticket.future.result()
            yield from pieces
        finally:
            ticket.cancel()
            while not ticket.future.done():
                self.engine.step()

    def _requests(self, task: Task, prompts: Sequence[str], media: tuple[Clip, ...], parameters: dict[str, Any]) -> list[Request]:
        seeds = parameters.pop("seed", 42)
        each = list(seeds) if isinstance(seeds, list | tuple) else [seeds] * len(prompts)
        if len(each) != len(prompts):
            raise RequestError(f"{len(each)} seeds were given for {len(prompts)} prompts: give one, or as many")
        return [self.request(task, prompt, media, seed=seed, **parameters) for prompt, seed in zip(prompts, each, strict=True)]

    def _clips(self, task: Task, prompt: str | list[str], media: tuple[Clip, ...], parameters: dict[str, Any]) -> list[Clip]:
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        results = self.run(self._requests(task, prompts, media, parameters))
        return [result.clip for result in results if result.clip is not None]


def _caller() -> int:
    """How many frames above the function that asks the first one outside this package is: whose line a warning should show."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("openlance."):
        level, frame = level + 1, frame.f_back
    return level


def _kinds(media: Sequence[Clip]) -> tuple[str, ...]:
    return tuple("image" if clip.is_image else "video" for clip in media)
