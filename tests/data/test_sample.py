"""What a training sample says and loses."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlance.data.records import Words
from openlance.data.sample import STRANGE_LETTERS, ConditionDropout
from openlance.errors import LanceError
from openlance.sequence.segment import CONDITION_ROLES, PROMPT_ROLES

TEXT = 'the word "TWO  ON" in red and a circle'


def test_shares_are_those_that_were_asked_for() -> None:
    dropout, rng = ConditionDropout(prompt=0.2, all=0.1, word=0.3), Random(0)
    lost = [dropout.draw(rng) for _ in range(4000)]
    assert abs(lost.count(PROMPT_ROLES) / 4000 - 0.2) < 0.03
    assert abs(lost.count(CONDITION_ROLES) / 4000 - 0.1) < 0.02
    said = [dropout.speak(Words("t2i", TEXT), rng).text for _ in range(4000)]
    strange = [text for text in said if text != TEXT]
    assert abs(len(strange) / 4000 - 0.3) < 0.03
    longer = sum(len(text.split(" ")) > len(TEXT.split(" ")) for text in strange)
    assert abs(longer / len(strange) - 0.5) < 0.06


@given(st.text(alphabet='ab" ', max_size=30), st.integers(0, 1000))
def test_one_strange_word_comes_and_quotes_stay(text: str, seed: int) -> None:
    words = Words("understand", text, "yes", "system", (("more", "no"),))
    spoken = ConditionDropout(word=1.0).speak(words, Random(seed))
    assert (spoken.task, spoken.answer, spoken.system, spoken.more) == (words.task, words.answer, words.system, words.more)
    # Every second part is quoted; an unclosed quote lasts to the end.
    assert spoken.text.split('"')[1::2] == text.split('"')[1::2]
    before, after = text.split(" "), spoken.text.split(" ")
    strange = [word for word in after if word and set(word) <= set(STRANGE_LETTERS)]
    assert strange
    cuts = [(i, j) for i in range(len(before) + 1) for j in (i, i + 1) if j <= len(before)]
    assert any(after == [*before[:i], word, *before[j:]] for word in strange for i, j in cuts)


def test_without_it_nothing_is_said_otherwise_and_no_chance_is_drawn() -> None:
    rng, words = Random(3), Words("t2i", TEXT)
    assert ConditionDropout().speak(words, rng) is words
    assert rng.random() == Random(3).random()


@pytest.mark.parametrize(
    "shares", [{"prompt": -0.1}, {"prompt": 0.6, "all": 0.5}, {"word": 1.1}, {"all": float("nan")}, {"word": float("nan")}]
)
def test_impossible_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(LanceError, match="must be shares from 0 to 1"):
        ConditionDropout(**shares)
