"""The wording of released weights, read out of the source that they were trained with: constants only, nothing is run.

How that source names its texts is not fixed, so a text is found by what its name says and by what it says itself; where that
is not enough, the error lists what was found and how to choose.
"""

from __future__ import annotations

import ast
import json
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from openlance.errors import CheckpointError
from openlance.files import whole_file
from openlance.sequence.template import OWN_WORDING, Templates

REPOSITORY = "bytedance/Lance"
"""Public source repository of the released weights."""
LARGEST_SOURCE = 4 << 20
SHORTEST = 20
"""Characters: shorter constants are names and keys, not wording."""
PLACEHOLDER = re.compile(r"\{[A-Za-z_ ]*\}|<[a-z_]+>|%s")
"""Where a text has a hole for `image` or `video`."""


@dataclass(frozen=True)
class Constant:
    """A string constant: the dotted path of names, keys and indices that leads to it, and its text."""

    name: str
    text: str


@dataclass(frozen=True)
class Wanted:
    """One of our keys, and what speaks for a text being it: words of its name, and words that it holds or must not hold."""

    key: str
    names: tuple[str, ...]
    holds: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    otherwise: str | None = None
    """The key whose text is taken where nothing is found."""


DESCRIBE = ("detailing", "describe the")
OTHERS = ("alter", "incorporate", "identity", "instruction")
WANTED = (
    Wanted("t2i/image", ("t2i", "text2image", "texttoimage"), DESCRIBE, (*OTHERS, "motion", "key features")),
    Wanted("t2v/video", ("t2v", "text2video", "texttovideo"), (*DESCRIBE, "motion"), (*OTHERS, "key features")),
    Wanted("i2v/video", ("i2v", "image2video", "imagetovideo", "ff2v"), (*DESCRIBE, "motion"), (*OTHERS, "key features"), "t2v/video"),
    Wanted("edit/image", ("edit", "i2i", "image2image", "imageedit"), ("alter", "modify", "instruction"), ("incorporate", "identity")),
    Wanted("edit/video", ("edit", "v2v", "video2video", "videoedit"), ("alter", "modify", "instruction"), ("incorporate", "identity")),
    Wanted("subject/image", ("idip", "subject", "s2i", "reference", "customization"), ("incorporate", "identity", "preserv"), ("alter",)),
    Wanted("subject/video", ("idip", "subject", "s2v", "reference", "customization"), ("incorporate", "identity", "preserv"), ("alter",)),
    Wanted("understand/text", ("x2t", "vqa", "understanding", "understand", "qa"), ("answer the question",), OTHERS),
)
"""The generating keys must be found; the answering ones may come from the data, so that our own wording stands in."""
OPTIONAL = ("understand/text", "text/text")


@dataclass(frozen=True)
class Reading:
    """What a source gave: the templates, and for each key the name of its constant (None: our own wording)."""

    templates: Templates
    names: Mapping[str, str | None]


def read_templates(path: Path, chosen: Mapping[str, str] | None = None) -> Reading:
    """Templates out of a Python source file. `chosen`: names of constants for keys that are found wrongly or not at all.

    Raises CheckpointError if the file is no Python, or naming the keys for which no or several different texts were found.
    """
    try:
        if path.stat().st_size > LARGEST_SOURCE:
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes: a module of prompts is far smaller; pass the right file")
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path} ({error}): pass the Python file that holds the prompts") from error
    return templates_of(constants_of(source, str(path)), chosen or {}, str(path))


def constants_of(source: str, name: str = "source") -> list[Constant]:
    """String constants of a source with their dotted names, in order. Nothing is run. Raises CheckpointError if it does not parse."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{name} is no Python source ({error}): pass the file that holds the prompts") from error
    return list(_walk(tree, ()))


def _walk(node: ast.AST, path: tuple[str, ...]) -> Iterator[Constant]:
    text = _text(node)
    if text is not None:
        if path and len(text) >= SHORTEST:
            yield Constant(".".join(path), text)
        return
    for child, step in _children(node):
        yield from _walk(child, (*path, step) if step else path)


def _children(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Parts of a node with the name each adds to the path."""
    if isinstance(node, ast.Assign):
        yield node.value, ".".join(_target(target) for target in node.targets)
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        yield node.value, _target(node.target)
    elif isinstance(node, ast.Dict):
        for index, (key, value) in enumerate(zip(node.keys, node.values, strict=True)):
            yield value, (_text(key) if key is not None else None) or str(index)
    elif isinstance(node, ast.List | ast.Tuple):
        for index, element in enumerate(node.elts):
            yield element, str(index)
    elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        for index, part in enumerate(node.body):
            if not (isinstance(part, ast.Expr) and _text(part.value) is not None):  # a docstring says nothing to the model
                yield part, f"{node.name}.{index}" if isinstance(part, ast.Return) else node.name
    elif isinstance(node, ast.keyword):
        yield node.value, node.arg or ""
    elif isinstance(node, ast.If):
        words = "_".join(part.value for part in ast.walk(node.test) if isinstance(part, ast.Constant) and isinstance(part.value, str))
        for part in node.body:
            yield part, words
        for part in node.orelse:
            yield part, ""
    else:
        for child in ast.iter_child_nodes(node):
            yield child, ""


def _target(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Subscript):
        return f"{_target(node.value)}.{_text(node.slice) or 'item'}"
    return "_".join(_target(child) for child in ast.iter_child_nodes(node)) or "value"


