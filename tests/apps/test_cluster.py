"""Work on a Ray cluster: what it is asked for, that results are those of one machine, and that each comes once whatever dies."""

import argparse
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openlance.apps.cluster import ModelChoice, Share, chosen_model, connected, share_out
from openlance.apps.requests_file import Job, read_jobs
from openlance.errors import RequestError
from tests.apps.cluster import load_mortal, small_cluster
from tests.apps.conftest import Cli
from tests.apps.test_batch import SIZE, results_of, write_lines
from tests.waiting import wait_until

GIB, CPU4, GPU2 = 2.0**30, {"CPU": 4.0, "memory": 2.0**30}, {"CPU": 8.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("nodes", "replicas", "device", "expected"),
    [
        ([CPU4], None, "auto", Share(1, 4, 0)),
        ([CPU4], 2, "auto", Share(2, 2, 0)),
        ([CPU4], 3, "auto", Share(3, 1, 0)),
        ([CPU4, {"CPU": 2.0}, {"memory": GIB}], None, "auto", Share(2, 2, 0)),
        ([CPU4, CPU4], 3, "auto", Share(3, 2, 0)),
        ([GPU2, GPU2, CPU4], None, "auto", Share(4, 1, 1)),
        ([GPU2], 1, "cuda", Share(1, 1, 1)),
        ([GPU2], None, "cpu", Share(1, 8, 0)),
    ],
)
def test_a_cluster_is_shared_out(nodes: list[dict[str, float]], replicas: int | None, device: str, expected: Share) -> None:
    assert share_out(nodes, replicas, device) == expected
    assert str(expected.replicas) in expected.told()


@pytest.mark.parametrize(
    ("nodes", "replicas", "device", "told"),
    [
        ([CPU4], 0, "auto", "--replicas 0 must be at least 1"),
        ([CPU4], 5, "auto", "--replicas 5 need as many CPUs and the cluster has 4"),
        ([GPU2], 3, "auto", "--replicas 3 need as many GPUs and the cluster has 2"),
        ([CPU4], None, "cuda", "the cluster has 0"),
        ([], None, "auto", "the cluster has 0"),
    ],
)
def test_more_than_a_cluster_has_is_refused(nodes: list[dict[str, float]], replicas: int | None, device: str, told: str) -> None:
    with pytest.raises(RequestError, match=told):
        share_out(nodes, replicas, device)


@pytest.mark.parametrize("address", ["nonsense", "ray://head:10001", ":6379", "head:port", ""])
def test_an_address_of_another_form(tiny: Cli, tmp_path: Path, address: str) -> None:
    path = write_lines(tmp_path / "r.jsonl", {"id": "a", "task": "t2i"})
    run = tiny("batch", path, "--output", "out", "--ray", address)
    assert run.code == 2
    assert f"--ray '{address}' is no address of a cluster: give HOST:PORT of its head, auto or local" in run.err


