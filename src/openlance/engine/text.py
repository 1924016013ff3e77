"""Text decoding: one token a step."""

from collections.abc import Generator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from openlance.engine.row import Row, Want
from openlance.model.context import Context

if TYPE_CHECKING:
    from openlance.engine.request import Request
    from openlance.model.lance import LanceModel
    from openlance.sequence.tokenizer import Tokenizer

Outputs = list[Tensor | None]


def choose_token(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> int:
    """Next token from logits (vocabulary,): the largest, or drawn from the nucleus of mass `top_p`."""
    if temperature == 0:
        return int(logits.argmax())
    probabilities = (logits.float().cpu() / temperature).softmax(-1)
    if top_p < 1:
        ordered, index = probabilities.sort(descending=True)
        keep = ordered.cumsum(-1) - ordered < top_p
        probabilities = torch.zeros_like(probabilities).scatter(0, index[keep], ordered[keep])
    return int(torch.multinomial(probabilities, 1, generator=generator))


class StopWatch:
    """Gives text out piece by piece, never a part of a stop string."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.stop = tuple(text for text in stop if text)
        self.pending = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """Text that is certainly part of the answer; sets `stopped` once a stop string is complete."""
        self.pending += piece
        found = [self.pending.find(text) for text in self.stop if text in self.pending]
        if found:
            self.stopped = True
            safe, self.pending = self.pending[: min(found)], ""
            return safe
        held = max((n for text in self.stop for n in range(1, len(text)) if self.pending.endswith(text[:n])), default=0)
        cut = len(self.pending) - held
        safe, self.pending = self.pending[:cut], self.pending[cut:]
        return safe


def decode_text(
    model: "LanceModel", tokenizer: "Tokenizer", request: "Request", context: Context, logits: Tensor, position: int
) -> Generator[list[Row], Outputs, tuple[str, list[int]]]:
    """Decode after a prefilled context whose last token gave `logits`; `position`: the rotary index of the first new token.

    Returns the text and its token ids (without the end of turn). Tokens beyond the tokenizer's own are never chosen.
    """
    sampling = request.text.resolve(model.config)
    assert sampling.max_new_tokens is not None
    generator = torch.Generator().manual_seed(request.seed)
    stream, watch = tokenizer.stream(), StopWatch(sampling.stop)
    ids: list[int] = []
    text = ""

    def give(piece: str) -> None:
        nonlocal text
        safe = watch.push(piece)
        text += safe
        if safe and request.on_text:
            request.on_text(safe)

    for step in range(sampling.max_new_tokens):
        token = choose_token(logits[: len(tokenizer)], sampling.temperature, sampling.top_p, generator)
        if token == tokenizer.end_of_turn:
            break
        ids.append(token)
        give(stream.push(token))
        if watch.stopped or step + 1 == sampling.max_new_tokens:
            break
        (output,) = yield [_token_row(model, token, position + step, context)]
        assert output is not None
        logits = output
    give(stream.finish())
    text += watch.pending
    if watch.pending and request.on_text:
        request.on_text(watch.pending)
    return text, ids


def _token_row(model: "LanceModel", token: int, position: int, context: Context) -> Row:
    device = model.device
    none = torch.zeros(0, dtype=torch.long)
    rotations = (model.rotation(torch.full((3, 1), position)), model.rotation(none.expand(3, 0)))
    return Row(
        want=Want.LOGITS,
        context=context,
        ids=torch.tensor([token], device=device),
        rotations=rotations,
        place=model.place(none.expand(3, 0)),
        latents=torch.zeros(0, model.config.latent_channels, device=device),
        times=torch.zeros(2, device=device),
        time_index=none.to(device),
    )
