"""The server in replicas: a job made by one is found by all, a replica that dies is replaced and its jobs go on, pictures are the same."""

import importlib.util
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from openlance.apps.cluster import Share, connected
from openlance.apps.commands import serve as command
from openlance.apps.serve.folder import check_shared, mark
from openlance.apps.serve.jobs import StoreError
from openlance.apps.serve.settings import ServeSettings
from openlance.errors import RequestError
from tests.apps.cluster import free_port, load_known, small_cluster
from tests.serve.conftest import Running
from tests.serve.test_command import parse
from tests.serve.test_jobs import wait_for
from tests.waiting import wait_until


def test_a_folder_that_is_not_shared(tmp_path: Path) -> None:
    here = mark(tmp_path / "data")
    assert mark(tmp_path / "data") == here
    check_shared(tmp_path / "data", here)
    (tmp_path / "other").mkdir()
    for folder, wanted in ((tmp_path / "data", "another"), (tmp_path / "other", here), (tmp_path / "none", here)):
        with pytest.raises(StoreError, match="--data-dir that all machines of the cluster share"):
            check_shared(folder, wanted)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="choose another with --data-dir"):
        mark(tmp_path / "file" / "below")


def test_replicas_need_a_cluster() -> None:
    with pytest.raises(RequestError, match="--replicas 2 needs a cluster"):
        command.settings_of(parse("--replicas", "2"))


@dataclass
class Replicas:
    """A client of two replicas on two nodes, and the folder where their processes leave their ids."""

    http: httpx.Client
    settings: ServeSettings
    folder: Path

    @property
    def processes(self) -> list[int]:
        return [int(path.name) for path in self.folder.iterdir() if Path("/proc", path.name).exists()]


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    if importlib.util.find_spec("ray") is None:  # not imported yet: Ray reads its environment when it is
        pytest.skip("ray is not installed: pip install 'openlance[dist]'")
    settings = ServeSettings(port=free_port(), data_dir=tmp_path_factory.mktemp("data"), web=False)
    folder = tmp_path_factory.mktemp("replicas")
    with small_cluster(tmp_path_factory.mktemp("ray")) as address, connected(address):
        from openlance.apps.serve.cluster import deployed

        with (
            deployed(load_known(folder), settings, Share(2, 1, 0)) as port,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as http,
        ):
            yield Replicas(http, settings, folder)
    assert not Replicas(http, settings, folder).processes


@pytest.mark.dist
def test_a_picture_is_that_of_one_server(replicas: Replicas, start: Callable[..., Running]) -> None:
    asked = {"prompt": "x", "size": "64x64", "seed": 7, "n": 2}
    with start().http() as one:
        expected = one.post("/v1/images/generations", json=asked).json()
    for _ in range(6):
        got = replicas.http.post("/v1/images/generations", json=asked).json()
        assert [each["b64_json"] for each in got["data"]] == [each["b64_json"] for each in expected["data"]]
    assert len(replicas.processes) == 2


@pytest.mark.dist
def test_an_answer_comes_in_pieces(replicas: Replicas) -> None:
    asked = {"messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 4}
    with replicas.http.stream("POST", "/v1/chat/completions", json=asked) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    assert len(lines) > 2
    wrong = replicas.http.post("/v1/images/generations", json={"prompt": "x", "size": "8x8"})
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (400, "invalid_request_error")
    assert replicas.http.get("/health", headers={"Host": "elsewhere.example"}).status_code == 403


@pytest.mark.dist
def test_jobs_are_everyones(replicas: Replicas) -> None:
    """Each of many reads finds the job, whichever replica answers; another one may end it."""
    http = replicas.http
    made = http.post("/v1/videos", json={"prompt": "x", "num_inference_steps": 2, "seed": 3}).json()
    assert wait_for(http, made["id"], 60)["status"] == "completed"
    contents = {http.get(f"/v1/videos/{made['id']}/content").content for _ in range(8)}
    assert len(contents) == 1
    assert contents.pop()[4:8] == b"ftyp"
    long = http.post("/v1/videos", json={"prompt": "x", "num_inference_steps": 500}).json()
    wait_until(lambda: http.get(f"/v1/videos/{long['id']}").json()["status"] == "in_progress", 60)
    assert http.post(f"/v1/videos/{long['id']}/cancel").json()["error"]["code"] == "cancelled"
    assert {http.get(f"/v1/videos/{long['id']}").json()["status"] for _ in range(8)} == {"failed"}


@pytest.mark.dist
def test_a_replica_that_is_killed_is_replaced_and_its_jobs_go_on(replicas: Replicas) -> None:
    http = replicas.http
    ids = [http.post("/v1/videos", json={"prompt": "x", "num_inference_steps": 100, "seed": i}).json()["id"] for i in range(4)]
    wait_until(lambda: any(http.get(f"/v1/videos/{job}").json()["progress"] >= 5 for job in ids), 60)
    killed = replicas.processes[0]
    os.kill(killed, signal.SIGKILL)

    def status(job: str) -> str | None:
        try:
            answer = http.get(f"/v1/videos/{job}")
        except httpx.HTTPError:
            return None
        return answer.json()["status"] if answer.status_code == 200 else None

    wait_until(lambda: all(status(job) == "completed" for job in ids), 240, lambda: str([status(job) for job in ids]))
    wait_until(lambda: len(replicas.processes) == 2, 120)
    assert killed not in replicas.processes


@pytest.mark.dist
def test_a_model_that_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install 'openlance[dist]'")
    code = "import sys; from openlance.apps.cli import main; sys.exit(main(sys.argv[1:]))"
    options = ["--ray", "local", "--port", "0", "--data-dir", str(tmp_path / "data"), "--model", str(tmp_path)]
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    command = [sys.executable, "-c", code, "serve", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400, check=False)
    assert done.returncode == 2
    assert f"the replicas cannot start: openlance.errors.CheckpointError: {tmp_path} is no checkpoint" in done.stderr
