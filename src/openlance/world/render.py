"""Draws scenes with Pillow at twice the size and averages down: the pixels every judge and every model sees."""

import math
import random
from dataclasses import replace
from functools import cache, lru_cache
from importlib.resources import files
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from openlance.errors import LanceError
from openlance.world.palette import BACKGROUNDS, COLOURS, SCENERIES, SHAPES, STAR_COLOUR, Colour, second_colour
from openlance.world.scene import Object, Pose, Scene, Word, check_canvas, pose
from openlance.world.sprites import sprite

Pixels = NDArray[np.uint8]
SUPERSAMPLING = 2
NUM_STARS = 28
LETTER_GAP = 0.12  # between letters, in capital heights: keeps them apart for readers


def render(scene: Scene, height: int, width: int) -> Pixels:
    """The scene's first frame as (H, W, 3). Raises LanceError when a side is not a multiple of 16 from 64 to 288."""
    check_canvas(height, width)
    return _frame(scene, height, width, 0.0, 0.0)


def render_clip(scene: Scene, height: int, width: int, num_frames: int = 17, fps: float = 8.0) -> Pixels:
    """The scene in motion as (F, H, W, 3). Ways and events span the whole clip whatever its length; blinking keeps real time."""
    check_canvas(height, width)
    if num_frames < 1:
        raise LanceError(f"num_frames={num_frames}: a clip has at least one frame")
    if not scene.moves:
        return np.repeat(_frame(scene, height, width, 0.0, 0.0)[None], num_frames, 0)
    resting = tuple(o for o in scene.objects if o.motion.kind == "still" and not o.event)
    base = _draw(replace(scene, objects=resting), height, width, 0.0, 0.0)
    acting = [o for o in scene.objects if o not in resting]
    frames = [_average(_draw_objects(base.copy(), scene, acting, i / max(1, num_frames - 1), i / fps)) for i in range(num_frames)]
    return np.stack(frames)


def _frame(scene: Scene, height: int, width: int, u: float, seconds: float) -> Pixels:
    return _average(_draw(scene, height, width, u, seconds))


def _average(canvas: Image.Image) -> Pixels:
    return np.asarray(canvas.reduce(SUPERSAMPLING))


def _draw(scene: Scene, height: int, width: int, u: float, seconds: float) -> Image.Image:
    canvas = background_image(scene.background, height * SUPERSAMPLING, width * SUPERSAMPLING).copy()
    if scene.word:
        draw_word(canvas, scene.word)
    return _draw_objects(canvas, scene, scene.objects, u, seconds)


def _draw_objects(canvas: Image.Image, scene: Scene, objects: Any, u: float, seconds: float) -> Image.Image:
    for o in objects:
        where = pose(o, u, seconds)
        if where.visible:
            _draw_object(canvas, o, where, scene.background)
    return canvas


def _draw_object(canvas: Image.Image, o: Object, where: Pose, background: str) -> None:
    size = max(4, round(where.diameter * min(canvas.size)))
    x, y = where.x * canvas.width, where.y * canvas.height
    if o.kind in SHAPES and o.texture == "solid":
        _draw_outline(ImageDraw.Draw(canvas), o.kind, (x, y), size / 2, (COLOURS[where.colour], where.angle))
        return
    picture = _textured(o.kind, where.colour, o.texture, background, size) if o.kind in SHAPES else sprite(o.kind, where.colour, size)
    if where.angle:
        picture = picture.rotate(where.angle, Image.Resampling.BILINEAR, expand=True)
    canvas.paste(picture, (round(x - picture.width / 2), round(y - picture.height / 2)), picture)


def draw_alone(looks: tuple[str, str, str], background: str, paper: Colour, side: int) -> Pixels:
    """One object, textured as on `background`, in the middle of a plain square of `paper`, two thirds of its side: (S, S, 3)."""
    canvas = Image.new("RGB", (side * SUPERSAMPLING, side * SUPERSAMPLING), paper)
    o = Object(*looks, "small", 0.5, 0.5, 2 / 3)
    _draw_object(canvas, o, pose(o, 0.0, 0.0), background)
    return _average(canvas)


