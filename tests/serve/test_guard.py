"""The door: keys, hosts, origins, sizes, slowness, and media from outside."""

import asyncio
import socket
import time
from collections.abc import Iterator

import httpx
import openai
import pytest
import uvicorn
from fastapi import FastAPI
from uvicorn.server import ServerState

from openlance.apps.serve.connections import bounded_protocol
from openlance.apps.serve.media import MediaDoor
from openlance.apps.serve.remote_media import RemoteMedia, is_public
from openlance.apps.serve.settings import ServeSettings, read_keys
from openlance.errors import MediaError, RequestError
from openlance.media.limits import MediaLimits


def error_of(response: httpx.Response) -> dict:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_keys_open_the_api_and_own_their_jobs(start):
    running = start(api_keys=("first key", "second key"))
    with running.http() as http:
        assert http.get("/health").status_code == 200
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic first key"},
            {"Authorization": "Bearer first key2"},
        ):
            for path in ("/v1/models", "/metrics", "/v1/videos"):
                assert error_of(http.get(path, headers=headers))["code"] == "invalid_api_key"
    first, second = running.openai("first key"), running.openai("second key")
    assert [model.id for model in first.models.list()] == ["tiny"]
    job = first.videos.create(prompt="mine", extra_body={"num_inference_steps": 1})
    assert [video.id for video in first.videos.list()] == [job.id]
    assert list(second.videos.list()) == []
    for touch in (second.videos.retrieve, second.videos.delete, second.videos.download_content):
        with pytest.raises(openai.NotFoundError):
            touch(job.id)


def test_pages_of_other_sites_are_kept_out(server):
    with server.http() as http:
        for headers, code in (
            ({"Host": "evil.example"}, "host"),
            ({"Origin": "https://evil.example"}, "origin"),
            ({"Origin": "null"}, "origin"),
        ):
            response = http.post("/v1/images/generations", headers=headers, json={"prompt": "x"})
            assert response.status_code == 403
            assert error_of(response)["code"] == code
        assert http.get("/v1/models", headers={"Origin": server.url}).status_code == 200
        preflight = http.options("/v1/models", headers={"Origin": server.url, "Access-Control-Request-Method": "GET"})
        assert "access-control-allow-origin" not in preflight.headers
        assert http.get("/v1/models").headers["x-content-type-options"] == "nosniff"


def long_form(boundary: str) -> Iterator[bytes]:
    """A form whose only field goes on, in pieces that arrive apart: nothing is wrong with it but its length."""
    yield f'--{boundary}\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n'.encode()
    for _ in range(3):
        time.sleep(0.05)
        yield b"y" * 6_000


def test_long_bodies_are_refused_before_they_are_read(start):
    running = start(max_body_bytes=10_000)
    with running.http() as http:
        declared = http.post("/v1/images/generations", content=b"x" * 20_000)
        streamed = http.post("/v1/images/edits", content=long_form("b"), headers={"Content-Type": "multipart/form-data; boundary=b"})
        for response in (declared, streamed):
            assert response.status_code == 413
            assert error_of(response)["code"] == "body_too_large"


def dropped(connection: socket.socket) -> bool:
    connection.settimeout(20)
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_half_requests_are_dropped_and_bounded(start):
    running = start(max_connections=20, head_seconds=0.5, body_seconds=0.5)
    host = ("127.0.0.1", int(running.url.rpartition(":")[2]))
    crowd = [socket.create_connection(host) for _ in range(60)]
    for i, connection in enumerate(crowd):
        try:
            connection.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\n" if i % 2 else b"G")
        except OSError:
            continue
        assert len(running.server.server_state.connections) <= 21  # one may just be refused
    assert all(dropped(connection) for connection in crowd)
    assert len(running.server.server_state.connections) <= 20
    with running.http() as http:
        assert http.get("/health").status_code == 200
    slow = socket.create_connection(host)
    slow.settimeout(10)
    slow.sendall(
        b"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
    )
    assert b" 408 " in slow.recv(1000)
    for connection in [*crowd, slow]:
        connection.close()


def test_refused_connections_never_count():
    """Many may be taken before the loop tells of the end of the first refused one."""
    aborted = []

    class Transport(asyncio.Transport):
        def abort(self):
            aborted.append(self)

    async def crowd():
        config = uvicorn.Config(FastAPI(), log_config=None)
        state, protocol = ServerState(), bounded_protocol(2, 10.0)
        for number in range(5):
            protocol(config=config, server_state=state, app_state={}).connection_made(Transport({"peername": ("127.0.0.1", number)}))
            assert len(state.connections) == min(number + 1, 2)
        assert len(aborted) == 3

    asyncio.run(crowd())


