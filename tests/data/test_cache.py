"""What comes out of a cache is what was put in, but for bfloat16; its words can be new."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch

from openlance.data.cache import CachedSource, ShardWriter
from openlance.data.features import encode_records
from openlance.data.loader import BatchRecipe, Loader
from openlance.data.mixture import Mixture, Weight
from openlance.data.sample import KEEP_ALL, Sample, bind_sample
from openlance.data.source import WorldSource
from openlance.data.streams import Streams
from openlance.data.world import Rephrase, WorldData, record_of
from openlance.errors import LanceError
from openlance.sequence.bind import Binder
from openlance.sequence.segment import Kind, Role
from openlance.sequence.template import OWN_WORDING
from openlance.world.phrasings import Voice
from openlance.world.questions import IMAGE_QUESTIONS
from openlance.world.scene import Scene
from tests.train.tiny import ANCHORS, TinyEncoders, tiny_tokenizer

BINDER = Binder(tiny_tokenizer(), OWN_WORDING)
TASKS = ("t2i", "image_edit", "understand", "subject_image", "i2v", "video_edit")


def fill(folder: Path, task: str, shards: int = 1, count: int = 3) -> WorldData:
    data = WorldData(task, {"understand": {"colour": 1.0, "count": 1.0}}.get(task), num_frames=5)
    writer = ShardWriter(folder, {"task": task})
    for shard in range(shards):
        examples = [data.example(shard * count + i) for i in range(count)]
        extras = [{"category": e.category, "scene": (e.target or e.inputs[0]).scene.to_dict()} for e in examples]
        writer.write(shard, [record_of(e.turns[0]) for e in examples], extras, TinyEncoders(), batch=2)
    return data


def source(folder: Path, rephrase: Rephrase | None = None) -> CachedSource:
    return CachedSource("cached", folder, BINDER, KEEP_ALL, rephrase)


def same(a: Sample, b: Sample) -> bool:
    features = [x is y is None or torch.equal(x, y.bfloat16()) for x, y in zip(a.features, b.features, strict=True)]  # type: ignore[union-attr]
    return a.task == b.task and a.segments == b.segments and a.branches == b.branches and all(features)


@pytest.mark.parametrize("task", TASKS)
def test_cached_samples_equal_those_made_on_the_fly(tmp_path: Path, task: str) -> None:
    data = fill(tmp_path, task, shards=2)
    cached = source(tmp_path)
    assert len(cached) == 6
    fresh = WorldSource("fresh", data, TinyEncoders(), BINDER, KEEP_ALL)
    for index in range(6):
        assert same(cached.sample(index, Random(0)), fresh.sample(index, Random(0)))


def test_a_growing_cache_is_noticed(tmp_path: Path) -> None:
    fill(tmp_path, "t2i")
    cached = source(tmp_path)
    assert len(cached) == 3
    fill(tmp_path, "t2i", shards=2)
    assert len(cached) == 6
    (tmp_path / "shard-00002.safetensors").write_bytes(b"half")
    assert len(cached) == 6


def test_a_cache_without_shards_says_what_is_there(tmp_path: Path) -> None:
    cache = tmp_path / "pictures"

    def begin() -> Mixture:
        return Mixture([source(cache)], [Weight()], 0)

    with pytest.raises(LanceError, match=rf"'cached' is empty: there is no folder {cache}; fill it .*openlance train CACHE_RECIPE"):
        begin()
    ShardWriter(cache, {"task": "t2i"})
    with pytest.raises(LanceError, match=rf"is empty: {cache} has 0 complete shards; fill it"):
        begin()
    fill(cache, "t2i", shards=3)
    assert begin().lengths == [9]
    (cache / "shard-00000.jsonl").unlink()
    with pytest.raises(LanceError, match=rf"{cache} has 0 complete shards, and 2 behind shard-00000\.jsonl, which is missing"):
        begin()
    assert (
        Mixture(
            [source(cache), WorldSource("world", WorldData("t2i"), TinyEncoders(), BINDER, KEEP_ALL)], [Weight(0.0), Weight()], 0
        ).lengths[0]
        == 0
    )


def test_a_cache_that_lost_shards_since_the_checkpoint_is_named(tmp_path: Path) -> None:
    """Also how a process of several learns that it sees another folder than rank 0, whose state it takes over."""
    fill(tmp_path, "t2i", shards=2)
    state = Mixture([source(tmp_path)], [Weight()], 0).state()
    (tmp_path / "shard-00001.jsonl").unlink()
    with pytest.raises(LanceError, match=rf"has 3 samples and the run goes on from 6: {tmp_path} has 1 complete shards; bring back"):
        Mixture([source(tmp_path)], [Weight()], 0).load_state(state)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"half")], ids=["missing", "half"])
def test_features_that_cannot_be_read_are_named(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    fill(tmp_path, "t2i")
    spoil(tmp_path / "shard-00000.safetensors")
    with pytest.raises(LanceError, match=r"shard-00000\.safetensors cannot be read .*remove shard-00000\.jsonl .*build the cache again"):
        len(source(tmp_path))


def test_one_shard_serves_any_number_of_processes_and_streams(tmp_path: Path) -> None:
    """Shards are not dealt out: every process and stream draws from all of them, and the batches of a step are shared."""
    fill(tmp_path, "t2i", count=4)
    recipe = BatchRecipe(tokens=512, tokens_per_step=2048, streams=3)

    def streams(rank: int, ranks: int, workers: int) -> Streams:
        mixtures = [Mixture([source(tmp_path)], [Weight()], seed) for seed in range(recipe.streams)]
        return Streams([Loader(mixture, recipe, ANCHORS, rank, ranks) for mixture in mixtures], workers)

    alone = streams(0, 1, 0)
    shared = [streams(rank, 4, workers=3) for rank in range(4)]
    for _ in range(2 * recipe.streams):
        whole = alone.step()
        parts = {each.place(i): batch for each in shared for i, batch in enumerate(each.step())}
        assert len(parts) == len(whole) > 1
        assert all(torch.equal(parts[i].latents, batch.latents) for i, batch in enumerate(whole))


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    fill(tmp_path, "t2i")
    with pytest.raises(LanceError, match="other settings"):
        ShardWriter(tmp_path, {"task": "t2v"})


def test_a_folder_from_before_a_field_existed_stands_for_its_default(tmp_path: Path) -> None:
    ShardWriter(tmp_path, {"world": {"task": "t2i"}, "first": 0})
    defaults = {"world": {"task": "t2i", "events": 0.2}}
    with pytest.raises(LanceError, match="other settings"):
        ShardWriter(tmp_path, {"world": {"task": "t2i", "events": 0.4}, "first": 0}, defaults)
    ShardWriter(tmp_path, {"world": {"task": "t2i", "events": 0.2}, "first": 0}, defaults)
    assert json.loads((tmp_path / "cache.json").read_text())["world"] == defaults["world"]


def text_of(sample: Sample, role: Role) -> list[str]:
    return [BINDER.tokenizer.decode(s.ids) for s in sample.segments if s.kind is Kind.TEXT and s.role is role]


def test_words_are_new_each_time_and_true(tmp_path: Path) -> None:
    fill(tmp_path, "understand")
    asked = source(tmp_path, Rephrase(questions=3))
    assert len(asked) == 3
    samples = [asked.sample(0, Random(seed)) for seed in range(20)]
    first = {text_of(sample, Role.PROMPT)[0] for sample in samples}
    assert len(first) > 3
    assert max(len(text_of(sample, Role.TARGET)) for sample in samples) == 3
    again = asked.sample(0, Random(3))
    assert same(again, samples[3])


def test_of_a_named_category_all_questions_are(tmp_path: Path) -> None:
    fill(tmp_path, "understand")
    asked = source(tmp_path, Rephrase(questions=4, category="exists"))
    assert len(asked) == 3
    answers = [text_of(asked.sample(0, Random(seed)), Role.TARGET) for seed in range(10)]
    assert [len(found) for found in answers] == [4] * 10
    assert {answer.removesuffix("<|im_end|>") for found in answers for answer in found} == {"yes", "no"}


def test_no_question_is_asked_about_what_an_empty_scene_lacks() -> None:
    scene, voice = Scene(128, 128, "white"), Voice(Random(0))
    said = {name: ask(voice, scene) for name, ask in IMAGE_QUESTIONS.items()}
    assert {name for name, question in said.items() if question} == {"background", "caption brief", "caption full"}


def test_prompts_are_new_each_time(tmp_path: Path) -> None:
    fill(tmp_path, "t2i")
    cached = source(tmp_path, Rephrase())
    assert len(cached) == 3
    prompts = {text_of(cached.sample(1, Random(seed)), Role.PROMPT)[0] for seed in range(20)}
    assert len(prompts) > 10


def test_media_of_one_size_share_a_pass_and_keep_their_order() -> None:
    tasks = ("image_edit", "t2i", "video_edit")
    records = [record_of(WorldData(task, num_frames=5).example(i).turns[0]) for i in range(2) for task in tasks]
    together = encode_records(records, TinyEncoders())
    for record, (media, target) in zip(records, together, strict=True):
        ((alone, only),) = encode_records([record], TinyEncoders())
        bound = [bind_sample(BINDER, record.words, m, t) for m, t in ((media, target), (alone, only))]
        assert all(x is y is None or torch.equal(x, y) for x, y in zip(bound[0].features, bound[1].features, strict=True))  # type: ignore[arg-type]
