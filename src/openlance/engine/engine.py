"""The engine: one loop that gives every active request its next step, all of them in the same forward.

A request is a generator of rows. Each step asks every active request for its next rows, runs the model once over all of
them, and hands the results back. The synchronous call is this loop with one request; a server runs it in a thread.
"""

import time
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from openlance.engine.denoise import Denoiser, DenoiseStep
from openlance.engine.history import History, TurnOutput
from openlance.engine.prefill import MediumTokens, prefill
from openlance.engine.prepare import Plan, encode_medium, grids_of, plan
from openlance.engine.preprocess import prepare_medium
from openlance.engine.request import Progress, Request
from openlance.engine.row import Batcher, Row
from openlance.engine.text import decode_text
from openlance.errors import Cancelled
from openlance.flow.path import draw_noise
from openlance.media.clip import IMAGE_FPS, Clip
from openlance.model.context import Context
from openlance.model.lance import LanceModel
from openlance.model.pixels import to_uint8
from openlance.sequence.bind import Binder
from openlance.sequence.segment import Kind

Outputs = list[Tensor | None]
Work = Generator[list[Row], Outputs, "Result"]


@dataclass(frozen=True)
class Result:
    """What a request produced: a clip (an image is a clip of one frame) or a text."""

    clip: Clip | None = None
    text: str | None = None
    token_ids: tuple[int, ...] = ()
    latents: Tensor | None = None
    """Final latents (t, h, w, C) of a clip."""
    notices: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(eq=False)
class Ticket:
    """A submitted request: wait for `future`, or `cancel()` it; it ends before its next step."""

    request: Request
    work: Work
    future: "Future[Result]" = field(default_factory=Future)
    cancelled: bool = False
    rows: list[Row] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    def cancel(self) -> None:
        self.cancelled = True


class Engine:
    """Runs requests on one model. Not thread-safe: one thread submits and steps."""

    alive = True
    """Always, other than a `RemoteEngine`."""

    def __init__(self, model: LanceModel, binder: Binder) -> None:
        self.model = model
        self.binder = binder
        self.active: list[Ticket] = []
        self._batcher = Batcher(model)

    def submit(self, request: Request, planned: Plan | None = None) -> Ticket:
        """Add a request to the loop; its first step runs with the next `step()`. `planned`: its plan, when the caller made it already."""
        ticket = Ticket(request, run_request(self.model, self.binder, request, planned))
        self.active.append(ticket)
        return ticket

    def run(self, requests: Sequence[Request]) -> list[Result]:
        """All results, in order, the requests sharing every forward. The first error is raised after the others are stopped."""
        tickets = [self.submit(request) for request in requests]
        try:
            while any(not ticket.future.done() for ticket in tickets):
                self.step()
                failed = next((t for t in tickets if t.future.done() and t.future.exception() is not None), None)
                if failed is not None:
                    raise failed.future.exception() or RuntimeError("a request failed without an error")
        finally:
            for ticket in tickets:
                self._close(ticket)
        return [ticket.future.result() for ticket in tickets]

    def use_threads(self, threads: int) -> None:
        """Compute with so many threads from here on. For the thread that steps to call."""
        torch.set_num_threads(threads)

    @torch.inference_mode()
    def step(self, chosen: Sequence[Ticket] | None = None) -> bool:
        """One forward over the next rows of the `chosen` active requests (default: all). False when nothing is left to do.

        The others keep their rows and wait; a cancelled one ends whether chosen or not.
        """
        for ticket in list(self.active):
            if ticket.cancelled:
                self._fail(ticket, Cancelled("the request was cancelled"))
            elif not ticket.rows and (chosen is None or ticket in chosen):
                self._advance(ticket, None)
        tickets = [ticket for ticket in self.active if ticket.rows and (chosen is None or ticket in chosen)]
        if tickets:
            for ticket, outputs in self._forward(tickets):
                self._advance(ticket, outputs)
        return bool(self.active)

    def _forward(self, tickets: list[Ticket]) -> list[tuple[Ticket, Outputs]]:
        """Outputs of each ticket's rows. If the shared forward fails, each runs alone, so that only the culprit fails."""
        rows = [row for ticket in tickets for row in ticket.rows]
        try:
            outputs = self._batcher.run(rows)
        except Exception as error:
            if len(tickets) == 1:
                self._fail(tickets[0], error)
                return []
            return [pair for ticket in tickets for pair in self._forward([ticket])]
        shares = []
        start = 0
        for ticket in tickets:
            shares.append((ticket, outputs[start : start + len(ticket.rows)]))
            start += len(ticket.rows)
        return shares

    def _advance(self, ticket: Ticket, outputs: Outputs | None) -> None:
        """Give a request its outputs (None: it has none yet) and take its next rows."""
        try:
            ticket.rows = next(ticket.work) if outputs is None else ticket.work.send(outputs)
        except StopIteration as finished:
            self.active.remove(ticket)
            ticket.rows = []
            ticket.future.set_result(finished.value)
        except Exception as error:
            self._fail(ticket, error)

    def _fail(self, ticket: Ticket, error: BaseException) -> None:
        if not ticket.future.done():
            ticket.future.set_exception(error)
        self._close(ticket)

    def _close(self, ticket: Ticket) -> None:
        ticket.work.close()
        ticket.rows = []
        if ticket in self.active:
            self.active.remove(ticket)


