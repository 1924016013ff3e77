"""Writing: what is written can be read again, and a failure leaves nothing behind."""

import errno
import io
import os
import stat
import subprocess
import sys

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from openlance.errors import MediaError
from openlance.media import Clip, contact_sheet, encode, read_image, read_media, read_video, write_image, write_media, write_video
from openlance.media.encode import frame_milliseconds
from tests.media.samples import movie, psnr

MOVIE = movie(13, 64, 96)


def test_images_round_trip(tmp_path):
    np.testing.assert_array_equal(read_image(write_image(MOVIE[0], tmp_path / "picture.png")).frames, MOVIE[:1])
    for suffix in (".jpg", ".jpeg", ".webp"):
        assert psnr(read_image(write_image(MOVIE[0], tmp_path / f"picture{suffix}")).frames, MOVIE[:1]) > 38, suffix
    assert Image.open(tmp_path / "picture.webp").format == "WEBP"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["picture.jpeg", "picture.jpg", "picture.png", "picture.webp"]


@pytest.mark.parametrize(("suffix", "least"), [(".mp4", 38), (".gif", 30), (".webp", 34)])
def test_videos_round_trip(tmp_path, suffix, least):
    clip = read_video(Clip(MOVIE, 24).save(tmp_path / f"film{suffix}"))
    assert clip.frames.shape == MOVIE.shape
    assert clip.fps == 24
    assert min(psnr(ours, theirs) for ours, theirs in zip(clip.frames, MOVIE, strict=True)) > least


@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.5, 1, 12, 23.976, 24, 29.97, 60, 240]))
def test_mp4_of_any_size_and_rate(frames, height, width, fps):
    clip = read_video(encode(Clip(np.full((frames, height, width, 3), 120, np.uint8), fps), "mp4"))
    assert clip.frames.shape == (frames, height + height % 2, width + width % 2, 3)
    assert clip.fps == pytest.approx(fps, rel=1e-5)
    assert np.abs(clip.frames.astype(int) - 120).max() <= 2


def test_mp4_plays_in_browsers_and_keeps_its_colours():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (255, 255, 255), (0, 0, 0), (200, 100, 50), (30, 180, 220)]
    frames = np.repeat(np.repeat(np.array(colours, np.uint8).reshape(1, 2, 4, 3), 16, 1), 16, 2).repeat(5, 0)
    data = encode(Clip(frames, 24), "mp4")
    assert data.index(b"moov") < data.index(b"mdat")  # a browser can start before all is there
    with av.open(io.BytesIO(data)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, int(context.colorspace), int(context.color_range)) == ("h264", "yuv420p", 1, 1)
    assert np.abs(read_video(data).frames[:, 8::16, 8::16].astype(int) - frames[:, 8::16, 8::16]).max() <= 3


def test_a_large_mp4_has_its_index_first_and_all_frames():
    noise = np.random.default_rng(0).integers(0, 256, (12, 256, 256, 3), np.uint8)
    data = encode(Clip(noise, 24), "mp4")
    assert len(data) > 500_000
    assert data.index(b"moov") < data.index(b"mdat")
    assert read_video(data).num_frames == 12


@given(st.integers(1, 100), st.floats(1, 45))
def test_gif_times_do_not_drift(frames, fps):
    clip = Clip(np.zeros((frames, 1, 1, 3), np.uint8), fps)
    durations = frame_milliseconds(clip, 10)
    assert all(duration % 10 == 0 and duration >= 20 for duration in durations)
    assert abs(sum(durations) - 1000 * clip.duration) <= 5 + 1e-6


def test_formats_and_suffixes():
    image, video = Clip.from_image(MOVIE[0]), Clip(MOVIE, 24)
    assert encode(image, "JPG") == encode(image, "jpeg") == encode(image, ".jpeg")
    with pytest.raises(MediaError, match="unknown format 'tga': use gif, jpeg, mp4, png, webp"):
        encode(image, "tga")
    with pytest.raises(MediaError, match=r"13 frames cannot be a png: use mp4, gif, webp"):
        encode(video, "png")
    with pytest.raises(MediaError, match=r"cannot be encoded as webp .*use another size or format"):
        encode(Clip(np.zeros((1, 1, 20_000, 3), np.uint8), 1), "webp")


@pytest.mark.parametrize(
    ("write", "name", "message"),
    [
        (write_media, "film.xyz", r"suffix '\.xyz', known here are \.png, \.jpg, \.jpeg, \.webp, \.gif, \.mp4"),
        (write_media, "film", "suffix ''"),
        (write_video, "film.png", r"known here are \.webp, \.gif, \.mp4"),
        (write_image, "film.png", "one image is wanted and the clip has 13 frames"),
        (write_media, "film.png", "13 frames cannot be a png"),
        (write_media, "missing/film.mp4", "no folder .*create it first"),
    ],
)
def test_refused_before_anything_is_written(tmp_path, write, name, message):
    with pytest.raises(MediaError, match=message):
        write(Clip(MOVIE, 24), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = write_image(MOVIE[0], tmp_path / "a.png")
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(MediaError, match=r"cannot write .*a\.png': No space left on device; free some space"):
        write_image(MOVIE[1], path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == before


def test_running_out_of_space_while_writing_leaves_nothing(tmp_path):
    """A real refusal by the operating system in the middle of the file: no file may grow beyond 1000 bytes."""
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from openlance.errors import MediaError\n"
        "from openlance.media import write_image\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)\n"
        "try:\n    write_image(noise, sys.argv[1])\n"
        "except MediaError as error:\n    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], capture_output=True, text=True, check=True)
    assert "cannot write" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_image(MOVIE[0], tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_is_a_folder(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(MediaError, match="cannot write"):
        write_image(MOVIE[0], tmp_path / "a.png")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_an_unwritable_folder(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(MediaError, match="Permission denied"):
            write_image(MOVIE[0], tmp_path / "a.png")
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_contact_sheet_shows_every_clip_and_its_label():
    red, green = (Clip(np.full((frames, 20, 30, 3), colour, np.uint8), 8) for frames, colour in ((1, (250, 0, 0)), (9, (0, 250, 0))))
    sheet = np.asarray(contact_sheet([red, green, red.image()], ["one", "a much longer label " * 20, "三"], columns=2, tile_height=40))
    plain = np.asarray(contact_sheet([red, green, red.frames[0]], columns=2, tile_height=40))
    for pixels in (sheet, plain):
        assert (pixels == [250, 0, 0]).all(-1).sum() == 2 * 40 * 60
        assert (pixels == [0, 250, 0]).all(-1).sum() == 4 * 40 * 60  # four of the nine frames
    assert (plain == 0).all(-1).sum() == 0
    assert (sheet.max(-1) < 60).sum() > 100  # ink of the labels
    assert sheet.shape[0] > plain.shape[0]
    with pytest.raises(MediaError, match="1 labels were given for 2 clips"):
        contact_sheet([red, green], ["one"])
    with pytest.raises(MediaError, match="0 clips"):
        contact_sheet([])


def test_reading_what_another_reader_sees():
    """The picture that Pillow alone decodes is the one that was given."""
    data = encode(Clip.from_image(MOVIE[3]), "png")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), MOVIE[3])
    assert read_media(data).is_image
