"""The embedded model says what it knows where a prompt leaves its world, and nothing where it does not."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openlance.data.known_words import main, world_words
from openlance.errors import LanceError
from openlance.pipeline import Lance, LanceNotice
from openlance.sequence.known_words import KnownWords
from openlance.weights.hub import resolve
from openlance.world.draw import Setting
from openlance.world.palette import COLOURS, SHAPES, THINGS
from openlance.world.splits import SPLITS
from openlance.world.tasks import CATEGORIES, make_example

EVERYTHING = [(task, category) for task, categories in CATEGORIES.items() for category in categories]
WORLD = world_words()


def test_the_embedded_model_has_the_words_of_its_world() -> None:
    path = resolve("nano").words
    assert path is not None
    assert KnownWords.load(path) == WORLD


@given(
    what=st.sampled_from(EVERYTHING),
    index=st.integers(1000, 9000),
    ring=st.sampled_from([1, 2]),
    split=st.sampled_from(SPLITS),
    more=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_nothing_that_the_world_says_is_outside(what: tuple[str, str], index: int, ring: int, split: str, more: bool) -> None:
    setting = Setting(256, 256, ring=ring, split=split, more_phrasings=more and split == "train")
    try:
        example = make_example(*what, index, setting)
    except LanceError:  # not every category has every split
        return
    for turn in example.turns:
        assert WORLD.notices(turn.text) == (), turn.text


def test_a_prompt_outside_the_world_gives_a_picture_and_a_notice() -> None:
    lance = Lance.from_pretrained("nano")
    with pytest.warns(LanceNotice) as told:
        picture = lance.generate_image("a corgi riding a red bycicle in Paris", num_inference_steps=1)
    assert picture.size == (128, 128)
    unknown, known = (str(warning.message) for warning in told)
    assert {warning.filename for warning in told} == {__file__}
    assert unknown.startswith("the model has never met 'corgi', 'riding' (rising?), 'bycicle' and 'Paris'")
    assert all(name in known for name in (*SHAPES, *THINGS, *COLOURS))
    assert lance.engine.run([lance.request("t2i", 'a red circle and the word "NAVY"', num_inference_steps=1)])[0].notices == ()


def test_words_go_where_the_weights_go_but_not_through_training(tmp_path: Path) -> None:
    from openlance.train.prepare import draft_model
    from openlance.train.recipe import ModelRecipe

    lance = Lance.from_pretrained("nano")
    lance.save_pretrained(tmp_path / "copy")
    assert Lance.from_pretrained(tmp_path / "copy").binder.known_words == WORLD
    assert draft_model(ModelRecipe(checkpoint=str(tmp_path / "copy")), 0).binder.known_words is None
    (tmp_path / "copy" / "words.json").unlink()
    assert Lance.from_pretrained(tmp_path / "copy").binder.known_words is None


def test_the_words_are_put_into_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "is no checkpoint" in capsys.readouterr().err
    shutil.copy(resolve("nano").config, tmp_path)
    main([str(tmp_path)])
    assert capsys.readouterr().out.strip() == str(tmp_path / "words.json")
    assert set(json.loads((tmp_path / "words.json").read_text())["words"]) == WORLD.words
