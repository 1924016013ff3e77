import pytest

from openlance.errors import LanceError
from openlance.eval.rounds import items_of, play
from openlance.eval.scores import SCORES
from openlance.eval.suite import PAIRS, SEEN, SUITES, Cell, find_suites
from openlance.world.splits import splits

from .answerers import Lazy


def test_every_cell_has_examples_and_a_name_of_its_own() -> None:
    cells = [cell for suite in SUITES.values() for cell in suite.cells]
    assert len({cell.key for cell in cells}) == len(cells)
    for cell in cells:
        for number in range(len(cell.categories)):
            example = items_of(cell, number + 1, 0)[-1].example()
            assert example.category == cell.categories[number]
            assert example.split == cell.setting.split
            assert splits().evaluation_seeds[0] <= example.seed < splits().evaluation_seeds[1]
        assert cell.suite.score in SCORES


def test_unseen_pairs_are_pairs_that_training_never_has() -> None:
    cell = Cell(SUITES["generate"], PAIRS, ("colour",))
    for item in items_of(cell, 8, 0, 1):
        (shown,) = item.example().target.scene.objects
        assert splits().holds(shown.kind, shown.colour)


def test_unknown_suites_are_named() -> None:
    with pytest.raises(LanceError, match="unknown suite editing: choose among generate"):
        find_suites(["generate", "editing"])


def test_each_picture_has_its_own_noise_and_every_run_the_same() -> None:
    cell = Cell(SUITES["generate"], SEEN, ("single",))
    items, again = items_of(cell, 3, 0), items_of(cell, 3, 0)
    assert len(items) == 12
    assert len({item.noise for item in items}) == 12
    assert [item.noise for item in items] == [item.noise for item in again]
    assert items_of(cell, 1, 1)[0].example() != items[0].example()
    assert items[0].example() == items[3].example()


def test_a_turn_of_a_story_starts_from_what_came_before() -> None:
    (played,) = play(items_of(SUITES["multiturn"].cells[0], 1, 0), Lazy())
    assert [turn.task for turn in played.example.turns] == ["t2i", "image_edit", "image_edit", "understand"]
    assert played.given[0] == ()
    assert all(played.given[k] == (played.answers[0],) for k in (1, 2, 3))
