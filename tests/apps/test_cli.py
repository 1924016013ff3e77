"""The command line as a whole: help, exit codes, one sentence an error."""

import importlib.util
import subprocess
import sys

import pytest

from openlance.apps.cli import COMMANDS, parser_of
from tests.apps.conftest import Cli

PRESENT = [name for name, command in COMMANDS.items() if importlib.util.find_spec(command.module)]
OURS = ("generate-image", "generate-video", "edit", "ask", "batch", "info", "convert", "templates", "verify")


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import contextlib, io, sys
from openlance.apps.cli import main
for command in ([], *([name] for name in {OURS!r})):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main([*command, "--help"]) == 0
    assert "examples:" in out.getvalue(), command
heavy = {{"torch", "transformers", "diffusers", "av", "PIL", "numpy", "rich"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", PRESENT)
def test_every_command_explains_itself_with_examples(name: str) -> None:
    parser, module = parser_of(name)
    assert f"openlance {name}" in parser.format_help()
    assert callable(module.run)
    assert "example" in (parser.description or "")


def test_our_commands_are_present() -> None:
    assert set(OURS) <= set(PRESENT)


def test_version_and_overview(cli: Cli) -> None:
    assert cli("--version").out.startswith("openlance ")
    overview = cli("--help")
    assert overview.code == 0
    assert all(name in overview.out for name in COMMANDS)
    assert cli().code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["genrate-image"], 2, "did you mean 'generate-image'"),
        (["zzz"], 2, "choose one of"),
        (["generate-image", "a", "--heigth", "3"], 2, "did you mean --height"),
        (["generate-image", "a", "--height", "tall"], 2, "invalid int value"),
        (["generate-image"], 2, "required: prompt"),
        (["generate-image", "a", "--model", "nowhere"], 2, "there is no folder 'nowhere'"),
        (["edit", "nothing.png", "x"], 2, "there is no file 'nothing.png'"),
        (["generate-image", "a", "--format", "mp4"], 2, "cannot be written as '.mp4'"),
        (["generate-video", "a", "--image", "a.png", "--reference", "b.png"], 2, "give one of the two"),
        (["info", "--dtype", "int8"], 2, "--dtype int8"),
        (["batch", "missing.jsonl", "--output", "out"], 2, "cannot read missing.jsonl"),
        (["verify", "nowhere"], 2, "there is no folder 'nowhere'"),
        (["generate-image", "@nothing.txt"], 2, "cannot read the prompt from nothing.txt"),
    ],
)
def test_wrong_usage_is_one_sentence(cli: Cli, arguments: list[str], code: int, words: str) -> None:
    run = cli(*arguments)
    assert run.code == code
    assert words in run.err
    assert run.err.startswith("openlance: ")
    assert len(run.err.strip().splitlines()) == 1
    assert run.out == ""


def test_unexpected_failure_is_one_sentence_and_debug_shows_more(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise RuntimeError("the disk is on fire\nand more")

    monkeypatch.setattr("openlance.apps.cli.parser_of", broken)
    run = cli("info")
    assert (run.code, run.err) == (1, "openlance: RuntimeError: the disk is on fire (--debug shows where)\n")
    with pytest.raises(RuntimeError):
        cli("info", "--debug")


def test_interrupt_gives_130(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("openlance.apps.cli.parser_of", interrupted)
    assert cli("info").code == 130


def test_missing_part_of_the_installation_is_said(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from openlance.apps.cli import Command

    monkeypatch.setitem(COMMANDS, "fly", Command("openlance.apps.commands.fly", "not there"))
    run = cli("fly")
    assert (run.code, run.err) == (1, "openlance: 'fly' is not part of this installation\n")
