"""Hostile sources: each one is read or refused with a MediaError that says why; nothing else may escape."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from openlance.errors import MediaError
from openlance.media import Clip, MediaLimits, encode, read_image, read_media, read_video
from tests.media.samples import movie, mux, patched, sound_only, video_without_frames

MOVIE = movie(9, 32, 48)
MP4 = encode(Clip(MOVIE, 24), "mp4")


def animated_png() -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(frame) for frame in MOVIE[:4]]
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:], duration=50)
    return file.getvalue()


WHOLE = {
    "png": encode(Clip.from_image(MOVIE[0]), "png"),
    "jpeg": encode(Clip.from_image(MOVIE[0]), "jpeg"),
    "webp": encode(Clip.from_image(MOVIE[0]), "webp"),
    "animated png": animated_png(),
    "animated webp": encode(Clip(MOVIE[:4], 24), "webp"),
    "gif": encode(Clip(MOVIE[:4], 24), "gif"),
    "mp4": MP4,
    "mov": mux(MOVIE, "mov"),
    "avi": mux(MOVIE, "avi", "mpeg4"),
    "webm": mux(MOVIE, "webm", "libvpx"),
    "mpegts": mux(MOVIE, "mpegts"),
}
STREAMED = ("webm", "mpegts")
"""Formats made for streaming do not say how many frames there are: a cut leaves a shorter video."""


def outcome(data: bytes, limits: MediaLimits | None = None) -> Clip | str:
    """The clip, or the message of the one error that may escape."""
    try:
        return read_media(data, limits=limits)
    except MediaError as error:
        return str(error)


@pytest.mark.parametrize("kind", WHOLE)
def test_truncated_at_every_cut(kind):
    data = WHOLE[kind]
    whole = read_media(data)
    cuts = [*range(0, len(data), max(1, len(data) // 60)), *range(len(data) - 8, len(data))]
    refused = 0
    for cut in cuts:
        clip = outcome(data[:cut])
        if isinstance(clip, str):
            assert ": " in clip
            refused += 1
            continue
        assert clip.num_frames <= whole.num_frames
        if kind not in STREAMED:  # only the closing mark of the file may be missing: the frames are all there
            np.testing.assert_array_equal(clip.frames, whole.frames)
            assert len(data) - cut <= max(600, len(data) // 10)
    assert refused >= len(cuts) // 6


@given(st.sampled_from(sorted(WHOLE)), st.integers(0, 2**32), st.integers(1, 24), st.sampled_from([64, 512, 10**9]))
def test_damaged_bytes_are_read_or_refused(kind, seed, changes, reach):
    data = bytearray(WHOLE[kind])
    dice = random.Random(seed)
    for _ in range(changes):
        data[dice.randrange(min(len(data), reach))] = dice.randrange(256)
    clip = outcome(bytes(data), MediaLimits(pixels=10**6, frames=1000, decoded_bytes=10**8))
    assert ": " in clip if isinstance(clip, str) else clip.height * clip.width <= 10**6


SIGNATURES = [
    b"",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF89a",
    b"BM",
    b"II*\x00",
    b"P6\n",
    b"RIFF\0\0\0\0WEBP",
    b"RIFF\0\0\0\0AVI ",
    b"OggS",
]
SIGNATURES += [
    b"\0\0\0\x18ftypmp42",
    b"\0\0\0\x18ftypavif",
    b"\x1a\x45\xdf\xa3",
    b"FLV\x01",
    b"\0\0\x01\xba",
    b"\x30\x26\xb2\x75",
    b"\0\0\0\x08moov",
]


@given(st.sampled_from(SIGNATURES), st.binary(max_size=2000))
def test_random_bytes_behind_any_signature(signature, rest):
    clip = outcome(signature + rest, MediaLimits(pixels=10**6))
    assert "the given data" in clip if isinstance(clip, str) else clip.height * clip.width <= 10**6


def png_of(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_by_its_header():
    with pytest.raises(
        MediaError, match=r"9000x9000 = 81000000 pixels a frame, the limit is 67108864: scale it down, or raise MediaLimits\(pixels"
    ):
        read_image(png_of(9000, 9000))
    with pytest.raises(MediaError, match="too large for Pillow"):
        read_image(png_of(60000, 60000))
    with pytest.raises(MediaError, match="512x512 = 262144 pixels"):
        read_image(Image.new("RGB", (512, 512)), limits=MediaLimits(pixels=1000))


def test_bytes_are_counted_before_anything_is_read(tmp_path):
    limits = MediaLimits(bytes=100)
    path = tmp_path / "large.png"
    path.write_bytes(bytes(101))
    for source in (path, bytes(101), io.BytesIO(bytes(101))):
        with pytest.raises(MediaError, match=r"has 101 bytes, the limit is 100.*MediaLimits\(bytes"):
            read_media(source, limits=limits)

    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return bytes(size)

    with pytest.raises(MediaError, match="the limit is 100"):
        read_media(Endless(), limits=limits)


@pytest.mark.parametrize("source", [b"", bytearray(), io.BytesIO()])
def test_zero_bytes(source):
    with pytest.raises(MediaError, match=r"empty \(0 bytes\): give an image or a video"):
        read_media(source)


@pytest.mark.parametrize(
    "data", [b"hello world", b"#EXTM3U\n#EXTINF:1\nfile:///etc/hostname\n", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"ffconcat version 1.0\n"]
)
def test_unknown_data_and_playlists_never_reach_a_decoder(data):
    with pytest.raises(MediaError, match=r"no image or video known here: give PNG, JPEG"):
        read_media(data)


def test_heic_is_named():
    with pytest.raises(MediaError, match=r"HEIC.*convert it to JPEG or PNG"):
        read_media(b"\0\0\0\x18ftypheic" + bytes(100))


def test_audio_only():
    with pytest.raises(MediaError, match=r"no video stream \(it holds: audio\)"):
        read_video(sound_only())


def test_a_stream_without_frames():
    with pytest.raises(MediaError, match=r"damaged or cut short|without frames"):
        read_video(video_without_frames())


def test_a_header_that_lies_about_the_number_of_frames():
    count = MP4.rindex(b"stts") + 12
    assert MP4[count : count + 4] == struct.pack(">I", 9)
    with pytest.raises(MediaError, match="promises 40 frames and has 9: it is cut short or its header lies"):
        read_video(patched(MP4, b"stts", 8, 40))
    with pytest.raises(MediaError, match="has 2000000000 frames or more, the limit is 36000"):
        read_video(patched(MP4, b"stts", 8, 2_000_000_000))
    film = WHOLE["avi"]
    count = film.index(b"strh") + 8 + 32
    assert film[count : count + 4] == struct.pack("<I", 9)
    assert read_video(film[:count] + struct.pack("<I", 3) + film[count + 4 :]).num_frames == 9  # too few promised: all are read


def test_a_header_that_lies_about_the_duration():
    with pytest.raises(MediaError, match=r"lasts \d+\.\d s, the limit is 900 s"):
        read_video(patched(MP4, b"stts", 12, 2**30))


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_a_header_that_lies_about_the_size_is_stopped_while_decoding(codec):
    """The container says 48x32; the stream itself is 256x256, beyond the limit."""
    large = mux(movie(3, 256, 256), "webm", codec)
    width, height = b"\xb0\x82\x01\x00", b"\xba\x82\x01\x00"
    assert width in large
    assert height in large
    lying = large.replace(width, b"\xb0\x82\x00\x30", 1).replace(height, b"\xba\x82\x00\x20", 1)
    with pytest.raises(MediaError, match=r"256x256 = 65536 pixels a frame, the limit is 2000|damaged"):
        read_video(lying, limits=MediaLimits(pixels=2000))
    assert read_video(lying).frames.shape == (3, 256, 256, 3)


@pytest.mark.parametrize("kind", ["mp4", "gif", "animated webp", "webm"])
def test_limits_hold_while_decoding(kind):
    data = WHOLE[kind]
    frames = read_media(data).num_frames
    with pytest.raises(MediaError, match=r"the limit is 2: cut it, or raise MediaLimits\(frames"):
        read_video(data, limits=MediaLimits(frames=2))
    with pytest.raises(MediaError, match=r"the limit is 0\.1 s: cut it, or raise MediaLimits\(seconds"):
        read_video(data, limits=MediaLimits(seconds=0.1))
    with pytest.raises(MediaError, match=r"48x32.*the limit is 1000"):
        read_video(data, limits=MediaLimits(pixels=1000))
    with pytest.raises(MediaError, match=rf"{frames} frames of 48x32 .*the limit is 10000.*decoded_bytes"):
        read_video(data, limits=MediaLimits(decoded_bytes=10_000))


def test_the_end_of_a_long_video_is_missed():
    """A Matroska file promises a duration, not a number of frames."""
    data = mux(movie(120, 32, 32), "matroska")
    with pytest.raises(MediaError, match=r"promises 5\.0 s and ends at \d\.\d s: it is cut short"):
        read_video(data[: len(data) // 2])


@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "gif", "mp4"])
def test_one_pixel(format):
    clip = read_media(encode(Clip(np.full((1, 1, 1, 3), 200, np.uint8), 1), format))
    assert clip.is_image
    assert clip.frames.astype(int).reshape(-1).tolist() == pytest.approx([200] * clip.frames.size, abs=4)
