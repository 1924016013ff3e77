"""What goes wrong between client and server: bodies that are none, clients that go, queues that are full, schemas that are fuzzed."""

import json

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openlance.apps.serve.settings import WorkerLimits
from tests.waiting import wait_until

POSTS = (
    "/v1/chat/completions",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/videos",
    "/v1/videos/none/remix",
    "/v1/videos/none/cancel",
)
GETS = ("/v1/models", "/v1/models/none", "/v1/videos", "/v1/videos/none", "/v1/videos/none/content", "/health")


def told(response: httpx.Response) -> dict:
    return response.json()["error"]


@pytest.mark.parametrize("path", POSTS[:4])
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{bad", "application/json"),
        (b"", "application/json"),
        (b"[1]", "application/json"),
        (b"null", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"\xff\xfe", "application/json"),
        (b'{"prompt": 1}', "application/json"),
        (b'{"prompt": "x", "n": "many", "messages": [], "image": 3}', "application/json"),
        (b"x", "text/plain"),
        (b"x", ""),
        (b"--b\r\n", "multipart/form-data; boundary=b"),
        (b"x", "multipart/form-data"),
        (b"a=b", "application/x-www-form-urlencoded"),
    ],
)
def test_bodies_that_are_none(server, path, body, kind):
    with server.http() as http:
        response = http.post(path, content=body, headers={"Content-Type": kind})
    assert 400 <= response.status_code < 500
    assert set(told(response)) == {"message", "type", "param", "code"}
    assert told(response)["message"]


@pytest.mark.parametrize("value", ["1e999", "NaN", "-Infinity", "99999999999999999999999", '"\\ud800"', "[]", "{}", "true"])
@pytest.mark.parametrize("name", ["seed", "guidance_scale", "n", "size", "solver", "prompt", "guidance_interval"])
def test_values_beyond_reason(server, name, value):
    with server.http() as http:
        body = f'{{"prompt": "x", "num_inference_steps": 1, "{name}": {value}}}'
        response = http.post("/v1/images/generations", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (200, 400)


def test_paths_reach_no_file(server):
    with server.http() as http:
        for name in ("..%2F..%2Fjobs.sqlite", "%2e%2e", "jobs.sqlite", "%00", "a" * 5000, "*", "video_*"):
            for tail in ("", "/content", "/content?variant=../x"):
                assert 400 <= http.get(f"/v1/videos/{name}{tail}").status_code < 500


def test_a_client_that_goes_is_cancelled(start):
    running = start()
    body = {"prompt": "x", "num_inference_steps": 1000}
    with running.http() as http, pytest.raises(httpx.ReadTimeout):
        http.post("/v1/images/generations", json=body, timeout=0.5)
    wait_until(lambda: running.worker.idle)
    body = {"messages": [{"role": "user", "content": "long"}], "stream": True, "max_tokens": 1500}
    with running.http() as http, http.stream("POST", "/v1/chat/completions", json=body) as stream:
        lines = stream.iter_lines()  # kept: without it the connection would close here
        next(lines)
        # The first line says who answers, and may come before the work has begun.
        wait_until(lambda: not running.worker.idle)
    wait_until(lambda: running.worker.idle)
    assert not running.worker.lance.engine.active


def test_a_full_queue_says_when_to_come_again(start):
    running = start(worker=WorkerLimits(max_active=1, max_queue=1))
    request = running.worker.lance.request("t2v", "long", num_inference_steps=1000)
    handles = [running.worker.submit(request)]
    wait_until(lambda: handles[0].active is not None)
    handles.append(running.worker.submit(request))
    with running.http() as http:
        response = http.post("/v1/images/generations", json={"prompt": "x"})
        assert (response.status_code, told(response)["code"]) == (429, "queue_full")
        assert int(response.headers["retry-after"]) >= 1
        numbers = http.get("/metrics").text
        assert 'openlance_rejections_total{reason="QueueFull"} 1.0' in numbers
        assert "openlance_queue_depth 1.0" in numbers
    for handle in handles:
        handle.cancel()


def test_failures_have_their_status(start, monkeypatch):
    running = start(worker=WorkerLimits(deadline_seconds=0.3))
    with running.http() as http:
        late = http.post("/v1/images/generations", json={"prompt": "x", "num_inference_steps": 1000})
        assert (late.status_code, told(late)["code"]) == (504, "deadline_exceeded")
        for error, status in ((MemoryError(), 503), (RuntimeError("secret inside"), 500)):

            def burst(_, error=error):
                raise error

            monkeypatch.setattr(running.worker.lance.model, "forward", burst)
            response = http.post("/v1/images/generations", json={"prompt": "x"})
            assert response.status_code == status
            assert "secret" not in told(response)["message"]
            stream = http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}], "stream": True}).text
            last = [line for line in stream.splitlines() if line.startswith("data:")][-1]
            assert json.loads(last[5:])["error"]["code"] == ("out_of_memory" if status == 503 else "internal_error")
        monkeypatch.undo()
        assert http.post("/v1/images/generations", json={"prompt": "x"}).status_code == 200


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_worker_is_not_healthy(start, monkeypatch):
    running = start()

    def burst(*_):
        raise SystemExit

    monkeypatch.setattr(running.worker.schedule, "choose", burst)
    with running.http() as http:
        assert http.get("/health").status_code == 200
        assert http.post("/v1/images/generations", json={"prompt": "x"}).status_code == 500
        wait_until(lambda: not running.worker.alive)
        assert http.get("/health").status_code == 503
        assert http.post("/v1/images/generations", json={"prompt": "x"}).status_code == 503


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    "prompt",
    "messages",
    "n",
    "size",
    "seed",
    "stream",
    "model",
    "image",
    "modalities",
    "max_tokens",
    "stop",
    "seconds",
    "num_frames",
    "guidance_scale",
    "guidance_interval",
    "solver",
    "input_reference",
    "partial_images",
    "temperature",
    "output_format",
]
plausible = st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, anything))


