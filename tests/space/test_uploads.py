"""Files that visitors upload: what is read from them, what is refused in plain words, and that they are gone."""

import io
import os
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from space.uploads import MOST, SIDE, sweep, take_files


@pytest.fixture
def upload(tmp_path):
    """A file as Gradio stores it, below a folder that is named by its hash: path and name."""

    def upload(name: str, data: bytes):
        folder = tmp_path / f"{zlib.crc32(data):x}"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        return folder / name, name

    return upload


def picture_bytes(size=(8, 4), colour="red", format="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes, whose head announces 900 million pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    data = picture_bytes()
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


def test_pictures_are_taken_in_order_and_deleted(upload, tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    files = [
        upload("a.png", picture_bytes()),
        upload("B.JPG", picture_bytes(colour="blue", format="JPEG", exif=turned)),
        upload("large.webp", picture_bytes((2 * SIDE, 10), "white", "WEBP")),
    ]
    pictures = take_files(files)
    assert [picture.size for picture in pictures] == [(8, 4), (4, 8), (SIDE, 5)]
    assert {picture.mode for picture in pictures} == {"RGB"} and pictures[0].getpixel((0, 0)) == (255, 0, 0)
    assert not list(tmp_path.iterdir())


def test_a_clip_is_taken_as_frames(upload, write_clip, tmp_path):
    data = write_clip(tmp_path / "made.mp4", seconds=4).read_bytes()
    (tmp_path / "made.mp4").unlink()
    frames = take_files([upload("clip.MP4", data)])
    shades = [np.asarray(frame).mean() for frame in frames]
    assert len(frames) == MOST and shades == sorted(shades) and shades[-1] - shades[0] > 150
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "files, message",
    [
        ({"a.txt": b"x"}, "a.txt is no picture or clip that this page reads: give one of .jpg, .*.mp4"),
        (
            {f"{i}.png": picture_bytes((i + 1, 1)) for i in range(9)},
            "These are 9 files: give up to 8 pictures",
        ),
        ({"a.png": picture_bytes(), "b.mp4": b"x"}, "These are 2 files: .* one clip alone"),
        ({"a.png": b"no picture"}, "a.png can't be used: picture broken or truncated. Try another"),
        ({"a.png": b""}, "a.png can't be used: picture broken"),
        ({"a.png": picture_bytes()[:-30], "b.png": picture_bytes()}, "a.png can't be used: picture broken"),
        ({"a.png": bomb()}, "a.png can't be used: picture too large to decode"),
        ({"a.mp4": b"no clip"}, "a.mp4 can't be used: clip broken or truncated"),
        ({"a.mp4": b""}, "a.mp4 can't be used: clip broken or truncated"),
    ],
)
def test_what_can_not_be_used_is_told_and_deleted(upload, tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        take_files([upload(name, data) for name, data in files.items()])
    assert not list(tmp_path.iterdir())


def test_a_long_clip_is_refused(upload, write_clip, tmp_path):
    data = write_clip(tmp_path / "made.mp4", seconds=70).read_bytes()
    with pytest.raises(ValueError, match="clip of 70 seconds, where at most 60 are allowed"):
        take_files([upload("clip.mp4", data)])


def test_a_file_that_is_gone(tmp_path):
    with pytest.raises(ValueError, match="a.png is not here any more: please upload it again"):
        take_files([(tmp_path / "hash" / "a.png", "a.png")])


def test_uploads_that_broke_off_are_swept_away(upload, tmp_path):
    old, _ = upload("old", b"half of a pict")
    new, _ = upload("new", b"half of another")
    os.utime(old, (time.time() - 700,) * 2)
    sweep(tmp_path, 600)
    assert not old.exists() and new.exists()
