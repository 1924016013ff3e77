"""Contact sheets of examples for people."""

import textwrap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from openlance.errors import LanceError
from openlance.world.examples import Example, Turn

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