@given(path=st.sampled_from(POSTS), body=plausible | anything)
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_json_breaks_the_server(server, path, body):
    with server.http() as http:
        response = http.post(path, json=body)
    assert response.status_code < 500, response.text


@given(
    path=st.sampled_from(POSTS[2:4]),
    fields=st.dictionaries(st.sampled_from(FIELDS), st.text(max_size=12), max_size=4),
    data=st.binary(max_size=60),
)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_form_breaks_the_server(server, path, fields, data):
    with server.http() as http:
        response = http.post(path, data=fields, files={"image" if "images" in path else "input_reference": ("x", data)})
    assert response.status_code < 500, response.text


@given(
    mutations=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=12),
    keep=st.floats(0.05, 1),
    name=st.sampled_from(["png", "mp4"]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_damaged_medium_breaks_the_server(server, png, mp4, mutations, keep, name):
    data = bytearray({"png": png, "mp4": mp4}[name])
    for place, value in mutations:
        data[int(place * (len(data) - 1))] = value
    with server.http() as http:
        files = {"image": ("x", bytes(data[: int(keep * len(data))]))}
        response = http.post("/v1/images/edits", data={"prompt": "x", "num_inference_steps": "1"}, files=files)
    assert response.status_code < 500, response.text


@pytest.fixture(scope="module")
def operations(server):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    return [result.ok() for result in schema.get_all_operations()]


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_that_the_schema_allows_breaks_the_server(operations, data):
    case = data.draw(data.draw(st.sampled_from(operations)).as_strategy())
    response = case.call(timeout=60)
    assert response.status_code < 500, response.text


def test_the_schema_names_every_path(server):
    with server.http() as http:
        paths = http.get("/openapi.json").json()["paths"]
        assert {path.replace("none", "{video_id}") for path in POSTS} <= set(paths)
        edit = paths["/v1/images/edits"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert {"image", "prompt", "seed", "guidance_scale"} <= set(edit["properties"])
        for path in GETS:
            assert http.get(path).status_code in (200, 404)
