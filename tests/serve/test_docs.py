"""The examples of docs/serving.md and of the README about serving work as they are written."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from openlance.media.read import read_media

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Serving\n")[2].partition("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def here(code: str, server) -> str:
    assert "http://127.0.0.1:8000" in code
    return code.replace("http://127.0.0.1:8000", server.url)


def test_python_examples(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    examples = blocks(TEXT, "python")
    assert len(examples) == 2
    for code in examples:
        values: dict = {}
        exec(compile(here(code, server), "docs/serving.md", "exec"), values)
        if "made" in values:
            assert read_media(values["picture"]).frames.shape == (1, 128, 128, 3)
            assert capsys.readouterr().out
    assert read_media((tmp_path / "square.mp4").read_bytes()).num_frames == 9


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_shell_examples(server, tmp_path):
    subprocess.run(["sh", "-e", "-c", here("\n".join(blocks(TEXT, "sh")), server)], cwd=tmp_path, check=True, timeout=60)
    assert read_media(tmp_path / "circle.png").frames.shape == (1, 128, 128, 3)
    assert '"b64_json"' in (tmp_path / "edited.json").read_text()


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_examples_of_the_readme(server, tmp_path):
    (code,), (command,) = blocks(README, "python"), blocks(README, "sh")
    values: dict = {}
    exec(compile(here(code, server), "README.md", "exec"), values)
    for made in (values["picture"], base64.b64decode(values["edited"].data[0].b64_json)):
        assert read_media(made).frames.shape == (1, 128, 128, 3)
    subprocess.run(["sh", "-e", "-c", here(command, server)], cwd=tmp_path, check=True, timeout=60)
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert base64.b64decode(answer["data"][0]["b64_json"]) == values["picture"]