def _draw_outline(draw: ImageDraw.ImageDraw, shape: str, centre: tuple[float, float], radius: float, ink: tuple[Any, float]) -> None:
    """A shape in one colour; `ink` is (fill, angle in degrees)."""
    (x, y), (fill, angle) = centre, ink
    if shape in ("circle", "ring"):
        box = (x - radius, y - radius, x + radius, y + radius)
        if shape == "circle":
            draw.ellipse(box, fill=fill)
        else:
            draw.ellipse(box, outline=fill, width=max(2, round(radius * 0.42)))
        return
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    draw.polygon([(x + radius * (px * cos + py * sin), y + radius * (py * cos - px * sin)) for px, py in outline(shape)], fill=fill)


@cache
def outline(shape: str) -> tuple[tuple[float, float], ...]:
    """Corner points of a shape in [-1, 1], y down, the longer side of its box filling the range."""
    points = _raw_outline(shape)
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    half = max(max(xs) - min(xs), max(ys) - min(ys)) / 2
    middle = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    return tuple(((x - middle[0]) / half, (y - middle[1]) / half) for x, y in points)


def _raw_outline(shape: str) -> list[tuple[float, float]]:
    if shape == "square":
        return [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    if shape == "triangle":
        return [(0, -1), (1.08, 0.95), (-1.08, 0.95)]
    if shape == "diamond":
        return [(0, -1), (0.72, 0), (0, 1), (-0.72, 0)]
    if shape == "cross":
        a = 0.34
        return [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)]
    if shape == "star":
        radii = (1.0, 0.42)
        return [(radii[i % 2] * math.sin(i * math.pi / 5), -radii[i % 2] * math.cos(i * math.pi / 5)) for i in range(10)]
    angles = [i * 2 * math.pi / 28 for i in range(28)]
    return [(math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16) for t in angles]


def box_of(o: Object, scene: Scene) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of an object's pixels in the first frame, shares of the width and height."""
    short = min(scene.height, scene.width)
    wide, high = _extent(o.kind)
    rx, ry = wide * o.diameter / 2 * short / scene.width, high * o.diameter / 2 * short / scene.height
    return o.x - rx, o.y - ry, o.x + rx, o.y + ry


@cache
def _extent(kind: str) -> tuple[float, float]:
    """Width and height of a kind's box, the longer one 1."""
    if kind in ("circle", "ring"):
        return 1.0, 1.0
    if kind in SHAPES:
        return max(x for x, _ in outline(kind)), max(y for _, y in outline(kind))
    left, top, right, bottom = sprite(kind, "natural", 96).getchannel("A").point(lambda a: 255 * (a > 64)).getbbox() or (0, 0, 96, 96)
    return (right - left) / 96, (bottom - top) / 96


@lru_cache(maxsize=4096)
def _textured(shape: str, colour: str, texture: str, background: str, size: int) -> Image.Image:
    """A striped or dotted shape as RGBA (size, size). Three stripes or three rows of dots: coarse enough for 16 px latents."""
    picture = Image.new("RGB", (size, size), COLOURS[colour])
    draw = ImageDraw.Draw(picture)
    ink = second_colour(colour, background)
    step = size / 3
    if texture == "striped":
        for i in range(3):
            draw.rectangle((0, (i + 0.29) * step, size, (i + 0.71) * step), fill=ink)
    else:
        r = 0.29 * step
        for i in range(3):
            for j in range(3):
                x, y = (j + 0.5) * step, (i + 0.5) * step
                draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)
    mask = Image.new("L", (size, size), 0)
    _draw_outline(ImageDraw.Draw(mask), shape, (size / 2, size / 2), size / 2, (255, 0.0))
    picture.putalpha(mask)
    return picture


