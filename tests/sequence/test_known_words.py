"""Prompts outside a closed language: named word by word, never refused."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlance.errors import CheckpointError
from openlance.sequence.known_words import LONGEST_TOLD, MOST_TOLD, KnownWords

KNOWN = KnownWords(frozenset({"a", "red", "circle", "medium-sized", "the"}), {"shapes": ("circle",), "colours": ("red", "blue")}, (3, 5))


@pytest.mark.parametrize("prompt", ["", "a red circle", "A Red, medium-sized CIRCLE!", 'the "NAVY" circle', "the “SKY” circle", " .,;!? "])
def test_what_is_known_needs_no_notice(prompt: str) -> None:
    assert KNOWN.notices(prompt) == ()


def test_words_outside_are_named_and_what_is_known_is_listed() -> None:
    told, known = KNOWN.notices("a Corgi, a circel: a corgi's Corgi")
    first, _, what = told.partition(": ")
    assert first == "the model has never met 'Corgi', 'circel' (circle?) and 'corgi's'"
    assert what == "what it cannot read it passes over, or takes for something else"
    assert known == "it knows shapes: circle; colours: red, blue"
    assert KNOWN.notices("größe")[0].startswith("the model has never met 'größe': what")


@pytest.mark.parametrize("text", ["Hello", "NO", "LETTERS", "TWO W", "ÄÖÜ", "AB1"])
def test_quotes_hold_what_it_can_write(text: str) -> None:
    assert KNOWN.notices(f'the "{text}"') == (f"in quotes the model writes 3 to 5 capital letters, A to Z, not '{text}'",)


def test_a_long_prompt_has_a_short_notice() -> None:
    words = [f"word{'o' * 100}{i}" for i in range(1000)]
    told, _ = KNOWN.notices(" ".join(words))
    assert told.count("…") == MOST_TOLD
    assert f"{1000 - MOST_TOLD} more" in told
    assert len(told) < 120 + (MOST_TOLD + 1) * (LONGEST_TOLD + 10)
    lines = "\n" * 9
    (told,) = KNOWN.notices(" ".join(f'"text{lines}{i}"' for i in range(1000)))
    assert len(told) < 200
    assert "\n" not in told


@given(st.text(max_size=200))
def test_whatever_people_write_has_an_answer(prompt: str) -> None:
    notices = KNOWN.notices(prompt)
    assert all(isinstance(notice, str) and notice for notice in notices)
    assert len(notices) <= 3


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    KNOWN.save(path)
    assert KnownWords.load(path) == KNOWN


GOOD = {"words": ["a"], "knows": {"shapes": ["a"]}, "letters": [3, 5]}


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", *(json.dumps({**GOOD, **wrong}) for wrong in (
        {"words": "abc"}, {"words": [1]}, {"knows": []}, {"knows": {"a": "b"}}, {"letters": 3}, {"letters": [3]}, {"letters": ["3", "5"]}
    )), *(json.dumps({key: GOOD[key] for key in GOOD if key != left_out}) for left_out in GOOD)],
)  # fmt: skip
def test_a_file_of_another_form_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "words.json"
    path.write_text(json.dumps(GOOD))
    KnownWords.load(path)
    path.write_text(content)
    with pytest.raises(CheckpointError, match=r"words\.json must hold .*copy it again, or remove it"):
        KnownWords.load(path)
