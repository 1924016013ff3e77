"""Jobs are never lost and never half there: restarts, crashes, full disks, age and size."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openlance.apps.serve.jobs import MAX_ATTEMPTS, JobStore, StoreError
from openlance.errors import MediaError
from tests.serve.conftest import Running

ASKED = {"prompt": "x", "seed": 1, "parameters": {}, "size": "64x64", "seconds": 1.0}


def open_store(folder: Path, **bounds) -> JobStore:
    return JobStore(folder, **{"max_age": 1000.0, "max_bytes": 10**9, **bounds})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.startswith(("video_", "."))}


def die(store: JobStore) -> None:
    """What is left of a process that was killed: no lock."""
    store._life._lock.close()


def test_a_job_lives_through_its_states(tmp_path):
    store = open_store(tmp_path)
    job = store.create("me", ASKED, b"input")
    assert store.get(job.id, "me") == job
    assert store.get(job.id, "other") is None
    taken = store.next()
    assert (taken.id, taken.status, taken.attempts) == (job.id, "in_progress", 1)
    assert store.next() is None
    store.report(job.id, 40)
    assert store.get(job.id, "me").progress == 40
    store.complete(job.id, {"mp4": b"film"})
    done = store.get(job.id, "me")
    assert (done.status, done.bytes) == ("completed", 9)
    assert store.path(job.id, "mp4").read_bytes() == b"film"
    store.fail(job.id, "late", "too late")
    assert store.get(job.id, "me").status == "completed"
    store.delete(job.id)
    assert names(tmp_path) == set()


def test_a_crash_loses_nothing_and_leaves_nothing_half(tmp_path):
    store = open_store(tmp_path)
    running, waiting = store.create("me", ASKED, b"given"), store.create("me", ASKED)
    assert store.next().id == running.id
    (tmp_path / ".0123.tmp").write_bytes(b"half")
    (tmp_path / "video_of-no-job.mp4").write_bytes(b"orphan")
    die(store)
    again = open_store(tmp_path)
    assert [again.get(job.id, "me").status for job in (running, waiting)] == ["queued", "queued"]
    assert names(tmp_path) == {f"{running.id}.input"}


def test_what_crashes_the_server_again_and_again_is_given_up(tmp_path):
    job = open_store(tmp_path).create("me", ASKED)
    for _ in range(MAX_ATTEMPTS):
        store = open_store(tmp_path)
        assert store.next().id == job.id
        die(store)
    store = open_store(tmp_path)
    assert store.next() is None
    assert store.get(job.id, "me").error["code"] == "server_crashed"


def test_giving_back_does_not_count_as_a_try(tmp_path):
    store = open_store(tmp_path)
    job = store.create("me", ASKED)
    for _ in range(2 * MAX_ATTEMPTS):
        store.next()
        store.requeue(job.id)
    assert store.get(job.id, "me").attempts == 0


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    job = store.create("me", ASKED)
    store.next()

    def full(data, target):
        raise MediaError(f"cannot write '{target}': No space left on device")

    monkeypatch.setattr("openlance.apps.serve.jobs.write_bytes", full)
    with pytest.raises(StoreError, match="free space"):
        store.complete(job.id, {"mp4": b"film"})
    with pytest.raises(StoreError, match="free space"):
        store.create("me", ASKED, b"input")
    assert names(tmp_path) == set()
    assert [each.id for each in store.listed("me")] == [job.id]


def test_old_and_large_jobs_go_oldest_first(tmp_path):
    store = open_store(tmp_path, max_bytes=25)
    jobs = [store.create("me", ASKED) for _ in range(4)]
    for job in jobs[:3]:
        store.next()
        store.complete(job.id, {"mp4": b"0123456789"})
    assert store.sweep() == [jobs[0].id]
    store.max_age = -1.0
    assert store.sweep() == [jobs[1].id, jobs[2].id]
    assert [job.id for job in store.listed("me")] == [jobs[3].id]
    assert names(tmp_path) == set()


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "jobs.sqlite").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(StoreError, match="--data-dir"):
        open_store(tmp_path)
    with pytest.raises(StoreError, match="--data-dir"):
        open_store(tmp_path / "jobs.sqlite" / "below")


def test_processes_share_a_folder(tmp_path):
    """Each finds every job, none takes another's, and each may end what another is at."""
    one, other = open_store(tmp_path), open_store(tmp_path)
    first, second = one.create("me", ASKED, b"given"), other.create("me", ASKED)
    assert [job.id for job in other.listed("me", newest_first=False)] == [first.id, second.id]
    assert other.path(first.id, "input").read_bytes() == b"given"
    assert (one.next().id, other.next().id, one.next()) == (first.id, second.id, None)
    one.report(first.id, 40)
    assert one.publish([first.id]) == []
    assert other.get(first.id, "me").progress == 40
    other.requeue(first.id)
    other.sweep()
    third = open_store(tmp_path)
    assert {third.get(job.id, "me").status for job in (first, second)} == {"in_progress"}
    other.fail(first.id, "cancelled", "the job was cancelled")
    assert one.publish([first.id]) == [first.id]
    one.complete(first.id, {"mp4": b"film"})
    assert third.get(first.id, "me").status == "failed"
    one.delete(second.id)
    assert other.publish([second.id]) == [second.id]


