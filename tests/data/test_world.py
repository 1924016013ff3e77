"""What a cache's recipe may ask the world for."""

from collections import Counter

import pytest

from openlance.data.world import WorldData
from openlance.errors import LanceError
from openlance.world.more_phrasings import MORE


def acts(data: WorldData, count: int = 60) -> Counter[str]:
    scenes = [data.example(index).turns[0].target.scene for index in range(count)]  # type: ignore[union-attr]
    return Counter(o.event.kind if o.event else o.motion.kind for scene in scenes for o in scene.objects)


def test_motions_come_as_often_as_is_asked() -> None:
    alike = acts(WorldData("t2v"))
    bouncing = acts(WorldData("t2v", motions={"bounce": 20.0, "spin": 0.0}))
    assert bouncing["bounce"] > 3 * alike["bounce"] > 0
    assert alike["spin"] > bouncing["spin"] == 0


@pytest.mark.parametrize(("task", "most"), [("t2v", 3), ("i2v", 2), ("video_edit", 2)])
def test_clips_have_as_many_objects_as_is_asked_and_the_task_has(task: str, most: int) -> None:
    def counts(fewest: int) -> list[int]:
        data = WorldData(task, fewest_objects=fewest, categories={"colour": 1} if task == "video_edit" else None)
        return [len(turn.target.scene.objects) for index in range(40) for turn in data.example(index).turns[:1] if turn.target]

    assert set(counts(1)) == set(range(1, most + 1))
    assert counts(3).count(most) > 1.3 * counts(1).count(most) > 0
    assert sum(counts(3)) > 0.8 * 40 * most  # there is not always room for one


def test_events_come_as_often_as_is_asked() -> None:
    events = ("appear", "disappear", "recolour", "stop")
    never, always = acts(WorldData("t2v", events=0.0)), acts(WorldData("t2v", events=1.0))
    assert not any(never[event] for event in events)
    assert sum(always[event] for event in events) >= 50  # one in a clip with anything in it


def test_edits_are_said_in_more_ways_where_that_is_asked() -> None:
    """Colours of shapes are changed: the sentences that only training knows come in one of three cases, and never unasked."""
    starts = tuple(phrasing.split("{")[0] for phrasing in MORE["edit colour"])

    def of_more(asked: bool) -> int:
        data = WorldData("image_edit", {"colour": 1.0}, more_phrasings=asked)
        return sum(data.example(index).turns[0].text.startswith(starts) for index in range(200))

    assert of_more(False) == 0
    assert of_more(True) > 30  # 3 of 11 are 54


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"events": 1.5}, "events 1.5 must be a share"),
        ({"fewest_objects": 4}, "fewest_objects 4 must be from 1 to 3"),
        ({"lattice": -1}, "lattice -1"),
        ({"motions": {"hop": 1.0}}, r"motions \{hop: 1.0\} must be a weight .* left, right, up"),
        ({"motions": {"still": 1.0}}, r"motions \{still: 1.0\}"),
        ({"motions": {"spin": -1.0}}, r"motions \{spin: -1.0\}"),
        ({"motions": {"spin": float("nan")}}, r"motions \{spin: nan\}"),
        ({"motions": dict.fromkeys(("left", "right", "up", "down", "blink", "bounce"), 0.0)}, "leave objects without one"),
    ],
)
def test_what_cannot_be_drawn_is_refused(asked: dict[str, object], message: str) -> None:
    with pytest.raises(LanceError, match=message):
        WorldData("t2v", **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", [{"events": 0.5}, {"motions": {"spin": 2.0}}, {"fewest_objects": 2}])
def test_what_is_of_clips_is_refused_where_there_are_none(asked: dict[str, object]) -> None:
    for task, categories in (("t2i", None), ("image_edit", None), ("understand", {"colour": 1.0})):
        with pytest.raises(LanceError, match=f"task '{task}' .* has no clips: leave out {next(iter(asked))}"):
            WorldData(task, categories, **asked)  # type: ignore[arg-type]
    for task, categories in (("video_edit", None), ("story", None), ("understand", {"colour": 1.0, "video who": 1.0})):
        WorldData(task, categories, **asked)  # type: ignore[arg-type]
