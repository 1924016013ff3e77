"""Building caches: any number of processes writes the same files, and what is there is not built again."""

import json
from pathlib import Path

import pytest
import yaml

from openlance.apps.recipes import read_run
from openlance.data.world import WorldData
from openlance.errors import LanceError
from openlance.train.build_cache import CacheBuilder, CachePlan, build_caches, read_plan
from openlance.train.recipe import RecipeError


def recipe(folder: Path, name: str, **changes: object) -> Path:
    """Caches without encoders: text alone needs none."""
    values = {
        "defaults": {"output": str(folder / name), "shard_size": 3, "shards": 3},
        "caches": {"first": {"world": {"task": "t2i"}}, "second": {"world": {"task": "t2i"}, "first": 100, "shards": 2}},
        **changes,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def encoders(tmp_path: Path) -> Path:
    """A tiny autoencoder as its pre-stage leaves it."""
    import dataclasses

    from openlance.model.autoencoder import Autoencoder, AutoencoderConfig
    from openlance.train.encoder_stage import write_encoder

    config = AutoencoderConfig(4, (8, 8, 8), (1, 1, 1), (1, 1, 1))
    folder = tmp_path / "autoencoder"
    folder.mkdir()
    write_encoder(folder, Autoencoder(config), {"class": "light", **dataclasses.asdict(config)})
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_processes_together_write_what_one_writes(tmp_path: Path, encoders: Path) -> None:
    defaults = {"shard_size": 3, "shards": 3, "autoencoder": str(encoders)}
    one = recipe(tmp_path, "one", defaults={**defaults, "output": str(tmp_path / "one")})
    two = recipe(tmp_path, "two", defaults={**defaults, "output": str(tmp_path / "two")}, processes=2)
    build_caches(read_plan(one))
    read_run(two).start()
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert {"first/shard-00002.jsonl", "second/shard-00001.jsonl"} < set(files(tmp_path / "one"))
    assert "second/shard-00002.jsonl" not in files(tmp_path / "one")


def test_building_again_does_only_what_is_left(tmp_path: Path, encoders: Path) -> None:
    values = {"output": str(tmp_path / "again"), "shard_size": 3, "shards": 2, "autoencoder": str(encoders)}
    path = recipe(tmp_path, "again", defaults=values)
    build_caches(read_plan(path))
    before = {name: (tmp_path / "again" / name).stat().st_mtime_ns for name in files(tmp_path / "again")}
    whole = files(tmp_path / "again")
    (tmp_path / "again" / "first" / "shard-00001.jsonl").unlink()
    build_caches(read_plan(path))
    assert files(tmp_path / "again") == whole
    same = [name for name, time in before.items() if (tmp_path / "again" / name).stat().st_mtime_ns == time]
    assert "first/shard-00000.safetensors" in same
    assert "first/shard-00001.safetensors" not in same


def test_a_cache_is_not_gone_on_with_by_a_world_that_draws_otherwise(
    tmp_path: Path, encoders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"output": str(tmp_path / "again"), "shard_size": 3, "shards": 1, "autoencoder": str(encoders)}
    build_caches(read_plan(recipe(tmp_path, "again", defaults=values)))
    drawn = WorldData.example
    monkeypatch.setattr(WorldData, "example", lambda world, index: drawn(world, index + (index == 40)))
    with pytest.raises(LanceError, match=r"other settings \(drawn\)"):
        build_caches(read_plan(recipe(tmp_path, "again", defaults={**values, "shards": 2})))
    settings = tmp_path / "again" / "first" / "cache.json"
    settings.write_text(json.dumps({key: value for key, value in json.loads(settings.read_text()).items() if key != "drawn"}))
    CacheBuilder(read_plan(recipe(tmp_path, "again", defaults=values)).caches["first"])  # a folder from before stands for what is drawn now
    assert json.loads(settings.read_text())["drawn"]["scenes"]


def test_a_cache_is_not_gone_on_with_by_an_encoder_of_another_configuration(tmp_path: Path, encoders: Path) -> None:
    values = {"output": str(tmp_path / "again"), "shard_size": 3, "shards": 1, "autoencoder": str(encoders)}
    build_caches(read_plan(recipe(tmp_path, "again", defaults=values)))
    config = json.loads((encoders / "config.json").read_text())
    (encoders / "config.json").write_text(json.dumps({**config, "corrections": 2}))
    with pytest.raises(LanceError, match=r"other settings \(configurations\)"):
        build_caches(read_plan(recipe(tmp_path, "again", defaults={**values, "shards": 2})))


def test_a_process_that_fails_is_reported(tmp_path: Path) -> None:
    plan = read_plan(recipe(tmp_path, "bad", processes=2))  # no autoencoder
    with pytest.raises(LanceError, match="2 of 2 processes failed"):
        build_caches(plan)


def test_bad_plans_name_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"unknown keys \['speed'\]"):
        read_plan(recipe(tmp_path, "bad", speed=3))
    with pytest.raises(RecipeError, match="0 processes"):
        CachePlan({}, processes=0)
    plan = read_plan(recipe(tmp_path, "good"), ["processes=3", "device=cuda"])
    assert (plan.processes, plan.device, plan.caches["second"].first) == (3, "cuda", 100)