def test_a_living_process_takes_over_from_a_dead_one(tmp_path):
    dead, living = open_store(tmp_path), open_store(tmp_path)
    job, own = dead.create("me", ASKED), dead.create("me", ASKED)
    assert (dead.next().id, living.next().id, living.next()) == (job.id, own.id, None)
    living.sweep()
    assert living.next() is None
    die(dead)
    living.sweep()
    assert (living.next().id, living.get(job.id, "me").attempts) == (job.id, 2)
    assert living.get(own.id, "me").attempts == 1
    living.close()
    assert {path.name for path in tmp_path.iterdir()} == {"jobs.sqlite"}


def test_a_table_of_an_earlier_server(tmp_path):
    with sqlite3.connect(tmp_path / "jobs.sqlite") as table:
        table.execute("PRAGMA journal_mode=WAL")
        table.execute(
            "CREATE TABLE jobs (id TEXT PRIMARY KEY, owner TEXT NOT NULL, created REAL NOT NULL, status TEXT NOT NULL, "
            "attempts INTEGER NOT NULL, finished REAL, bytes INTEGER NOT NULL, request TEXT NOT NULL, error TEXT)"
        )
        table.execute("INSERT INTO jobs VALUES ('video_1', 'me', 1.0, 'in_progress', 1, NULL, 0, '{}', NULL)")
    table.close()
    assert open_store(tmp_path).next().id == "video_1"


def wait_for(http, job_id: str, seconds: float = 30.0) -> dict:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        job = http.get(f"/v1/videos/{job_id}").json()
        if job["status"] in ("completed", "failed"):
            return job
        time.sleep(0.02)
    raise AssertionError(f"not finished: {job}")


def test_a_stopped_server_takes_its_jobs_up_again(start):
    running = start()
    with running.http() as http:
        long = http.post("/v1/videos", json={"prompt": "long", "num_inference_steps": 500, "seed": 3}).json()
        while http.get(f"/v1/videos/{long['id']}").json()["progress"] < 1:
            time.sleep(0.01)
    running.server.should_exit = True
    until = time.monotonic() + 20
    while running.worker.alive and time.monotonic() < until:
        time.sleep(0.01)
    with sqlite3.connect(running.settings.data_dir / "videos" / "jobs.sqlite") as table:
        assert table.execute("SELECT status, attempts FROM jobs").fetchall() == [("queued", 0)]
        table.execute("UPDATE jobs SET request = replace(request, '500', '2')")
    with start().http() as http:
        job = wait_for(http, long["id"])
        assert (job["status"], job["seed"]) == ("completed", 3)
        assert http.get(f"/v1/videos/{long['id']}/content").content[4:8] == b"ftyp"


def test_a_result_that_cannot_be_stored_fails_its_job_only(start, monkeypatch):
    running = start()
    write = running.server.app.state.jobs.complete
    broken = [True]

    def full(job_id, files):
        if broken.pop() if broken else False:
            raise StoreError("no space left on device")
        write(job_id, files)

    monkeypatch.setattr(running.server.app.state.jobs, "complete", full)
    with running.http() as http:
        for expected in ("failed", "completed"):
            job = wait_for(http, http.post("/v1/videos", json={"prompt": "x", "num_inference_steps": 1}).json()["id"])
            assert job["status"] == expected
            assert job["error"] == (None if expected == "completed" else {"code": "storage", "message": "no space left on device"})


SERVER = """
import sys, threading
from pathlib import Path
from openlance.apps.serve.server import listen, make_server
from openlance.apps.serve.settings import ServeSettings
from tests.serve.tiny import tiny_lance
settings = ServeSettings(data_dir=Path(sys.argv[1]), port=int(sys.argv[2]), web=False)
make_server(tiny_lance(), settings).run(sockets=[listen(settings)])
"""


@pytest.mark.slow
def test_killed_in_the_middle(tmp_path):
    def start_process() -> Running:
        process = subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path), "0"], stdout=subprocess.PIPE, text=True)
        url = process.stdout.readline().split()[1].removesuffix("/v1")
        return process, Running(None, url, None)

    process, running = start_process()
    with running.http() as http:
        ids = [http.post("/v1/videos", json={"prompt": "x", "num_inference_steps": 60, "seed": i}).json()["id"] for i in range(4)]
        while http.get(f"/v1/videos/{ids[1]}").json()["progress"] < 10:
            time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process, running = start_process()
    with running.http() as http:
        assert [wait_for(http, job_id)["status"] for job_id in ids] == ["completed"] * 4
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
