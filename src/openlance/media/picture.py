"""Still and animated images through Pillow: bytes -> RGB uint8."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from openlance.errors import MediaError
from openlance.media.clip import IMAGE_FPS, Clip
from openlance.media.limits import MediaLimits
from openlance.media.sample import Sampler, Timeline, timeline

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image, ImageFile

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "AVIF", "BMP", "TIFF", "PPM")
"""The only decoders Pillow may try: others (EPS for one) start programs or are rarely tested."""
ANIMATED_FORMATS = ("GIF", "WEBP", "PNG", "AVIF")
"""Formats whose frames are moments in time; those of TIFF and MPO are pages or views."""


@contextmanager
def open_picture(file: IO[bytes], limits: MediaLimits, name: str) -> Iterator[ImageFile.ImageFile]:
    """A Pillow image whose header has been checked and whose pixels are not decoded yet. Raises MediaError."""
    from PIL import Image

    Image.init()
    with damage_as_media_error(name), Image.open(file, formats=[known for known in FORMATS if known in Image.OPEN]) as image:
        limits.check_size(image.width, image.height, name)
        yield image


@contextmanager
def damage_as_media_error(name: str) -> Iterator[None]:
    """A hostile file can make a decoder raise nearly anything: all of it means that the file cannot be read."""
    from PIL import Image

    try:
        yield
    except MediaError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(f"{name} is too large for Pillow ({error}): scale it down, or raise PIL.Image.MAX_IMAGE_PIXELS as well") from error
    except MemoryError as error:
        raise MediaError(f"{name} does not fit in memory: scale it down or lower MediaLimits") from error
    except Exception as error:
        raise MediaError(f"{name} is damaged or cut short ({_reason(error)}): export or download it again") from error


def _reason(error: Exception) -> str:
    """The decoder's own words without file objects and error numbers."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "its header cannot be read"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def rgb_array(image: Image.Image | NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) of a Pillow image of any mode or of a uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). Raises MediaError."""
    import numpy as np
    from PIL import Image

    if isinstance(image, np.ndarray):
        array = image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
        if array.dtype != np.uint8:
            raise MediaError(f"an image array must be uint8 in 0..255, not {array.dtype}: scale, round and cast first")
        if 0 in array.shape or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
            raise MediaError(f"an image array must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) with no empty side, not {image.shape}")
        if array.ndim == 3 and array.shape[2] == 3:
            return array
        image = Image.fromarray(np.ascontiguousarray(array))
    if not isinstance(image, Image.Image):
        raise MediaError(f"cannot take {type(image).__name__} as an image: give a Pillow image or a uint8 array")
    with damage_as_media_error("the given image"):
        return np.array(to_rgb(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB as a person sees the picture: turned by its EXIF orientation, transparency on white, 16 bits rounded to 8.

    The released model's preprocessing ignores the EXIF orientation; here it is applied, since people judge the upright picture.
    Mode I (32-bit integers) holds 16-bit values in practice and is read as such. Raises MediaError for floating-point pixels.
    """
    import numpy as np
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise MediaError("an image of floating-point pixels has no known range: scale it to 0..255 and save it with 8 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(opaque, _rgba(image)).convert("RGB")
    return image.convert("RGB")


def _rgba(image: Image.Image) -> Image.Image:
    """La (grey with premultiplied alpha) is the one mode that Pillow does not turn into RGBA in one step."""
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def is_animated(image: Image.Image) -> bool:
    """Whether the image is in a format of moving pictures and has more than one frame."""
    return image.format in ANIMATED_FORMATS and bool(getattr(image, "is_animated", False))


def read_still(image: Image.Image, limits: MediaLimits, name: str) -> Clip:
    """The first frame of an opened image. Raises MediaError."""
    import numpy as np

    limits.check_size(image.width, image.height, name)
    limits.check_decoded(1, image.width, image.height, name)
    with damage_as_media_error(name):
        if is_animated(image):
            image.seek(0)
        return Clip(np.array(to_rgb(image))[None], IMAGE_FPS)


def read_animation(image: Image.Image, sampler: Sampler | None, limits: MediaLimits, name: str) -> Clip:
    """All frames, or those `sampler` keeps, of an opened animated image; only those are held at a time.

    Each frame has its own display time, so the frames go through `timeline`. Raises MediaError.
    """
    import numpy as np

    with damage_as_media_error(name):
        view = _timeline(image, limits, name).pick(sampler)
        limits.check_decoded(len(view.indices), image.width, image.height, name)
        frames: NDArray[np.uint8] | None = None
        for index, places in view.places().items():
            image.seek(index)
            frame = np.asarray(to_rgb(image))
            if frames is None:
                frames = np.empty((len(view.indices), *frame.shape), np.uint8)
            frames[places] = frame
        assert frames is not None  # a timeline has at least one frame
        return Clip(frames, view.fps)


def _timeline(image: Image.Image, limits: MediaLimits, name: str) -> Timeline:
    """Show every frame once to learn how many there are and how long each one stays; hold none."""
    starts: list[float] = []
    now = 0.0
    while True:
        try:
            image.seek(len(starts))
        except EOFError:
            break
        image.load()
        limits.check_frames(len(starts) + 1, name)
        starts.append(now)
        milliseconds = float(image.info.get("duration", 0))
        now += (milliseconds if milliseconds > 10 else 100.0) / 1000  # as browsers do with 0 and 10 ms
    _check_complete(image, len(starts), name)
    whole = max(1, round(len(starts) / now))
    clocks_agree = abs(len(starts) / whole - now) <= 0.005  # GIF counts time in 10 ms, so 24 fps reads as 23.94
    return timeline(starts, now, float(whole) if clocks_agree else None, limits, name)


def _check_complete(image: Image.Image, count: int, name: str) -> None:
    """Pillow takes a GIF that breaks off between two frames for a shorter one, and believes the frame count of the others."""
    file = getattr(image, "_fp", None) or getattr(image, "fp", None)
    if image.format == "GIF" and file is not None:
        file.seek(-1, 1)
        if file.read(1) != b";":
            raise MediaError(f"{name} is cut short after {count} frame(s): the end mark is missing; export or download it again")
    claimed = getattr(image, "n_frames", count)
    if image.format != "GIF" and claimed != count:
        raise MediaError(f"{name} claims {claimed} frames and has {count}: export or download it again")