def _text(node: ast.AST | None) -> str | None:
    """The text of a constant or of a sum of constants."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _text(node.left), _text(node.right)
        return None if left is None or right is None else left + right
    return None


def templates_of(constants: list[Constant], chosen: Mapping[str, str], source: str) -> Reading:
    """The best text for every key. Raises CheckpointError, see `read_templates`."""
    known = {wanted.key for wanted in WANTED} | set(OPTIONAL)
    foreign = sorted(set(chosen) - known)
    if foreign:
        raise CheckpointError(f"{', '.join(foreign)} is no key of the templates: they are {', '.join(sorted(known))}")
    systems: dict[str, str] = {}
    names: dict[str, str | None] = {}
    problems = []
    for wanted in WANTED:
        found = _chosen(constants, chosen[wanted.key], source) if wanted.key in chosen else _candidates(constants, wanted)
        texts = {fill(constant.text, wanted.key) for constant in found}
        if len(texts) == 1:
            systems[wanted.key], names[wanted.key] = texts.pop(), found[0].name
        elif not texts and wanted.otherwise in systems:
            systems[wanted.key], names[wanted.key] = systems[wanted.otherwise], names[wanted.otherwise]
        elif wanted.key not in OPTIONAL:
            what = "nothing that looks like it" if not texts else f"several: {', '.join(constant.name for constant in found)}"
            problems.append(f"{wanted.key}: {what}")
    if problems:
        listing = ", ".join(constant.name for constant in constants) or "none"
        raise CheckpointError(f"{source}: {'; '.join(problems)}. Choose with --set KEY=NAME; its constants: {listing}")
    for key in OPTIONAL:
        if key in chosen and key not in systems:
            systems[key], names[key] = fill(_chosen(constants, chosen[key], source)[0].text, key), chosen[key]
        if key not in systems:
            systems[key], names[key] = OWN_WORDING.systems[key], None
    return Reading(Templates(systems), names)


def _chosen(constants: list[Constant], name: str, source: str) -> list[Constant]:
    found = [constant for constant in constants if constant.name == name]
    if not found:
        listing = ", ".join(constant.name for constant in constants) or "none"
        raise CheckpointError(f"{source} has no string constant '{name}': it has {listing}")
    return found[:1]


def _candidates(constants: list[Constant], wanted: Wanted) -> list[Constant]:
    """The constants with the highest score above zero."""
    scored = [(score, constant) for constant in constants if (score := _score(constant, wanted)) > 0]
    best = max((score for score, _ in scored), default=0)
    return [constant for score, constant in scored if score == best]


def _score(constant: Constant, wanted: Wanted) -> int:
    """How much speaks for a constant: its name counts more than its text; of the other kind, it cannot be meant at all."""
    text = constant.text.lower()
    kind = wanted.key.split("/")[1]
    words = [re.sub(r"[^a-z0-9]", "", word) for word in constant.name.lower().split(".")]
    named = any(name in word for name in wanted.names for word in words)
    other = {"image": "video", "video": "image"}.get(kind)
    if other and not PLACEHOLDER.search(constant.text):
        last = re.findall(r"image|video", words[-1])
        made = re.findall(r"new (image|video)", text) or re.findall(r"describe the (image|video)", text) or last
        if other in made or (last and last[-1] == other):
            return 0
    says = sum(word in text for word in wanted.holds)
    if any(word in text for word in wanted.lacks):
        return 0
    return (4 if named else 0) + says if says else 0


def fill(text: str, key: str) -> str:
    """The text with its holes filled by the kind that `key` produces, stripped."""
    kind = key.split("/")[1]
    return PLACEHOLDER.sub("image" if kind == "text" else kind, text).strip()


def fetched_templates(cache: Path | None = None) -> Path:
    """templates.json of the published weights: cached, or read once out of the public source repository.

    `cache`: folder, default openlance below XDG_CACHE_HOME or ~/.cache. Raises CheckpointError saying what to pass when there is no
    network or no source in the repository can be read.
    """
    root = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openlance"
    path = root / "lance-templates.json"
    if path.is_file():
        return path
    remedy = (
        "pass templates=FILE (on the command line --templates FILE), made with  openlance templates --from PROMPT_MODULE.py  "
        "out of the source of the released model, or give every request its own system text"
    )
    try:
        reading = _from_repository()
    except OSError as error:
        raise CheckpointError(f"the wording of the published weights is not cached and cannot be fetched ({error}): {remedy}") from error
    if reading is None:
        raise CheckpointError(f"no file of {REPOSITORY} holds the wording in a form that could be read: {remedy}")
    root.mkdir(parents=True, exist_ok=True)
    with whole_file(path, CheckpointError) as temporary:
        reading.templates.save(temporary)
    return path


def _from_repository() -> Reading | None:
    """The first Python file with `prompt` or `template` in its name, out of the repository's default branch, that holds every text."""
    listing = json.loads(_get(f"https://api.github.com/repos/{REPOSITORY}/git/trees/HEAD?recursive=1"))
    paths = [str(entry["path"]) for entry in listing.get("tree", ()) if entry.get("type") == "blob"]
    for path in paths:
        if re.search(r"(prompt|template)[^/]*\.py$", path):
            source = _get(f"https://raw.githubusercontent.com/{REPOSITORY}/HEAD/{urllib.parse.quote(path)}").decode("utf-8", "replace")
            try:
                return templates_of(constants_of(source, path), {}, path)
            except CheckpointError:
                continue
    return None


def _get(address: str) -> bytes:
    """The content at an https address, up to `LARGEST_SOURCE` bytes. Raises OSError."""
    with urllib.request.urlopen(address, timeout=20) as answer:
        content: bytes = answer.read(LARGEST_SOURCE + 1)
    if len(content) > LARGEST_SOURCE:
        raise OSError(f"{address} is larger than {LARGEST_SOURCE} bytes")
    return content
