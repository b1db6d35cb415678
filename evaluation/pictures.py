"""Pictures of a dataset's rows: decoded, or grey in their place."""

import io

import PIL.Image
from datasets import Dataset, DatasetInfo, Features, Image, List
from PIL import ExifTags, ImageOps

from dataset_scripts.media import BROKEN, MediaError, open_picture


# Pictures stay bytes until they are needed, which also spares those that decode twice what is in a list.
PICTURES = List(Image(decode=False))


class PictureError(Exception):
    """A picture that can't be decoded; its message is a category that is counted."""


def decode_picture(image: dict) -> PIL.Image.Image:
    """
    A picture of a row, `{"bytes": ..., "path": ...}`, turned as its EXIF data say. A path is one of this machine: what
    a row names elsewhere is not fetched.
    """
    named = image["bytes"] is None and image["path"]
    try:
        with open_picture(image["path"] if named else io.BytesIO(image["bytes"] or b"")) as picture:
            picture.load()
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
            return ImageOps.exif_transpose(picture) if turned else picture
    except MediaError as error:
        raise PictureError(str(error)) from error
    except FileNotFoundError as error:
        raise PictureError("picture missing") from error
    except PIL.Image.DecompressionBombError as error:  # of a frame within it
        raise PictureError("picture too large to decode") from error
    except BROKEN as error:
        raise PictureError("picture broken or truncated") from error


def grey_picture(size: tuple[int, int]) -> PIL.Image.Image:
    """Width and height as of the picture that it stands in for."""
    return PIL.Image.new("RGB", size, (128, 128, 128))


def undecoded(rows: Dataset) -> Dataset:
    """The same rows with their pictures as `{"bytes": ..., "path": ...}`; a cast would copy them to the disk first."""
    pictures = {Image: Image(decode=False), List: PICTURES}
    features = Features(
        {
            name: pictures[type(feature)] if "Image(" in repr(feature) else feature
            for name, feature in rows.features.items()
        }
    )
    return Dataset(rows.data, DatasetInfo(features=features), rows.split)