def test_key_files(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# ours\n\none\n two \n")
    assert read_keys(path) == ("one", "two")
    path.write_text("# none\n")
    for bad in (path, tmp_path / "absent"):
        with pytest.raises(RequestError, match="key file"):
            read_keys(bad)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://example.com/a.png", "--allow-remote-media"),
        ("file:///etc/passwd", "--allow-remote-media"),
        ("data:image/png;base64", "no comma"),
        ("data:image/png;base64,@@@", "not valid base64"),
        ("data:image/png;base64,", "empty"),
        ("data:text/plain,hello", "no image or video known"),
        ("data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAA", "damaged or cut short"),
    ],
)
def test_media_that_cannot_be_taken(server, url, message):
    with server.http() as http:
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what?"}]
        response = http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": content}]})
        assert response.status_code == 400
        assert message in error_of(response)["message"]


def test_limits_hold_before_decoding(png, mp4):
    for limits, data in (
        (MediaLimits(pixels=1000), png),
        (MediaLimits(bytes=100), png),
        (MediaLimits(frames=4), mp4),
        (MediaLimits(seconds=0.5), mp4),
    ):
        with pytest.raises(MediaError, match="limit"):
            MediaDoor(ServeSettings(uploads=limits)).decode(data)


def test_a_decoder_that_breaks_is_contained(monkeypatch, png):
    def burst(*_, **__):
        raise IndexError("deep inside")

    monkeypatch.setattr("openlance.media.read.read_media", burst)
    with pytest.raises(MediaError, match="that can be read"):
        MediaDoor(ServeSettings()).decode(png)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "172.16.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
        "ff02::1",
        "no",
    ],
)
def test_private_addresses(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses(address):
    assert is_public(address)


class Internet(httpx.AsyncBaseTransport):
    """Answers as told and writes down what it was asked."""

    def __init__(self, answers):
        self.answers = answers
        self.asked = []

    async def handle_async_request(self, request):
        self.asked.append((request.url.host, request.headers["host"], request.extensions["sni_hostname"]))
        answer = self.answers[request.url.path]
        return await answer() if callable(answer) else answer


async def nothing_for_long():
    await asyncio.sleep(30)


def fetch(url, answers=None, addresses=("93.184.216.34",), **limits):
    async def resolve(host):
        return list(addresses)

    internet = Internet(answers or {})
    remote = RemoteMedia(**{"max_bytes": 1000, "seconds": 5.0, **limits}, resolve=resolve, transport=internet)
    return asyncio.run(remote.fetch(url)), internet.asked


def test_remote_media_connects_to_the_address_that_was_checked():
    data, asked = fetch("https://example.com/a.png", {"/a.png": httpx.Response(200, content=b"abc")})
    assert data == b"abc"
    assert asked == [("93.184.216.34", "example.com", "example.com")]


def test_remote_media_follows_its_own_host_only():
    home = {"/a": httpx.Response(302, headers={"location": "/b"}), "/b": httpx.Response(200, content=b"b")}
    assert fetch("https://example.com/a", home)[0] == b"b"
    for location in ("https://other.com/b", "http://example.com/b", "https://example.com:8443/b", "//127.0.0.1/b"):
        with pytest.raises(MediaError, match=r"another host|not allowed"):
            fetch("https://example.com/a", {"/a": httpx.Response(302, headers={"location": location})})
    with pytest.raises(MediaError, match="more than 3 times"):
        fetch("https://example.com/a", {"/a": httpx.Response(302, headers={"location": "/a"})})


@pytest.mark.parametrize(
    "url",
    ["http://example.com/a", "ftp://example.com/a", "https://u:p@example.com/a", "https://example.com:22/", "https:///a", "https://[/"],
)
def test_remote_media_is_https_on_its_port(url):
    with pytest.raises(MediaError, match=r"not allowed|no valid address"):
        fetch(url)


def test_remote_media_has_bounds():
    for addresses in (("127.0.0.1",), ("93.184.216.34", "10.0.0.1"), ()):
        with pytest.raises(MediaError, match="public internet"):
            fetch("https://example.com/a", addresses=addresses)
    with pytest.raises(MediaError, match="more than 1000 bytes"):
        fetch("https://example.com/a", {"/a": httpx.Response(200, content=b"x" * 1001)})
    with pytest.raises(MediaError, match="status 404"):
        fetch("https://example.com/a", {"/a": httpx.Response(404)})
    with pytest.raises(MediaError, match=r"within 0\.1 s"):
        fetch("https://example.com/a", {"/a": nothing_for_long}, seconds=0.1)
