"""Finding files below a source's folder, and the fingerprints of pictures; nothing is ever re-encoded.

Worker processes of the build import this module, so it needs Pillow, NumPy and imagehash only.
"""

import errno
import io
import os
import stat
import struct
import warnings
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import imagehash
import numpy as np
from PIL import ExifTags, Image, ImageOps


# what Pillow's decoders were seen to raise on damaged files (no UnidentifiedImageError: it is an OSError)
BROKEN = (OSError, SyntaxError, ValueError, TypeError, RuntimeError, EOFError, struct.error)
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")  # no source has others, and opening EPS starts Ghostscript
MAX_BYTES = {"picture": 64 * 2**20, "clip": 256 * 2**20}  # of one file
# Workers share the memory of a build, so what decoding takes is bounded: bytes, and bytes a pixel as measured. A JPEG
# takes less, as it is decoded at a reduced scale; but a progressive one is held whole before.
MAX_DECODED = 200_000_000
COST, COST_OF_OTHERS = {"JPEG": 4, "MPO": 4, "WEBP": 16}, 8
BAND = 64  # rows of pixels that are copied at a time
NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)

# The perceptual hash tells which of the 8 x 8 lowest frequencies of the picture, seen at 32 x 32, are above their
# median (the "pHash" of Zauner 2010). `duplicates` has the distance at which it was found to hold.
GRID = 32
PLAIN = 8  # grey levels from darkest to lightest below which the frequencies are noise


class MediaError(Exception):
    """A picture or clip that cannot be used; its message is a category that is counted."""


@lru_cache(maxsize=4096)
def _follow(root, name):
    """The real path of `name` below `root`, all links followed."""
    path = os.path.realpath(f"{root}/{name}", strict=True)
    if path != root and not path.startswith(f"{root}/"):
        raise MediaError("link out of the source folder")
    return path


def locate(root, name, kind="picture"):
    """The path of a file that an annotation names.

    Where a folder leads is looked up once and remembered: a source must not be changed while it is read.

    Args:
        root (`Path`): The source's folder, resolved.
        name (`str`): Path below `root`, with slashes; not trusted.
        kind (`str`): `"picture"` or `"clip"`, for the messages.

    Returns:
        `Path`: A regular file of 1 to `MAX_BYTES` bytes that is really below `root`.

    Raises:
        `MediaError`: If the name or a link leads out of `root`, or if there is no such file.
    """
    if not name or name[0] == "/" or name[1:2] == ":" or "\\" in name or "\0" in name or ".." in name.split("/"):
        raise MediaError("path outside the source folder")
    folder, _, file = name.rpartition("/")
    try:
        path = f"{_follow(str(root), folder)}/{file}"
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            path = _follow(str(root), name)
            status = os.stat(path)
    except UnicodeEncodeError as error:  # half a surrogate pair, which JSON can spell and no file name holds
        raise MediaError(f"{kind} missing") from error
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise
        raise MediaError(f"{kind} missing") from error
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(f"{kind} missing")
    if not status.st_size:
        raise MediaError(f"{kind} empty")
    if status.st_size > MAX_BYTES[kind]:
        raise MediaError(f"{kind} file too large")
    return Path(path)


def open_picture(file):
    """A picture whose head alone is read, and whose pixels are few enough to be.

    Args:
        file (`Path`, `str` or binary file): Of one of `FORMATS`.

    Returns:
        `PIL.Image.Image`: Whose pixels, when they are read, may turn out to be broken: see `BROKEN`.

    Raises:
        `MediaError`: If it is absurdly large; what else is wrong with its head raises one of `BROKEN`.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise MediaError("picture too large to decode") from error
    cost = COST_OF_OTHERS if "progressive" in image.info else COST.get(image.format, COST_OF_OTHERS)
    if image.width * image.height * cost > MAX_DECODED:
        image.close()
        raise MediaError("picture too large to decode")
    return image


def fingerprint(data):
    """Decode a picture to its end, as it is shown (turned as its EXIF data say), and tell it from others.

    A JPEG is decoded at a reduced scale, which still reads all of its data: its digest is of its size and of its
    reduced pixels. Of an animation the first frame counts, which is what models are shown.

    Args:
        data (`bytes`): A JPEG, PNG, GIF, WebP or BMP.

    Returns:
        `tuple[bytes, int]`: Digest of 16 bytes, equal for equal pixels (to 8 bits a channel) unless one picture is a
        JPEG and the other is not, and `perceptual_hash`.

    Raises:
        `MediaError`: If the picture is broken, cut off, of another format, or absurdly large.
    """
    try:
        with warnings.catch_warnings(action="ignore"), open_picture(io.BytesIO(data)) as image:
            size, orientation = image.size, image.getexif().get(ExifTags.Base.Orientation, 1)
            image.draft(None, (2 * GRID, 2 * GRID))
            if orientation != 1:
                image = ImageOps.exif_transpose(image)
                size = size[::-1] if orientation in (5, 6, 7, 8) else size  # those turn it by a quarter
            if image.mode.startswith("I"):  # 16 bits, which `convert` would clip to white
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            image.load()
            mode = "RGBA" if image.has_transparency_data else "RGB"
            pixels = image if image.mode == mode else image.convert(mode)
        del image  # every copy that is kept is 4 bytes a pixel
        if pixels.mode == "RGBA" and pixels.getchannel("A").getextrema() == (255, 255):
            pixels = pixels.convert("RGB")
    except Image.DecompressionBombError as error:
        raise MediaError("picture too large to decode") from error
    except BROKEN as error:
        raise MediaError("picture broken or truncated") from error
    digest = sha256(b"%dx%d" % size)
    for top in range(0, pixels.height, BAND):
        digest.update(pixels.crop((0, top, pixels.width, min(top + BAND, pixels.height))).tobytes())
    return digest.digest()[:16], perceptual_hash(pixels)


def perceptual_hash(image):
    """64 bits that differ little between versions of one picture: other sizes, formats, quality, brightness.

    Args:
        image (`PIL.Image.Image`): RGB, or RGBA, which is seen on white.

    Returns:
        `int`: The hash, or 0 for a picture without structure: all plain pictures would have the same.
    """
    grey = image.convert("L")
    if image.mode == "RGBA":
        grey = Image.composite(grey, Image.new("L", image.size, 255), image.getchannel("A"))
    grey = grey.resize((GRID, GRID), Image.Resampling.LANCZOS, reducing_gap=3)
    darkest, lightest = grey.getextrema()
    if lightest - darkest < PLAIN:
        return 0
    return int.from_bytes(np.packbits(imagehash.phash(grey).hash), "big")
