"""The laws of queue and schedule, on a clock of their own."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openlance.apps.serve.admission import STRETCH, Budget, QueueFull, TooLarge, Waiting, due_time
from openlance.apps.serve.schedule import Active, Schedule

TOKEN = 1e-4


@dataclass
class Ticket:
    """As much of a ticket as a schedule looks at."""

    tokens: int
    left: int
    served: int = 0
    rows: list = field(default_factory=list)

    def __post_init__(self):
        self.rows = [range(self.tokens)]


@dataclass
class Applicant:
    due: float
    bytes: int


def jobs():
    job = st.tuples(st.booleans(), st.integers(1, 3000), st.integers(1, 12), st.floats(0, 20))
    return st.lists(job, min_size=1, max_size=12)


def make(kinds) -> list[Active]:
    return [Active(Ticket(1 if short else tokens, left), short, due) for short, tokens, left, due in kinds]


@given(jobs())
@settings(max_examples=60, deadline=None)
def test_everyone_is_served_to_the_end(kinds):
    schedule = Schedule(step_seconds=0.05, long_share=0.25)
    active = make(kinds)
    for _ in range(3000):
        if not active:
            break
        chosen = schedule.choose(active)
        assert chosen
        assert len(set(map(id, chosen))) == len(chosen)
        assert set(map(id, chosen)) <= set(map(id, active))
        schedule.account(0.002 + TOKEN * sum(a.tokens for a in chosen))
        for one in chosen:
            one.ticket.left -= 1
        active = [a for a in active if a.ticket.left > 0]
    assert not active


def test_pictures_get_their_share_while_answers_never_end():
    schedule = Schedule(step_seconds=0.05, long_share=0.25)
    active = [Active(Ticket(1, 0), True, 0.0)] + [Active(Ticket(200, 0), False, float(i)) for i in range(4)]
    long_time = total = 0.0
    for _ in range(4000):
        chosen = schedule.choose(active)
        spent = TOKEN * sum(a.tokens for a in chosen if not a.short)
        assert active[0] in chosen
        schedule.account(0.005 + spent)
        long_time, total = long_time + spent, total + 0.005 + spent
    assert long_time / total == pytest.approx(0.25, abs=0.08)


def test_steps_are_as_long_as_planned_once_the_rate_is_known():
    schedule = Schedule(step_seconds=0.05, long_share=0.25)
    active = [Active(Ticket(100, 0), False, float(i)) for i in range(20)]
    for _ in range(60):
        schedule.account_for = schedule.choose(active)
        schedule.account(TOKEN * sum(a.tokens for a in schedule.account_for))
    assert len(schedule.choose(active)) in (4, 5)


def test_the_one_that_is_due_first_goes_first():
    schedule = Schedule(step_seconds=0.001, long_share=0.25)
    late, soon = Active(Ticket(500, 0), False, 9.0), Active(Ticket(500, 0), False, 1.0)
    assert schedule.choose([late, soon]) == [soon]


def test_a_first_step_counts_by_the_tokens_that_are_coming_and_later_ones_by_their_rows():
    schedule = Schedule(step_seconds=0.05, long_share=0.25)
    ticket = Ticket(0, 0)
    known, coder = Active(ticket, False, 0.0, coming=30), Active(Ticket(0, 0), False, 1.0)
    assert (known.tokens, coder.tokens) == (30, 0)
    assert schedule.rates.seconds(known) == pytest.approx(30 * schedule.rates.token)
    assert schedule.choose([known]) == [known]
    schedule.account(0.01)
    assert known.tokens == 0  # pixels again
    ticket.rows = [range(7), range(2)]
    assert known.tokens == 9


@given(st.floats(0, 100), st.floats(0.01, 50), st.floats(0, 100), st.floats(0.01, 50))
def test_short_passes_long_only_within_its_stretch(arrived, seconds, later, brief):
    passes = due_time(arrived + later, brief) < due_time(arrived, seconds)
    assert passes == (arrived + later + STRETCH * brief < arrived + STRETCH * seconds)
    if later >= STRETCH * seconds:
        assert not passes


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 100)), min_size=1, max_size=20), st.integers(1, 6))
def test_admission_never_exceeds_the_budget_and_leaves_nobody_out(applicants, places):
    queue, budget, inside, seen = Waiting(100), Budget(100, places), [], 0
    for due, size in applicants:
        queue.add(Applicant(due, size), 1.0)
    while len(queue) or inside:
        admitted = queue.admit(budget, now=5.0)
        inside += admitted
        seen += len(admitted)
        assert budget.used == sum(a.bytes for a in inside) <= 100
        assert len(inside) <= places
        assert inside
        budget.give_back(inside.pop(0).bytes)
    assert seen == len(applicants)


def test_what_is_due_is_not_passed_by():
    queue, budget = Waiting(10), Budget(100, 10)
    budget.take(60)
    queue.add(Applicant(1.0, 80), 1.0)
    queue.add(Applicant(2.0, 10), 1.0)
    assert queue.admit(budget, now=3.0) == []
    assert [a.bytes for a in queue.admit(budget, now=0.5)] == [10]


def test_the_bounds_speak():
    queue = Waiting(1)
    queue.add(Applicant(0.0, 1), 1.0)
    with pytest.raises(QueueFull, match="the limit: try again in 7 s"):
        queue.add(Applicant(0.0, 1), 7.0)
    with pytest.raises(TooLarge, match=r"about 3 MiB .* has 1 MiB"):
        Budget(2**20, 1).check(3 * 2**20)
