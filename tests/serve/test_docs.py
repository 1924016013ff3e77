"""The examples of docs/serving.md work as they are written."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from openlance.media.read import read_media

TEXT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.S)
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", TEXT, re.S))


def here(code: str, server) -> str:
    assert "http://127.0.0.1:8000" in code
    return code.replace("http://127.0.0.1:8000", server.url)


def test_python_examples(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert len(PYTHON) == 2
    for code in PYTHON:
        values: dict = {}
        exec(compile(here(code, server), "docs/serving.md", "exec"), values)
        if "made" in values:
            assert read_media(values["picture"]).frames.shape == (1, 128, 128, 3)
            assert capsys.readouterr().out
    assert read_media((tmp_path / "square.mp4").read_bytes()).num_frames == 9


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_shell_examples(server, tmp_path):
    subprocess.run(["sh", "-e", "-c", here(SHELL, server)], cwd=tmp_path, check=True, timeout=60)
    assert read_media(tmp_path / "circle.png").frames.shape == (1, 128, 128, 3)
    assert '"b64_json"' in (tmp_path / "edited.json").read_text()
