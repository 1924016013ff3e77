"""What comes out of a cache is what was put in, but for bfloat16; its words can be new."""

from pathlib import Path
from random import Random

import pytest
import torch

from openlance.data.cache import CachedSource, ShardWriter
from openlance.data.features import encode_records
from openlance.data.sample import KEEP_ALL, Sample, bind_sample
from openlance.data.source import WorldSource
from openlance.data.world import Rephrase, WorldData, record_of
from openlance.errors import LanceError
from openlance.sequence.bind import Binder
from openlance.sequence.segment import Kind, Role
from openlance.sequence.template import OWN_WORDING
from tests.train.tiny import TinyEncoders, tiny_tokenizer

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


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    fill(tmp_path, "t2i")
    with pytest.raises(LanceError, match="other settings"):
        ShardWriter(tmp_path, {"task": "t2v"})


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
