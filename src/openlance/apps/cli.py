"""The command line: `openlance COMMAND ...`.

A command is a module with `add_arguments(parser)` and `run(args) -> int`; it is imported only when it is called, so that
`openlance --help` costs nothing. Adding one is one line of `COMMANDS`. Results go to stdout, everything else to stderr.

Exit codes: 0 done, 1 failed, 2 wrong usage or input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from openlance import __version__
from openlance.errors import LanceError, MissingExtra

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Command:
    """Where a command lives and what it is for, in a few words."""

    module: str
    about: str


COMMANDS = {
    "generate-image": Command("openlance.apps.commands.generate_image", "draw images of prompts"),
    "generate-video": Command("openlance.apps.commands.generate_video", "film clips of prompts, or from a first frame"),
    "edit": Command("openlance.apps.commands.edit", "change an image or a video as told"),
    "ask": Command("openlance.apps.commands.ask", "answer a question about images and videos"),
    "batch": Command("openlance.apps.commands.batch", "run a file of requests, resumably"),
    "serve": Command("openlance.apps.commands.serve", "HTTP API and web page"),
    "demo": Command("openlance.apps.commands.demo", "everything once with the embedded model"),
    "info": Command("openlance.apps.commands.info", "what a checkpoint is and the memory it needs"),
    "convert": Command("openlance.apps.commands.convert", "rewrite a checkpoint in another layout or dtype"),
    "templates": Command("openlance.apps.commands.templates", "read the wording of released weights out of its source"),
    "verify": Command("openlance.apps.commands.verify", "compare with recorded numbers"),
    "world": Command("openlance.apps.commands.world", "the synthetic visual world: look, sample, judge"),
    "data": Command("openlance.apps.commands.data", "prepare and inspect training data"),
    "train": Command("openlance.apps.commands.train", "pre-train and fine-tune"),
    "rl": Command("openlance.apps.commands.rl", "reinforcement learning"),
    "eval": Command("openlance.apps.commands.eval", "benchmarks"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(overview())
        return OK if given else USAGE
    if given[0] in ("-V", "--version"):
        print(f"openlance {__version__}")
        return OK
    name, *rest = given
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(COMMANDS)}"
        return _complain(f"there is no command '{name}': {hint}", USAGE)
    return _guarded(name, rest)


def overview() -> str:
    """The text of `openlance --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.about}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: openlance COMMAND [OPTIONS]",
            "",
            "One native multimodal model that understands, generates and edits images and videos.",
            "",
            "commands:",
            *lines,
            "",
            "examples:",
            '  openlance generate-image "a red circle on a white background"',
            '  openlance edit photo.jpg "make it snowy" --seed 7',
            '  openlance ask photo.jpg clip.mp4 "what is different?"',
            "",
            "`openlance COMMAND --help` explains a command with examples.",
        ]
    )


class Parser(argparse.ArgumentParser):
    """Wrong usage is one sentence, with the option that was probably meant."""

    def error(self, message: str) -> NoReturn:
        words = message.removeprefix("unrecognized arguments: ").split()
        wrong = words[0] if message.startswith("unrecognized") and words else ""
        near = difflib.get_close_matches(wrong.split("=")[0], self._option_string_actions, n=1) if wrong else []
        hint = f"did you mean {near[0]}?" if near else f"see {self.prog} --help"
        self.exit(USAGE, f"openlance: {message}; {hint}\n")


def parser_of(name: str) -> tuple[argparse.ArgumentParser, Any]:
    """The parser of a command and its module. Raises ModuleNotFoundError if the command is not part of this installation."""
    module = importlib.import_module(COMMANDS[name].module)
    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog=f"openlance {name}", description=module.__doc__, formatter_class=formatter, allow_abbrev=False)
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser, module


def _guarded(name: str, rest: Sequence[str]) -> int:
    """Parse and run; every error becomes one sentence on stderr and an exit code."""
    debug = "--debug" in rest
    previous = signal.signal(signal.SIGTERM, _terminate) if _in_main_thread() else None
    try:
        parser, module = parser_of(name)
        return int(module.run(parser.parse_args(list(rest))))
    except SystemExit as exit_request:  # argparse: usage on stderr, code 2; help: code 0
        return exit_request.code if isinstance(exit_request.code, int) else USAGE
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if debug:
            raise
        return _explain(name, error)
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _explain(name: str, error: Exception) -> int:
    if isinstance(error, LanceError):
        return _complain(str(error), USAGE)
    if isinstance(error, ModuleNotFoundError) and error.name == COMMANDS[name].module:
        return _complain(f"'{name}' is not part of this installation", FAILED)
    if isinstance(error, MissingExtra):
        return _complain(str(error), FAILED)
    reason = str(error).strip().split("\n")[0]
    return _complain(f"{type(error).__name__}: {reason} (--debug shows where)", FAILED)


def _complain(message: str, code: int) -> int:
    print(f"openlance: {message}", file=sys.stderr)
    return code


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _in_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()


if __name__ == "__main__":
    sys.exit(main())
