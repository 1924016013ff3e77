"""The rules of the house: budgets of size, one-way imports, names that live in one file, lazy imports."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "openlance"
FILES = sorted(path for path in SOURCE.rglob("*.py"))
MAX_FILE, MAX_FUNCTION, MAX_ARGUMENTS = 450, 70, 8
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "misc"}

ALLOWED: dict[str, set[str]] = {
    "media": set(),
    "sequence": set(),
    "flow": set(),
    "world": {"media"},
    "model": {"sequence"},
    "weights": {"model", "sequence"},
    "engine": {"media", "sequence", "model", "flow", "weights"},
    "data": {"media", "sequence", "world", "model", "flow", "engine"},
    "train": {"data", "model", "flow", "weights", "sequence", "media", "world", "engine"},
    "rl": {"train", "engine", "data", "model", "flow", "weights", "sequence", "media", "world"},
    "eval": {"pipeline", "engine", "data", "world", "media", "model", "sequence"},
}
"""What each package may import besides itself, `errors` and `files`; packages not listed may import anything."""


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_packages(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("openlance."):
            found.add(node.module.split(".")[1])
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("openlance.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_keeps_its_budget(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_FILE, f"{len(lines)} lines: let the file say one thing"
    assert path.stem not in BANNED_NAMES
    for function in functions(parse(path)):
        length = (function.end_lineno or 0) - function.lineno + 1
        arguments = [
            a for a in [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs] if a.arg not in ("self", "cls")
        ]
        assert length <= MAX_FUNCTION, f"{function.name} has {length} lines"
        assert len(arguments) <= MAX_ARGUMENTS, f"{function.name} takes {len(arguments)} arguments"


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_one_way(package: str) -> None:
    allowed = ALLOWED[package] | {package, "errors", "files"}
    for path in (SOURCE / package).rglob("*.py"):
        extra = imported_packages(parse(path)) - allowed
        assert not extra, f"{path.relative_to(SOURCE)} imports {sorted(extra)}"


def test_only_the_task_table_compares_tasks() -> None:
    """No branch on a task's name outside sequence/tasks.py: tasks are data."""
    from openlance.sequence.tasks import RELEASED_NAMES, TASKS

    names = set(TASKS) | set(RELEASED_NAMES) - {"text"}
    names -= {"text"}
    for path in FILES:
        if path.relative_to(SOURCE).as_posix() == "sequence/tasks.py":
            continue
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Compare):
                words = {c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and isinstance(c.value, str)}
                assert not words & names, f"{path.relative_to(SOURCE)}:{node.lineno} compares with {sorted(words & names)}"


def test_released_tensor_names_live_in_one_file() -> None:
    pattern = re.compile(r"language_model\.|_moe_gen|vae2llm|llm2vae")
    for path in FILES:
        if path.relative_to(SOURCE).as_posix() != "weights/names.py":
            assert not pattern.search(path.read_text(encoding="utf-8")), path.relative_to(SOURCE)


def test_import_is_light() -> None:
    """`import openlance` pulls in none of the heavy packages; they are imported where they are used."""
    code = "import sys, openlance, openlance.errors; print(','.join(sorted({m.split('.')[0] for m in sys.modules})))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip().split(",")
    heavy = {"torch", "numpy", "PIL", "av", "transformers", "diffusers", "gradio", "fastapi", "rich"}
    assert not heavy & set(loaded)


def test_no_path_of_a_machine_in_the_tree() -> None:
    pattern = re.compile(r"(^|[\s'\"(=])/(work|root|home)/\w")
    for path in FILES:
        assert not pattern.search(path.read_text(encoding="utf-8")), path.relative_to(SOURCE)