def run_request(model: LanceModel, binder: Binder, request: Request, planned: Plan | None = None) -> Work:
    """The steps of one request, from media to result. A pause after each medium lets other requests have their steps."""
    started = time.perf_counter()
    planned = planned or plan(model, binder, request)
    history = request.history or History()
    fresh = []
    for medium in planned.media:
        fresh.append(encode_medium(model, medium))
        yield from _pause()
    media = [*history.media, *fresh]
    branch = planned.branches[0]
    contexts, logits = yield from prefill(model, planned.branches, media, planned.target is None, history.known(branch))
    if logits is not None:
        text, ids = yield from decode_text(model, binder.tokenizer, request, contexts[0], logits, int(branch.positions[:, -1].max()) + 1)
        result = Result(text=text, token_ids=tuple(ids))
    else:
        latents = yield from _denoise(model, planned, contexts, media)
        clip = yield from _decode(model, latents, request.task.output)
        result = Result(clip=clip, latents=latents)
    if request.history is not None:
        clips = [clip for clip in request.media if history.find(clip) is None]
        history.close(binder, branch, contexts[0], list(zip(clips, fresh, strict=True)), _as_seen(model, request, result))
    return replace(result, notices=tuple(planned.notices), seconds=time.perf_counter() - started)


def _pause() -> Generator[list[Row], Outputs, None]:
    """Let other requests have a step: no rows are wanted now."""
    yield []


def _denoise(model: LanceModel, planned: Plan, contexts: list[Context], media: list[MediumTokens]) -> Generator[list[Row], Outputs, Tensor]:
    """Latents (t, h, w, C) of the target, reporting progress."""
    request, grid = planned.request, planned.target
    assert grid is not None
    targets = [branch.target() for branch in planned.branches]
    denoiser = Denoiser(model, targets, contexts, starting_latents(model, planned, media), planned.sampling)
    total = len(denoiser.times) - 1

    def report(step: DenoiseStep) -> None:
        if request.on_progress is None:
            return
        every = planned.sampling.preview_every
        guess = denoiser.place_latents(step.data()).reshape(*grid, -1) if every and step.index % every == every - 1 else None
        preview = None if guess is None else _decode_first(model, guess)
        request.on_progress(Progress(min(step.index + 1, total), total, preview))

    latents = yield from denoiser.run(report)
    return latents.reshape(*grid, -1)


def _decode(model: LanceModel, latents: Tensor, output: str) -> Generator[list[Row], Outputs, Clip]:
    """Pixels of latents (t, h, w, C), latent frame by latent frame, others stepping in between."""
    frames = []
    pieces = model.autoencoder.decode_stream(latents[None])
    for _ in range(latents.shape[0]):
        yield from _pause()
        frames.append(torch.from_numpy(to_uint8(next(pieces)[0])))
    return Clip(torch.cat(frames).numpy(), model.config.media.fps if output == "video" else IMAGE_FPS)


def _as_seen(model: LanceModel, request: Request, result: Result) -> TurnOutput:
    """A result as the next turn of its conversation will see it: a picture keeps the very latents it was decoded from."""
    if result.clip is None or result.latents is None:
        return TurnOutput(ids=result.token_ids)
    prepared = prepare_medium(model, result.clip, frozenset({Kind.VISION}), request.resolution)
    t, h, w = result.latents.shape[:3]
    grids = replace(grids_of(model, prepared), latent=(t, h, w))
    return TurnOutput((), result.clip, replace(encode_medium(model, prepared), latent=result.latents), grids)


def starting_latents(model: LanceModel, planned: Plan, media: Sequence[MediumTokens]) -> Tensor:
    """Noise (G, C) of the target, given leading frames in place. Noise is drawn for every latent of the sequence, in order."""
    branch = planned.branches[0]
    before = sum(segment.cells for segment in branch.segments[: branch.fixed] if segment.kind is Kind.LATENT)
    target = branch.segments[branch.fixed]
    noise = draw_noise(target.cells, model.config.latent_channels, planned.request.seed, skip=before)
    if planned.first_frame is not None:
        given = media[planned.first_frame].latent
        assert given is not None
        first = given[: target.clean_frames].flatten(0, 2).cpu()
        noise[: len(first)] = first
    return noise


def _decode_first(model: LanceModel, latents: Tensor) -> Clip:
    """The first frame of latents (t, h, w, C): a preview."""
    pixels = next(iter(model.autoencoder.decode_stream(latents[None, :1])))
    return Clip.from_image(to_uint8(pixels[0])[0])