def test_where_no_cluster_is(tiny: Cli, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.jsonl", {"id": "a", "task": "t2i"})
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        run = tiny("batch", path, "--output", "out", "--ray", address)
    assert run.code == 2
    assert f"no Ray cluster can be reached at --ray {address}" in run.err
    assert "ray start --head" in run.err
    assert "--replicas 2 needs a cluster" in tiny("batch", path, "--output", "out", "--replicas", "2").err


def test_ray_is_an_extra(tiny: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    run = tiny("batch", write_lines(tmp_path / "r.jsonl", {"id": "a", "task": "t2i"}), "--output", "out", "--ray", "local")
    assert (run.code, "pip install 'openlance[dist]'" in run.err) == (1, True)


def test_requests_in_parquet_are_those_in_lines(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [
        {"id": "a", "task": "t2i", "prompt": "x", "seed": 3, "guidance_scale": 2.0},
        {"id": "b", "task": "understand", "prompt": "y", "images": ["p.png"], "resolution": [64, 112]},
        {"task": "t2i", "prompt": "z"},
        {"id": "a", "task": "t2i", "prompt": "again"},
        {"id": "c", "task": "fly"},
    ]
    columns = {key: [row.get(key) for row in rows] for key in sorted({key for row in rows for key in row})}
    parquet.write_table(pyarrow.table(columns), tmp_path / "r.parquet")
    ours, theirs = read_jobs(tmp_path / "r.parquet"), read_jobs(write_lines(tmp_path / "r.jsonl", *rows))
    assert [job for job in ours if not job.error] == [job for job in theirs if not job.error]
    words = [(job.id, (job.error or "").replace("r.parquet, row", "r.jsonl, line").replace("earlier row", "earlier line")) for job in ours]
    assert words == [(job.id, job.error or "") for job in theirs]
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(RequestError, match="with a column a key of a request"):
        read_jobs(tmp_path / "cut.parquet")


def test_a_format_that_cannot_hold_a_result_fails_its_request_only(tiny: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openlance.apps import batch
    from openlance.errors import MediaError

    def encode(clip, suffix):
        raise MediaError(f"no {suffix} of this size")

    text = {"id": "b", "task": "text", "prompt": "x", "max_new_tokens": 2}
    path = write_lines(tmp_path / "r.jsonl", {"id": "a", "task": "t2i", **SIZE}, text)
    monkeypatch.setattr(batch, "encode", encode)
    assert tiny("batch", path, "--output", "out").code == 1
    results = results_of(tmp_path / "out")
    assert (results["a"]["error"], results["b"]["error"]) == ("no .png of this size", None)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if importlib.util.find_spec("ray") is None:  # not imported yet: Ray reads its environment when it is
        pytest.skip("ray is not installed: pip install 'openlance[dist]'")
    with small_cluster(tmp_path_factory.mktemp("ray")) as address:
        yield address


@pytest.mark.dist
def test_results_are_those_of_one_machine(tiny: Cli, tmp_path: Path, cluster: str) -> None:
    folder = tmp_path / "in"
    path = write_lines(
        folder / "r.jsonl",
        *({"id": f"p{n}", "task": "t2i", "prompt": "p" * n, "seed": n, **SIZE} for n in range(1, 4)),
        {"id": "ask", "task": "understand", "prompt": "a", "images": ["photo.png"], "max_new_tokens": 3, "resolution": [64, 112]},
        {"id": "clip", "task": "t2v", "prompt": "a", "num_frames": 5, **SIZE},
        {"id": "gone", "task": "understand", "prompt": "a", "images": ["gone.png"]},
        {"id": "size", "task": "t2i", "prompt": "a", "height": 5},
        {"id": "typo", "task": "t2i", "promt": "a"},
    )
    Image.fromarray(np.zeros((40, 52, 3), np.uint8)).save(folder / "photo.png")
    assert tiny("batch", path, "--output", "one", "--batch-size", "1").code == 2
    run = tiny("batch", path, "--output", "many", "--batch-size", "1", "--ray", cluster, "--replicas", "2", "--json")
    assert run.code == 2
    assert "2 replicas of the model, 1 CPU each" in run.err
    one, many = ({name: {**line, "seconds": 0} for name, line in results_of(tmp_path / out).items()} for out in ("one", "many"))
    assert one == many
    assert {line["id"] for line in run.results} == set(many)
    for name in ("p1.png", "p2.png", "p3.png", "clip.mp4"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


@pytest.mark.dist
def test_a_model_that_cannot_be_loaded_is_one_error(tiny: Cli, cli: Cli, tmp_path: Path, cluster: str) -> None:
    path = write_lines(tmp_path / "r.jsonl", *({"id": name, "task": "t2i", "prompt": name, **SIZE} for name in "ab"))
    run = cli("batch", path, "--output", "out", "--ray", cluster, "--model", tmp_path / "no-model", "--device", "cpu")
    assert run.code != 0
    assert "no-model" in run.err.splitlines()[-1]
    assert results_of(tmp_path / "out") == {}
    assert tiny("batch", path, "--output", "out", "--ray", cluster).code == 0


@pytest.mark.dist
def test_an_actor_that_dies_costs_no_other_request(tmp_path: Path, cluster: str) -> None:
    """One request kills its replica once, one each time: all others, and the first, have exactly one good result."""
    from openlance.apps.batch import Suffixes
    from openlance.apps.cluster_batch import ClusterBatch

    prompts = ["a", "once", "b", "kill", "c", "d"]
    jobs = [Job(prompt, "t2i", prompt, parameters=SIZE) for prompt in prompts]
    with connected(cluster):
        finished = list(ClusterBatch(load_mortal(tmp_path), Share(2, 1, 0), 2, Suffixes()).run(jobs))
    assert sorted(each.id for each in finished) == sorted(prompts)
    assert {each.id for each in finished if each.error} == {"kill"}
    assert "died 4 times" in next(each.error or "" for each in finished if each.error)
    assert all(each.file for each in finished if not each.error)


@pytest.mark.dist
def test_killed_and_started_again(checkpoint: Path, tiny: Cli, tmp_path: Path, cluster: str) -> None:
    lines = [{"id": str(n), "task": "t2i", "prompt": "p", "seed": n, **SIZE, "num_inference_steps": 40} for n in range(8)]
    path = write_lines(tmp_path / "r.jsonl", *lines)
    out = tmp_path / "out"
    code = "import sys; from openlance.apps.cli import main; sys.exit(main(sys.argv[1:]))"
    options = ["--batch-size", "1", "--ray", cluster, "--model", str(checkpoint), "--device", "cpu", "--dtype", "float32"]
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen([sys.executable, "-c", code, "batch", str(path), "-o", str(out), *options], stdout=log, stderr=log)
    results = out / "results.jsonl"
    wait_until(lambda: results.exists() and results.read_text(), 240, (tmp_path / "log").read_text)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    done = {json.loads(line)["id"]: (out / f"{json.loads(line)['id']}.png").stat().st_mtime_ns for line in results.read_text().splitlines()}
    assert 0 < len(done) < len(lines)
    run = tiny("batch", path, "--output", out, "--batch-size", "1", "--ray", cluster)
    assert run.code == 0
    assert f"{len(done)} of 8 requests are done already" in run.err
    assert set(results_of(out)) == {str(n) for n in range(8)}
    assert {name: (out / f"{name}.png").stat().st_mtime_ns for name in done} == done


@pytest.mark.dist
def test_a_cluster_in_this_process(tiny: Cli, tmp_path: Path, cluster: str) -> None:
    """`cluster` for its token alone."""
    path = write_lines(tmp_path / "r.jsonl", {"id": "a", "task": "t2i", "prompt": "a", **SIZE})
    assert tiny("batch", path, "--output", "out", "--ray", "local").code == 0
    assert results_of(tmp_path / "out")["a"]["files"] == ["a.png"]


def test_a_replica_sees_its_own_gpu_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    given = {"model": "weights", "variant": None, "device": "cuda", "dtype": "auto", "templates": None}
    assert chosen_model(argparse.Namespace(**given)) == ModelChoice(str(tmp_path / "weights"), None, "cuda", "auto", None)
    with pytest.raises(RequestError, match="say --device cuda"):
        chosen_model(argparse.Namespace(**{**given, "device": "cuda:1"}))
