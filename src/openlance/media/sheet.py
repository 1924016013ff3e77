"""Many clips on one picture, to look at them all at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from openlance.errors import MediaError
from openlance.media.clip import Clip
from openlance.media.sample import spread

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image as Pillow

GAP = 8
FONT_SIZE = 13
MAX_LABEL_LINES = 3


def contact_sheet(
    clips: Sequence[Clip | Pillow.Image | NDArray[Any]],
    labels: Sequence[str] | None = None,
    columns: int = 4,
    *,
    tile_height: int = 160,
    frames_per_clip: int = 4,
) -> Pillow.Image:
    """A white RGB sheet: clips from left to right, then down, each `tile_height` pixels high with its label below.

    A video shows up to `frames_per_clip` frames side by side, first and last among them. Raises MediaError when there is no clip, when the
    labels are not one a clip, or when a number is below 1.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not clips or min(columns, tile_height, frames_per_clip) < 1:
        raise MediaError(f"a sheet needs clips, columns, tile_height, frames_per_clip >= 1: got {len(clips)} clips, {columns} columns")
    if labels is not None and len(labels) != len(clips):
        raise MediaError(f"{len(labels)} labels were given for {len(clips)} clips: give one a clip")
    strips = [_strip(clip if isinstance(clip, Clip) else Clip.from_image(clip), tile_height, frames_per_clip) for clip in clips]
    columns = min(columns, len(strips))
    cell_width = max(strip.width for strip in strips)
    font = ImageFont.load_default(FONT_SIZE)
    texts = [_wrap(label, cell_width, font) for label in labels] if labels is not None else [[] for _ in strips]
    line_height = FONT_SIZE + 3
    cell_height = tile_height + line_height * max(len(lines) for lines in texts) + GAP
    rows = -(-len(strips) // columns)
    sheet = Image.new("RGB", (columns * (cell_width + GAP) + GAP, rows * cell_height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (strip, lines) in enumerate(zip(strips, texts, strict=True)):
        left, top = GAP + index % columns * (cell_width + GAP), GAP + index // columns * cell_height
        sheet.paste(strip, (left, top))
        for line, text in enumerate(lines):
            draw.text((left, top + tile_height + 2 + line * line_height), text, fill="black", font=font)
    return sheet


def _strip(clip: Clip, height: int, frames_per_clip: int) -> Pillow.Image:
    """A few frames of a clip side by side, scaled to `height`."""
    from PIL import Image

    width = max(1, round(clip.width * height / clip.height))
    shown = spread(clip.num_frames, min(clip.num_frames, frames_per_clip))
    strip = Image.new("RGB", (len(shown) * (width + 1) - 1, height), "white")
    for place, index in enumerate(shown):
        strip.paste(clip.image(index).resize((width, height), Image.Resampling.LANCZOS), (place * (width + 1), 0))
    return strip


def _wrap(label: str, width: int, font: Any) -> list[str]:
    """Lines no wider than `width` pixels, broken at a space or, for languages without any, anywhere; "…" tells where the text was cut."""
    lines: list[str] = []
    line = ""
    for character in " ".join(label.split()):
        if line and font.getlength(line + character) > width:
            if len(lines) == MAX_LABEL_LINES - 1:
                return [*lines, line[:-1] + "…"]
            space = line.rfind(" ")
            head, rest = (line[:space], line[space + 1 :]) if space > 0 and character != " " else (line, "")
            lines.append(head)
            line = rest
        line += character
    return [*lines, line.strip()] if line.strip() else lines
