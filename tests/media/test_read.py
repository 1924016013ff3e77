"""Reading: every kind of source gives the frames it holds."""

import io

import numpy as np
import pytest
from PIL import Image

from openlance.errors import MediaError
from openlance.media import IMAGE_FPS, Clip, MediaLimits, encode, read_image, read_media, read_video, sample_frame_indices
from tests.media.samples import disc_position, movie, mux, patched, psnr

MOVIE = movie()
PICTURE = MOVIE[0]


def saved(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


class Trickle(io.RawIOBase):
    """A stream that gives at most 100 bytes a call and cannot seek."""

    def __init__(self, data: bytes) -> None:
        self.inner = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self.inner.read(min(size, 100))


def test_every_way_to_give_a_picture_gives_the_same_frame(tmp_path):
    png = saved(Image.fromarray(PICTURE), "PNG")
    path = tmp_path / "no picture by its name.mp4"
    path.write_bytes(png)
    sources = [path, str(path), png, bytearray(png), memoryview(png), io.BytesIO(png), path.open("rb"), Trickle(png)]
    sources += [Image.fromarray(PICTURE), Image.open(path), PICTURE, PICTURE[None], [PICTURE], [Image.fromarray(PICTURE)]]
    for source in [*sources, Clip(PICTURE[None], 24)]:
        clip = read_image(source)
        np.testing.assert_array_equal(clip.frames, PICTURE[None])
        assert clip.fps == IMAGE_FPS
        if not hasattr(source, "read"):  # a file object has been read to its end
            np.testing.assert_array_equal(read_media(source).frames, clip.frames)


def test_every_way_to_give_a_video_gives_the_same_frames(tmp_path):
    mp4 = encode(Clip(MOVIE, 24), "mp4")
    path = tmp_path / "no video by its name.png"
    path.write_bytes(mp4)
    reference = read_video(mp4)
    for source in [path, str(path), bytearray(mp4), io.BytesIO(mp4), path.open("rb"), Trickle(mp4)]:
        np.testing.assert_array_equal(read_media(source).frames, reference.frames)
    for source in [MOVIE, list(MOVIE), [Image.fromarray(frame) for frame in MOVIE], Clip(MOVIE, 12)]:
        clip = read_video(source, fps=12)
        np.testing.assert_array_equal(clip.frames, MOVIE)
        assert clip.fps == 12


CONTAINERS = [
    ("mp4", "libx264"),
    ("mov", "libx264"),
    ("matroska", "libx264"),
    ("webm", "libvpx"),
    ("webm", "libvpx-vp9"),
    ("avi", "mpeg4"),
    ("avi", "mjpeg"),
    ("mpegts", "libx264"),
    ("mpeg", "mpeg2video"),
    ("flv", "flv1"),
    ("asf", "wmv2"),
]


@pytest.mark.parametrize(("container", "codec"), CONTAINERS)
def test_every_container_gives_its_frames_and_rate(container, codec):
    clip = read_video(mux(MOVIE, container, codec))
    assert clip.frames.shape == MOVIE.shape
    assert clip.fps == 24
    assert psnr(clip.frames, MOVIE) > 24
    assert [disc_position(frame) for frame in clip.frames] == pytest.approx([disc_position(frame) for frame in MOVIE], abs=0.02)


@pytest.mark.parametrize("format", ["mp4", "gif", "webp"])
def test_a_sampler_keeps_the_frames_it_names(format):
    data = encode(Clip(movie(30), 24), format)
    whole, sampled = read_video(data), read_video(data, sampler=sample_frame_indices)
    indices = sample_frame_indices(30, 24)
    assert len(indices) == 13
    np.testing.assert_array_equal(sampled.frames, whole.frames[indices])
    assert sampled.duration == pytest.approx(whole.duration)
    backwards = read_video(data, sampler=lambda total, fps: [total - 1, 3, 3])
    np.testing.assert_array_equal(backwards.frames, whole.frames[[29, 3, 3]])


def test_sampling_holds_only_the_sampled_frames():
    import tracemalloc

    data = encode(Clip(movie(96, 128, 192), 24), "mp4")
    read_video(data, sampler=lambda total, fps: [0])  # imports are not what is measured
    tracemalloc.start()
    clip = read_video(data, sampler=lambda total, fps: [0, 40, 80])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert clip.num_frames == 3
    assert peak < 10 * clip.frames[0].nbytes  # all frames would be 96
    with pytest.raises(MediaError, match=r"3 frames .* take 221184 bytes, the limit is 200000.*sampler"):
        read_video(data, sampler=lambda total, fps: [0, 40, 80], limits=MediaLimits(decoded_bytes=200_000))


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_varying_frame_rate_becomes_constant(container):
    """25 fps, but frame 7 stays for 8 slots: the constant timeline shows it 8 times."""
    starts = [*range(0, 320, 40), *range(600, 960, 40)]
    clip = read_video(mux(MOVIE, container, rate=25, milliseconds=starts))
    shown = [*range(7), *[7] * 8, *range(8, 17)]
    assert clip.fps == pytest.approx(25)
    assert clip.num_frames == len(shown) == 24
    expected = [disc_position(MOVIE[index]) for index in shown]
    assert [disc_position(frame) for frame in clip.frames] == pytest.approx(expected, abs=0.015)


def test_a_turned_video_is_upright():
    mp4 = encode(Clip(MOVIE, 24), "mp4")
    one = 1 << 16
    assert patched(mp4, b"tkhd", 40, one, 0, 0, 0, one, 0, 0, 0, 1 << 30) == mp4  # this is where the matrix is
    turned = read_video(patched(mp4, b"tkhd", 40, 0, one, 0, -one, 0, 0, 0, 0, 1 << 30))
    np.testing.assert_array_equal(turned.frames, np.rot90(read_video(mp4).frames, -1, axes=(1, 2)))


def test_a_video_of_one_frame_is_an_image():
    clip = read_video(mux(MOVIE[:1], "mp4"))
    assert clip.is_image
    assert read_video(mux(MOVIE[:1], "mp4"), sampler=sample_frame_indices).num_frames == 1


def test_an_animated_image_is_a_video_or_its_first_frame():
    frames = [Image.fromarray(frame) for frame in MOVIE[:5]]
    for format in ("GIF", "WEBP", "PNG"):
        data = saved(frames[0], format, save_all=True, append_images=frames[1:], duration=[40] * 5)
        clip = read_media(data)
        assert clip.num_frames == 5
        assert clip.fps == pytest.approx(25)
        np.testing.assert_array_equal(read_image(data).frames, clip.frames[:1])
        np.testing.assert_array_equal(read_video(Image.open(io.BytesIO(data))).frames, clip.frames)


def test_a_held_frame_of_a_gif_is_shown_as_long_as_it_lasts():
    frames = [Image.fromarray(frame) for frame in MOVIE[:8]]
    clip = read_video(saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=[40, 40, 40, 40, 40, 40, 200, 40]))
    assert (clip.num_frames, clip.fps) == (12, pytest.approx(25))
    assert len({frame.tobytes() for frame in clip.frames[6:11]}) == 1


