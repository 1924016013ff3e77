"""Build src/openlance/world/assets: sprite sheet of the pictograms, subset fonts, contrast table. Needs fonttools and the source fonts.

    python tools/build_world_assets.py --emoji NotoColorEmoji.ttf --fonts DIR --output src/openlance/world/assets

DIR holds Roboto-Black.ttf, Lato-Black.ttf, SourceSerifPro-Bold.ttf and DejaVuSansMono-Bold.ttf.
"""

import argparse
import json
import string
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from openlance.world.palette import BACKGROUNDS, COLOURS, MIN_CONTRAST, NATURAL, SCENERIES, THINGS, background_colours
from openlance.world.sprites import CELL, COLUMNS, sprite

EMOJI = dict(zip(THINGS, "🐱🐶🐸🐟🐦🦋🐢🐰🐻🐮🌳🌵🌻🍄🍎🍌🍇🍓🍕🍔🚗🚌🚲✈🚀⛵🚂🏠⚽🎈🌙🌞☂🎁📕🔑⏰🪑🎸☕", strict=True))
FONT_FILES = {"roboto": "Roboto-Black.ttf", "lato": "Lato-Black.ttf", "serif": "SourceSerifPro-Bold.ttf", "mono": "DejaVuSansMono-Bold.ttf"}
BITMAP = 109  # the only strike of the emoji font, in px
FADED = 0.33  # a thing is not sampled on a background that hides more than this share of its pixels


def pictogram(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """One emoji cropped to its pixels and centred in a square cell (RGBA)."""
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((10, 10), character, font=font, embedded_color=True)
    box = canvas.getchannel("A").point(lambda a: 255 if a > 40 else 0).getbbox()
    glyph = canvas.crop(box)
    scale = CELL / max(glyph.size)
    glyph = glyph.resize((max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale))), Image.Resampling.LANCZOS)
    cell = Image.new("RGBA", (CELL, CELL))
    cell.paste(glyph, ((CELL - glyph.width) // 2, (CELL - glyph.height) // 2))
    return cell


def build_sheet(emoji: Path, output: Path) -> None:
    font = ImageFont.truetype(str(emoji), BITMAP)
    sheet = Image.new("RGBA", (CELL * COLUMNS, CELL * -(-len(THINGS) // COLUMNS)))
    for index, name in enumerate(THINGS):
        sheet.paste(pictogram(font, EMOJI[name]), (index % COLUMNS * CELL, index // COLUMNS * CELL))
    alpha = np.asarray(sheet)[..., 3]
    sheet = sheet.quantize(255, method=Image.Quantize.FASTOCTREE).convert("RGBA")
    pixels = np.asarray(sheet).copy()
    pixels[alpha < 8] = 0
    Image.fromarray(pixels).quantize(255, method=Image.Quantize.FASTOCTREE).save(output / "things.png", optimize=True)


def build_fonts(folder: Path, output: Path) -> None:
    from fontTools import subset

    for name, file in FONT_FILES.items():
        options = subset.Options(layout_features=[], name_IDs=["*"], hinting=False, glyph_names=False)
        font = subset.load_font(str(folder / file), options)
        subsetter = subset.Subsetter(options)
        subsetter.populate(text=string.ascii_uppercase)
        subsetter.subset(font)
        _rename(font, f"World {name.capitalize()}")
        subset.save_font(font, str(output / f"{name}.ttf"), options)


def _rename(font: Any, family: str) -> None:
    """Reserved font names may not be kept by a changed font: only the copyright and licence entries stay as they were."""
    table = font["name"]
    table.names = [record for record in table.names if record.nameID in (0, 13, 14)]
    for name_id, text in ((1, family), (2, "Regular"), (4, family), (6, family.replace(" ", ""))):
        table.setName(text, name_id, 3, 1, 0x409)


def build_contrast(output: Path) -> None:
    """faded.json: for every background the thing-tint pairs that would vanish on it."""
    faded: dict[str, list[list[str]]] = {}
    for background in (*BACKGROUNDS, *SCENERIES):
        around = np.array(background_colours(background), np.float32)
        faded[background] = []
        for thing in THINGS:
            for tint in (NATURAL, *COLOURS):
                pixels = np.asarray(sprite(thing, tint, CELL)).astype(np.float32)
                opaque = pixels[pixels[..., 3] > 127][:, :3]
                gap = np.sqrt(((opaque[:, None] - around) ** 2).sum(-1))
                if (gap < MIN_CONTRAST).mean(0).max() > FADED:
                    faded[background].append([thing, tint])
    (output / "faded.json").write_text(json.dumps(faded, separators=(",", ":")) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emoji", type=Path, required=True)
    parser.add_argument("--fonts", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    build_sheet(arguments.emoji, arguments.output)
    build_fonts(arguments.fonts, arguments.output)
    build_contrast(arguments.output)


if __name__ == "__main__":
    main()