@lru_cache(maxsize=256)
def background_image(name: str, height: int, width: int) -> Image.Image:
    """A background or scenery as RGB (width, height). Shared: copy before drawing."""
    if name in BACKGROUNDS:
        return Image.new("RGB", (width, height), BACKGROUNDS[name])
    picture = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(picture)
    top = 0
    for lower, colour in SCENERIES[name]:
        draw.rectangle((0, top, width, round(lower * height)), fill=colour)
        top = round(lower * height)
    if name == "night":
        sky = random.Random(7)
        r = 0.008 * min(height, width)
        for _ in range(NUM_STARS):
            x, y = sky.random() * width, sky.random() * height
            draw.ellipse((x - r, y - r, x + r, y + r), fill=STAR_COLOUR)
    return picture


@cache
def _font(name: str, cap_height: int) -> ImageFont.FreeTypeFont:
    """The font at the size where capitals are `cap_height` px high."""
    data = files("openlance.world").joinpath(f"assets/{name}.ttf").read_bytes()
    _, top, _, bottom = ImageFont.truetype(BytesIO(data), 200).getbbox("H")
    return ImageFont.truetype(BytesIO(data), 200 * cap_height / (bottom - top))


COLUMNS_AT = {"top": 3 / 16, "bottom": 13 / 16}
"""Where the middle of a word in columns is, a share of the height."""


@lru_cache(maxsize=4096)
def word_mask(text: str, font: str, cap_height: int) -> Image.Image:
    """Coverage (L) of a word, letter by letter with a gap, cropped to its ink."""
    face = _font(font, cap_height)
    gap = max(1, round(LETTER_GAP * cap_height))
    boxes = [face.getbbox(letter) for letter in text]
    widths = [math.ceil(box[2] - box[0]) for box in boxes]
    mask = Image.new("L", (sum(widths) + gap * (len(text) - 1), cap_height * 2), 0)
    draw = ImageDraw.Draw(mask)
    x = 0
    for letter, box, width in zip(text, boxes, widths, strict=True):
        draw.text((x - box[0], cap_height * 1.5), letter, fill=255, font=face, anchor="ls")
        x += width + gap
    return mask.crop(mask.getbbox())


def draw_word(canvas: Image.Image, word: Word) -> None:
    """Writes the word in the middle of its third, narrowed to 94 % of the width if its font is too wide; or letter by letter in columns."""
    if word.pitch:
        _draw_columns(canvas, word)
        return
    cap = max(6, round(word.height * min(canvas.size)))
    mask = word_mask(word.text, word.font, cap)
    limit = 0.94 * canvas.width
    if mask.width > limit:
        mask = word_mask(word.text, word.font, max(5, int(cap * limit / mask.width)))
    y = (1 / 6 if word.place == "top" else 5 / 6) * canvas.height
    left = min(canvas.width * 0.98 - mask.width, max(canvas.width * 0.02, word.x * canvas.width - mask.width / 2))
    canvas.paste(COLOURS[word.colour], (round(left), round(y - mask.height / 2)), mask)


def columns_of(word: Word) -> list[float]:
    """Middles of the columns of a word's letters, shares of the width: as many columns as fit lie in the middle of the canvas."""
    margin = (1 - word.pitch * int(1 / word.pitch + 1e-6)) / 2
    return [margin + word.pitch * (i + 0.5) for i in range(len(word.text))]


def _draw_columns(canvas: Image.Image, word: Word) -> None:
    cap = max(6, round(word.height * min(canvas.size)))
    draw, middle = ImageDraw.Draw(canvas), COLUMNS_AT[word.place] * canvas.height
    for letter, x in zip(word.text, columns_of(word), strict=True):
        position = (round(x * canvas.width), round(middle + cap / 2))
        draw.text(position, letter, fill=COLOURS[word.colour], font=_font(word.font, cap), anchor="ms")
