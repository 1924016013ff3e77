"""The command: what it accepts, prints and warns of, and how it ends."""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from openlance.apps.commands import serve
from openlance.apps.serve import server as server_module
from openlance.apps.serve.server import listen
from openlance.apps.serve.settings import ServeSettings
from openlance.errors import RequestError


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    return parser.parse_args(arguments)


def test_defaults_are_closed():
    settings = serve.settings_of(parse())
    assert (settings.host, settings.port, settings.api_keys, settings.allow_remote_media) == ("127.0.0.1", 8000, (), False)
    assert settings.loopback


def test_arguments_arrive(tmp_path):
    (tmp_path / "keys").write_text("k\n")
    arguments = (
        "--host",
        "0.0.0.0",
        "--port",
        "0",
        "--api-key-file",
        str(tmp_path / "keys"),
        "--max-queue",
        "3",
        "--allow-remote-media",
        "--no-page",
    )
    settings = serve.settings_of(parse(*arguments, "--data-dir", str(tmp_path)))
    assert (settings.host, settings.port, settings.api_keys, settings.worker.max_queue) == ("0.0.0.0", 0, ("k",), 3)
    assert (settings.allow_remote_media, settings.web, settings.data_dir, settings.loopback) == (True, False, tmp_path, False)


@pytest.mark.parametrize("arguments", [("--port", "70000"), ("--max-queue", "0"), ("--api-key-file", "absent")])
def test_wrong_arguments_are_named(arguments):
    with pytest.raises(RequestError, match=r"70000|max-queue 0|'absent'"):
        serve.settings_of(parse(*arguments))


@pytest.mark.parametrize(("host", "keys", "warns"), [("0.0.0.0", (), True), ("127.0.0.1", (), False), ("0.0.0.0", ("k",), False)])
def test_warns_when_open_to_others(monkeypatch, capsys, tmp_path, host, keys, warns):
    monkeypatch.setattr("openlance.apps.serve.server.serve", lambda load, settings, elsewhere=None: 0)
    (tmp_path / "keys").write_text("\n".join(keys))
    extra = ("--api-key-file", str(tmp_path / "keys")) if keys else ()
    assert serve.run(parse("--host", host, *extra)) == 0
    assert ("warning" in capsys.readouterr().err) == warns


def test_a_taken_port_is_told():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(RequestError, match="choose another with --host and --port"):
            listen(ServeSettings(port=other.getsockname()[1]))


def test_answers_are_sent_at_once(server):
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))):
        until = time.monotonic() + 10
        while not server.server.server_state.connections and time.monotonic() < until:
            time.sleep(0.01)
        connection = next(iter(server.server.server_state.connections))
        assert connection.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_threads_that_compute_get_the_lock_soon(monkeypatch, lance, tmp_path):
    before = sys.getswitchinterval()
    seen = []
    server = SimpleNamespace(started=True, run=lambda sockets: seen.append(sys.getswitchinterval()))
    monkeypatch.setattr(server_module, "make_server", lambda *_: server)
    try:
        assert server_module.serve(lambda: lance, ServeSettings(port=0, data_dir=tmp_path, web=False)) == 0
    finally:
        sys.setswitchinterval(before)
    assert seen == [pytest.approx(server_module.SWITCH_SECONDS)]


SCRIPT = """
import sys
import time
from pathlib import Path
from openlance.apps.serve.server import serve
from openlance.apps.serve.settings import ServeSettings
from tests.serve.tiny import tiny_lance
sys.exit(serve(tiny_lance, ServeSettings(port=0, data_dir=Path(sys.argv[1]), web=False)))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_finishes_what_runs(tmp_path, number):
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    url = process.stdout.readline().split()[1].removesuffix("/v1")
    with (
        httpx.Client(base_url=url, timeout=60) as http,
        http.stream(
            "POST",
            "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 60, "temperature": 1},
        ) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        process.send_signal(number)
        assert "data: [DONE]" in list(lines)
    assert process.wait(30) == 0
