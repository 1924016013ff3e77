"""Which active requests take the next step: answers first, pictures and clips by due time, steps short enough to join.

Every step may hold rows of both kinds. What bounds a step is time, predicted from the steps before it; what bounds pictures while
answers are being written is a share of time: every step pays its share into a credit, and when it covers a full step of pictures,
one is made: many small ones would take longer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openlance.engine.engine import Ticket
    from openlance.engine.remote import Away

MEMORY = 0.2
"""Weight of the newest step in the running means."""


@dataclass(eq=False)
class Active:
    """A request inside the engine. `short`: it produces text. `due`: see `admission.due_time`. `coming`: about how many tokens its first
    step has, where that step codes no pixels; rows are there only afterwards.
    """

    ticket: "Ticket | Away"
    short: bool
    due: float
    coming: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of its next step; 0 where the next step is coding of pixels."""
        return sum(len(row) for row in self.ticket.rows) or self.coming


class Rates:
    """Running means of what steps take: seconds a token, seconds of a piece of coding."""

    def __init__(self, token: float = 5e-5, piece: float = 0.03) -> None:
        self.token = token
        self.piece = piece

    def seconds(self, active: Active) -> float:
        """Predicted length of a request's next step."""
        return active.tokens * self.token if active.tokens else self.piece

    def learn(self, tokens: int, pieces: int, seconds: float) -> None:
        """Correct the means by a step of so many tokens and pieces; the error is shared as the prediction was."""
        predicted = tokens * self.token + pieces * self.piece
        if predicted <= 0:
            return
        factor = (1 - MEMORY) + MEMORY * min(max(seconds / predicted, 0.2), 5.0)
        if tokens:
            self.token *= factor
        if pieces:
            self.piece *= factor


class Schedule:
    """Chooses requests for a step and learns from what the step took."""

    def __init__(self, step_seconds: float, long_share: float) -> None:
        self.step_seconds = step_seconds
        self.long_share = long_share
        self.rates = Rates()
        self.short_seconds = 0.01
        self._credit = 0.0
        self._ceiling = step_seconds
        self._chosen: list[Active] = []
        self._tokens = 0
        self._pieces = 0

    def choose(self, active: Sequence[Active]) -> list[Active]:
        """Those of `active` that take the next step, never none when there is one."""
        short = self._fill([], sorted((a for a in active if a.short), key=lambda a: a.due), self.step_seconds)
        long = sorted((a for a in active if not a.short), key=lambda a: a.due)
        predicted = [self.rates.seconds(a) for a in long]
        full_step = max(predicted[0], min(self.step_seconds, sum(predicted))) if long else self.step_seconds
        self._ceiling = max(self.step_seconds, full_step)
        if not short:
            self._credit = 0.0
            chosen = self._fill([], long, self.step_seconds)
        elif long and self._credit >= full_step:
            chosen = self._fill(short, long, self.step_seconds)
        else:
            chosen = short
        longs = [a for a in chosen if not a.short]
        self._chosen = chosen
        self._tokens, self._pieces = sum(a.tokens for a in longs), sum(not a.tokens for a in longs)
        return chosen

    def account(self, seconds: float) -> None:
        """What the chosen step took."""
        for active in self._chosen:
            active.coming = 0
        shorts = any(a.short for a in self._chosen)
        longs = bool(self._tokens or self._pieces)
        if not longs:
            self.short_seconds += MEMORY * (seconds - self.short_seconds)
        spent = max(0.0, seconds - self.short_seconds * shorts) if longs else 0.0
        if longs and spent:
            self.rates.learn(self._tokens, self._pieces, spent)
        if shorts:
            self._credit = min(self._ceiling, self._credit + self.long_share * seconds - spent)

    def _fill(self, chosen: list[Active], candidates: list[Active], limit: float) -> list[Active]:
        """`chosen` and as many candidates as `limit` seconds allow: the first one in any case, then, in order, whoever still fits."""
        filled, left = list(chosen), limit
        for candidate in candidates:
            seconds = self.rates.seconds(candidate)
            if seconds <= left or len(filled) == len(chosen):
                filled.append(candidate)
                left -= seconds
        return filled
