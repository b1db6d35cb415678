"""Reading and checking the bytes of pictures; nothing is ever re-encoded."""

import io
import struct
import warnings
from hashlib import sha256
from pathlib import PurePosixPath

from PIL import Image


# what Pillow's decoders were seen to raise on damaged files (no UnidentifiedImageError: it is an OSError)
BROKEN = (OSError, SyntaxError, ValueError, TypeError, RuntimeError, EOFError, struct.error)


class MediaError(Exception):
    """A picture that cannot be used; its message is a category that is counted."""


def read_media(folder, name):
    """The bytes of file `name` (`str`, as an annotation gives it) below `folder` (`Path`).

    Raises:
        `MediaError`: If there is no such file, or if the name leads out of the folder.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise MediaError("path outside the source folder")
    if not (folder / path).is_file():
        raise MediaError("picture missing")
    return (folder / path).read_bytes()


def pixel_digest(data):
    """Decode a picture to its last pixel and return a digest of its size and pixels (`str`).

    Raises:
        `MediaError`: If the picture is broken, truncated, of no known format, or absurdly large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                pixels = image.convert("RGBA")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise MediaError("picture too large to decode") from error
    except BROKEN as error:
        raise MediaError("picture broken or truncated") from error
    return sha256(f"{pixels.size}".encode() + pixels.tobytes()).hexdigest()