def test_pages_of_a_tiff_are_not_a_video():
    pages = [Image.fromarray(frame) for frame in MOVIE[:3]]
    assert read_media(saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])).is_image


def test_transparency_is_composited_on_white():
    half = np.dstack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 51, np.uint8)])
    palette = Image.fromarray(np.zeros((4, 4), np.uint8), "L").convert("P")
    for image in (Image.fromarray(half), Image.fromarray(half).convert("LA"), Image.fromarray(half).convert("LA").convert("La")):
        assert read_image(image).frames.tolist() == np.full((1, 4, 4, 3), 204).tolist(), image.mode
    assert (read_image(saved(Image.fromarray(half), "PNG")).frames == 204).all()
    assert (read_image(saved(palette, "PNG", transparency=0)).frames == 255).all()
    assert (read_image(saved(palette, "PNG")).frames == 0).all()


def test_other_depths_and_colour_models_become_rgb():
    assert (read_image(Image.new("CMYK", (3, 2), (0, 255, 255, 0))).frames == [255, 0, 0]).all()
    assert (np.abs(read_image(saved(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG")).frames.astype(int) - 255) <= 2).all()
    deep = np.array([[0, 128, 257, 32896, 65535]], np.uint16)
    for source in (Image.fromarray(deep), saved(Image.fromarray(deep), "PNG"), saved(Image.fromarray(deep), "TIFF")):
        assert read_image(source).frames[0, 0, :, 1].tolist() == [0, 0, 1, 128, 255]
    assert (read_image(Image.new("1", (3, 2), 1)).frames == 255).all()
    assert read_image(np.full((2, 3), 9, np.uint8)).frames.tolist() == np.full((1, 2, 3, 3), 9).tolist()
    with pytest.raises(MediaError, match=r"floating-point.*scale it to 0\.\.255"):
        read_image(Image.new("F", (3, 2)))


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: show it turned clockwise
    turned = read_image(saved(Image.fromarray(PICTURE), "PNG", exif=exif))
    np.testing.assert_array_equal(turned.frames[0], np.rot90(PICTURE, -1))


def test_wrong_kinds_are_refused_with_the_remedy(tmp_path):
    png, mp4 = encode(Clip.from_image(PICTURE), "png"), encode(Clip(MOVIE, 24), "mp4")
    with pytest.raises(MediaError, match=r"is a video and an image is wanted: use read_video"):
        read_image(mp4)
    with pytest.raises(MediaError, match=r"still image and a video is wanted: use read_image"):
        read_video(png)
    with pytest.raises(MediaError, match="one image is wanted and 17 frames were given"):
        read_image(MOVIE)
    with pytest.raises(MediaError, match=r"one size, these have 96x64, 97x64|one size, these have"):
        read_video([PICTURE, PICTURE[:, :50]])
    with pytest.raises(MediaError, match="empty list"):
        read_video([])
    with pytest.raises(MediaError, match="there is no file"):
        read_media(tmp_path / "missing.png")
    with pytest.raises(MediaError, match="there is no file"):
        read_media("https://example.org/a.png")
    with pytest.raises(MediaError, match="not a regular file"):
        read_media(tmp_path)
    with pytest.raises(MediaError, match=r"cannot take int .*: give a path, bytes"):
        read_media(5)  # type: ignore[arg-type]
    with pytest.raises(MediaError, match="binary mode"):
        read_media(io.StringIO("text"))  # type: ignore[arg-type]
    with pytest.raises(MediaError, match="uint8"):
        read_media(PICTURE / 255.0)
    with pytest.raises(MediaError, match=r"must be \(H, W\)"):
        read_media(np.zeros((3, 4, 5), np.uint8))
