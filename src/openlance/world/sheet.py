"""Contact sheets of examples for people, and their export as JSON lines with media files."""

import json
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from openlance.errors import LanceError
from openlance.files import whole_file
from openlance.world.examples import Example, Medium, Turn

PAPER, INK, FAINT = (252, 252, 250), (30, 30, 30), (110, 110, 110)
MARGIN = 8
SHOWN_FRAMES = 5


def contact_sheet(examples: Sequence[Example], columns: int = 4, zoom: int = 1) -> Image.Image:
    """One card an example: its media (clips as five frames), texts, answers and facts. `zoom` enlarges pixels for small sizes."""
    if not examples or columns < 1 or zoom < 1:
        raise LanceError(f"a sheet needs examples, columns and zoom of at least 1; got {len(examples)}, {columns}, {zoom}")
    cards = [_card(example, zoom) for example in examples]
    rows = [cards[i : i + columns] for i in range(0, len(cards), columns)]
    width = max(sum(c.width for c in row) for row in rows)
    sheet = Image.new("RGB", (width, sum(max(c.height for c in row) for row in rows)), PAPER)
    y = 0
    for row in rows:
        x = 0
        for card in row:
            sheet.paste(card, (x, y))
            x += card.width
        y += max(c.height for c in row)
    return sheet


def film_strip(frames: NDArray[np.uint8], shown: int = SHOWN_FRAMES) -> NDArray[np.uint8]:
    """(F, H, W, 3) as one picture (H, W', 3): a single frame, or `shown` frames from first to last side by side."""
    picks = sorted({round(i * (len(frames) - 1) / max(1, shown - 1)) for i in range(shown)})
    return np.concatenate([np.pad(frames[i], ((0, 0), (0, 2), (0, 0)), constant_values=252) for i in picks], 1)


def _card(example: Example, zoom: int) -> Image.Image:
    """The turns of an example, one under the other."""
    blocks = [_turn_block(turn, zoom) for turn in example.turns]
    title = f"{example.task} / {example.category} #{example.seed} ({example.split})"
    font = ImageFont.load_default(11)
    width = max(260, *(b.width for b in blocks)) + 2 * MARGIN
    card = Image.new("RGB", (width, sum(b.height for b in blocks) + 20 + 2 * MARGIN), PAPER)
    draw = ImageDraw.Draw(card)
    draw.text((MARGIN, MARGIN), title, fill=FAINT, font=font)
    y = MARGIN + 18
    for block in blocks:
        card.paste(block, (MARGIN, y))
        y += block.height
    return card


def _turn_block(turn: Turn, zoom: int) -> Image.Image:
    """Inputs, an arrow, the target, and the words below."""
    strips = [film_strip(m.pixels()) for m in turn.inputs] + ([film_strip(turn.target.pixels())] if turn.target else [])
    pictures = [Image.fromarray(s).resize((s.shape[1] * zoom, s.shape[0] * zoom), Image.Resampling.NEAREST) for s in strips]
    width = max(260, sum(p.width + 14 for p in pictures))
    lines = textwrap.wrap(turn.text, max(20, width // 6))
    lines += [f"= {line}" for line in textwrap.wrap(turn.answer, max(20, width // 6))] if turn.answer is not None else []
    facts = textwrap.wrap("; ".join(f.name for f in turn.facts), max(20, width // 6)) if turn.facts else []
    height = max((p.height for p in pictures), default=0)
    block = Image.new("RGB", (width, height + 14 * (len(lines) + len(facts)) + 12), PAPER)
    draw = ImageDraw.Draw(block)
    x = 0
    for index, picture in enumerate(pictures):
        block.paste(picture, (x, 0))
        x += picture.width + 14
        if index + 1 < len(pictures):
            draw.polygon([(x - 11, height // 2 - 4), (x - 11, height // 2 + 4), (x - 4, height // 2)], fill=INK)
    font = ImageFont.load_default(11)
    for number, line in enumerate(lines + facts):
        draw.text((0, height + 4 + 14 * number), line, fill=INK if number < len(lines) else FAINT, font=font)
    return block


def export(examples: Iterable[Example], folder: Path) -> int:
    """Writes examples.jsonl and media/ (PNG pictures, animated PNG clips, lossless) into `folder`; returns the number of examples.

    Each line is the example's plain dict with a `path` beside every scene. The list appears under its name only when it is complete.
    """
    media = folder / "media"
    media.mkdir(parents=True, exist_ok=True)
    count = 0
    with whole_file(folder / "examples.jsonl") as partial, partial.open("w", encoding="utf-8") as lines:
        for example in examples:
            record = example.to_dict()
            stem = f"{example.task}_{example.category.replace(' ', '-')}_{example.split.replace(' ', '-')}_{example.seed}"
            for number, (turn, raw) in enumerate(zip(example.turns, record["turns"], strict=True)):
                for index, medium in enumerate(turn.inputs):
                    raw["inputs"][index]["path"] = _save(medium, media, f"{stem}_{number}_in{index}")
                if turn.target:
                    raw["target"]["path"] = _save(turn.target, media, f"{stem}_{number}_out")
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count


def _save(medium: Medium, folder: Path, name: str) -> str:
    """Writes the pixels; the path is relative to the exported folder."""
    frames = [Image.fromarray(f) for f in medium.pixels()]
    more: dict[str, Any] = {}
    if len(frames) > 1:
        # equal neighbours are written as one frame unless their blending differs; on opaque frames it makes no difference otherwise
        blends = [i % 2 for i in range(len(frames))]
        more = {"save_all": True, "append_images": frames[1:], "duration": 1000 / medium.fps, "blend": blends}
    with whole_file(folder / f"{name}.png") as partial:
        frames[0].save(partial, format="PNG", **more)
    return f"{folder.name}/{name}.png"
