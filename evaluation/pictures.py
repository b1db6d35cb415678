"""Pictures of a dataset's rows: decoded, or grey in their place."""

import PIL.Image
from datasets import Dataset, DatasetInfo, Features, Image, List

from dataset_scripts.media import BROKEN


# Pictures stay bytes until they are needed, which also spares those that decode twice what is in a list.
PICTURES = List(Image(decode=False))


class PictureError(Exception):
    """A picture that can't be decoded; its message is a category that is counted."""


def decode_picture(image: dict) -> PIL.Image.Image:
    """A picture of a row, turned as its EXIF data say."""
    try:
        return Image().decode_example(image)
    except FileNotFoundError as error:
        raise PictureError("picture missing") from error
    except PIL.Image.DecompressionBombError as error:
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
