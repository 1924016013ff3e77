"""Examples as files: to learn from, to give to any model, and to judge what it makes of them."""

import json
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openlance.files import whole_file
from openlance.world.examples import Example, Medium, Turn

EXAMPLES, RECORDS, REQUESTS = "examples.jsonl", "records.jsonl", "requests.jsonl"


def export(examples: Iterable[Example], folder: Path) -> int:
    """Write examples into `folder`; returns their number.

    media/          what is given and what is right: PNG pictures, animated PNG clips, lossless
    examples.jsonl  all there is to know, scenes and facts too, which judges need
    records.jsonl   every turn in the form of training data
    requests.jsonl  every example of one turn in the form of `openlance batch`

    The lists appear under their names only when they are complete. Raises LanceError where the disk refuses.
    """
    media = folder / "media"
    media.mkdir(parents=True, exist_ok=True)
    count = 0
    with ExitStack() as stack:
        whole, records, requests = (
            stack.enter_context(stack.enter_context(whole_file(folder / name)).open("w", encoding="utf-8"))
            for name in (EXAMPLES, RECORDS, REQUESTS)
        )
        for example in examples:
            values = example.to_dict()
            for name, turn, raw in zip(example.names, example.turns, values["turns"], strict=True):
                given = [_save(medium, media, f"{name}_in{index}") for index, medium in enumerate(turn.inputs)]
                made = _save(turn.target, media, f"{name}_out") if turn.target else None
                for about, path in zip((*raw["inputs"], raw["target"]), (*given, made), strict=True):
                    if about:
                        about["path"] = path
                _write(records, _record(name, turn, given, made))
                if len(example.turns) == 1:
                    _write(requests, _request(name, turn, given, example.seed))
            _write(whole, values)
            count += 1
    return count


def _write(file: Any, values: dict[str, Any]) -> None:
    file.write(json.dumps(values, ensure_ascii=False) + "\n")


def _record(name: str, turn: Turn, given: list[str], made: str | None) -> dict[str, Any]:
    media = [{_kind(medium): path} for medium, path in zip(turn.inputs, given, strict=True)]
    learned = {"target": {_kind(turn.target): made}} if turn.target else {"answer": turn.answer}
    return {"id": name, "task": turn.task, "text": turn.text, "media": media, **learned}


def _request(name: str, turn: Turn, given: list[str], seed: int) -> dict[str, Any]:
    values: dict[str, Any] = {"id": name, "task": turn.task, "prompt": turn.text, "seed": seed}
    for medium, path in zip(turn.inputs, given, strict=True):
        values.setdefault(f"{_kind(medium)}s", []).append(path)
    if turn.target:
        values |= {"height": turn.target.height, "width": turn.target.width}
        values |= {"num_frames": turn.target.num_frames} if turn.target.num_frames > 1 else {}
    return values


def _kind(medium: Medium) -> str:
    return "image" if medium.num_frames == 1 else "video"


def _save(medium: Medium, folder: Path, name: str) -> str:
    """Writes the pixels; the path is relative to the exported folder."""
    write_png(medium.pixels(), medium.fps, folder / f"{name}.png")
    return f"{folder.name}/{name}.png"


def write_png(frames: NDArray[np.uint8], fps: float, path: Path) -> None:
    """One frame (1, H, W, 3) as a PNG picture, several as an animated one, without loss."""
    first, *later = (Image.fromarray(frame) for frame in frames)
    more: dict[str, Any] = {}
    if later:
        # equal neighbours are written as one frame unless their blending differs; on opaque frames it makes no difference otherwise
        more = {"save_all": True, "append_images": later, "duration": 1000 / fps, "blend": [i % 2 for i in range(len(frames))]}
    with whole_file(path) as partial:
        first.save(partial, format="PNG", **more)
