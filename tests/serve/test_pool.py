"""Several processes behind one server: the same results, shared limits, and a server that outlives one of them."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from openlance.apps.commands import serve as command
from openlance.apps.serve import server as server_module
from openlance.apps.serve.admission import QueueFull
from openlance.apps.serve.cores import Cores
from openlance.apps.serve.pool import Pool
from openlance.apps.serve.server import listen, make_server, pool_for
from openlance.apps.serve.settings import ServeSettings, WorkerLimits
from openlance.apps.serve.worker import Worker
from openlance.errors import RequestError
from openlance.pipeline import Lance
from tests.serve.conftest import Running
from tests.serve.test_command import parse
from tests.serve.tiny import tiny_lance

CORES = Cores(torch.get_num_threads(), 2)


def full(pool: Pool) -> Pool:
    """The pool with every process at work."""
    threading.Thread(target=pool.start().grow, daemon=True).start()
    wait_for(pool, 2)
    return pool


def wait_for(pool: Pool, size: int) -> None:
    until = time.monotonic() + 120
    while pool.size != size and time.monotonic() < until:
        time.sleep(0.05)
    assert pool.size == size


@pytest.fixture(scope="module")
def pool(lance: Lance) -> Iterator[Pool]:
    pool = full(Pool(lance, WorkerLimits(), tiny_lance, 2, CORES))
    yield pool
    pool.stop()


def drawing(lance: Lance, seed: int, steps: int = 4):
    return lance.request("t2i", "a red circle", height=64, width=64, num_inference_steps=steps, seed=seed)


def test_requests_are_shared_out_and_come_out_the_same(pool: Pool, lance: Lance):
    asked = [drawing(lance, seed) for seed in range(6)]
    taken = []
    for worker in pool._workers:
        submit = worker.submit
        worker.submit = lambda request, deadline=None, worker=worker, submit=submit: taken.append(worker) or submit(request, deadline)
    for worker, believed in zip(pool._workers, (1e-3, 1e-6), strict=True):
        worker.schedule.rates.token = believed  # what counts is the work, not what each has learned of its length
    handles = [pool.submit(request) for request in asked]
    results = [handle.future.result(60) for handle in handles]
    assert [taken.count(worker) for worker in pool._workers] == [3, 3]
    for result, request in zip(results, asked, strict=True):
        (alone,) = tiny_lance().engine.run([request])
        assert np.abs(result.clip.frames.astype(int) - alone.clip.frames).max() <= 1
    assert pool.idle
    assert b"openlance_queue_depth 0.0" in pool.metrics.render()
    assert pool.metrics.latency.labels("t2i")._sum.get() > 0


def test_a_worker_foretells_the_end_of_its_step(lance: Lance):
    worker = Worker(lance).start()
    begun, seen = threading.Event(), []

    def heard(progress: object) -> None:
        seen.append(worker.step_left())
        begun.set()

    worker.schedule.rates.token = 1.0  # so that a step of a few tokens is believed to take many seconds
    worker.submit(replace(drawing(lance, 1, 2), on_progress=heard)).future.result(60)
    assert begun.is_set()
    assert seen[0] > 10
    worker.stop()
    worker._step_ends = time.monotonic() - 1
    assert worker.step_left() == 0


def test_a_lone_request_has_all_cores_and_two_have_half_each(pool: Pool, lance: Lance, monkeypatch):
    used: list[tuple[Worker, int]] = []
    monkeypatch.setattr(pool._cores, "count", 4)
    monkeypatch.setattr(pool._cores, "least", 1)  # for pixels
    for worker in pool._workers:
        monkeypatch.setattr(worker.engine, "use_threads", lambda threads, worker=worker: used.append((worker, threads)))
    pool.submit(drawing(lance, 0)).future.result(60)
    local, remote = pool._workers
    steps = [threads for worker, threads in used if worker is local]
    assert len(steps) == len(used) > 2
    assert steps == [4] * (len(steps) - 1) + [1]  # only the last step codes pixels
    used.clear()
    begun = threading.Event()
    first = pool.submit(replace(drawing(lance, 1, 100), on_progress=lambda progress: begun.set()))
    assert begun.wait(60)
    pool.submit(drawing(lance, 2)).future.result(60)
    first.future.result(60)
    assert set(used) == {(local, 4), (local, 2), (local, 1), (remote, 2), (remote, 1)}


def test_answers_go_where_few_answers_are_and_pictures_where_little_is(lance: Lance):
    loads = {"answers": (300, 300), "pictures": (0, 9000), "a clip": (0, 9001)}
    left = {"answers": 0.0, "pictures": 0.03, "a clip": 0.01}
    taken = []

    def worker(name: str) -> SimpleNamespace:
        short, both = loads[name]
        return SimpleNamespace(
            alive=True,
            load=lambda of=False: short if of else both,
            step_left=lambda: left[name],
            submit=lambda request, deadline: taken.append(name),
        )

    pool = Pool(lance, WorkerLimits(), tiny_lance, 3, CORES)
    pool._workers = [worker(name) for name in ("answers", "a clip", "pictures")]
    pool.submit(lance.request("text", "tell"))
    left["a clip"] = left["pictures"]
    pool.submit(lance.request("text", "tell"))
    pool.submit(drawing(lance, 0))
    assert taken == ["a clip", "pictures", "answers"]


def test_limits_are_those_of_all_together(lance: Lance):
    pool = Pool(lance, WorkerLimits(max_queue=2, max_active=2, memory_bytes=2**28), tiny_lance, 2, CORES)
    assert (pool._limits.max_queue, pool._limits.max_active, pool._limits.memory_bytes) == (1, 1, 2**27)
    pool.start()
    try:
        pool.submit(drawing(lance, 0, 200))
        until = time.monotonic() + 30
        while not pool._workers[0]._active and time.monotonic() < until:
            time.sleep(0.01)
        pool.submit(drawing(lance, 1, 200))
        with pytest.raises(QueueFull):
            pool.submit(drawing(lance, 2, 200))
    finally:
        pool.stop()


def test_a_server_outlives_one_of_its_processes(tmp_path):
    settings = ServeSettings(data_dir=tmp_path, port=0, web=False, shutdown_seconds=5.0, processes=2)
    lance = tiny_lance()
    pool = pool_for(lance, settings, tiny_lance)
    assert pool is not None
    listener = listen(settings)
    server = make_server(lance, settings, pool)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_for(pool, 2)
        running = Running(server, f"http://127.0.0.1:{listener.getsockname()[1]}", settings)
        with running.http() as http:
            body = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 3, "seed": 5}
            first = http.post("/v1/images/generations", json=body).raise_for_status().json()["data"][0]["b64_json"]
            victim = pool._engines[0]._process
            workers = sum(thread.name == "openlance-worker" for thread in threading.enumerate())
            os.kill(victim.pid, signal.SIGKILL)
            victim.join(10)
            assert pool.size == 1
            wait_for(pool, 2)
            assert len(pool.metrics._depths) == 2
            assert sum(thread.name == "openlance-worker" for thread in threading.enumerate()) == workers
            codes = [http.post("/v1/images/generations", json={**body, "seed": seed}).status_code for seed in range(4)]
            assert codes == [200] * 4
            assert http.post("/v1/images/generations", json=body).json()["data"][0]["b64_json"] == first
            assert http.get("/health").json()["status"] == "ok"
        wait_for(pool, 2)
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


def test_small_models_get_a_process_a_core(monkeypatch, lance: Lance, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    settings = ServeSettings(data_dir=tmp_path)
    pool = pool_for(lance, settings, tiny_lance)
    assert pool is not None
    assert (pool._processes, pool._cores.count) == (4, torch.get_num_threads())
    assert pool_for(lance, replace(settings, processes=1), tiny_lance) is None
    assert pool_for(lance, settings, None) is None
    monkeypatch.setattr(server_module, "SMALL_MODEL", 10)
    assert pool_for(lance, settings, tiny_lance) is None
    asked = pool_for(lance, replace(settings, processes=3), tiny_lance)
    assert asked is not None
    assert asked._processes == 3


def test_a_model_on_a_gpu_has_one_process(tmp_path):
    model = SimpleNamespace(device=torch.device("cuda"), parameters=list)
    settings = ServeSettings(data_dir=tmp_path)
    assert pool_for(SimpleNamespace(model=model), settings, tiny_lance) is None
    with pytest.raises(RequestError, match="--processes 2"):
        pool_for(SimpleNamespace(model=model), replace(settings, processes=2), tiny_lance)


def test_nothing_starts_once_it_is_stopped(lance: Lance):
    pool = Pool(lance, WorkerLimits(), tiny_lance, 2, CORES).start()
    growing = threading.Thread(target=pool.grow, daemon=True)
    growing.start()
    until = time.monotonic() + 30
    while not pool._engines and time.monotonic() < until:
        time.sleep(0.01)
    pool.stop()
    growing.join(10)
    assert not growing.is_alive()
    assert not any(engine.alive for engine in pool._engines)
    assert pool.size == 0


def test_processes_of_the_command(tmp_path):
    assert command.settings_of(parse("--processes", "3", "--data-dir", str(tmp_path))).processes == 3
    with pytest.raises(RequestError, match="--processes -1"):
        command.settings_of(parse("--processes", "-1"))
    with pytest.raises(RequestError, match="use --replicas"):
        command.settings_of(parse("--processes", "2", "--ray", "local"))
