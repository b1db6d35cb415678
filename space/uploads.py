"""What visitors upload, as pictures in memory. The files are deleted as soon as they are read, whatever they hold."""

import time
from contextlib import suppress
from pathlib import Path

from PIL import Image

from dataset_scripts.media import MediaError
from dataset_scripts.video import check_clip, sample_frames
from evaluation.pictures import PictureError, decode_picture


PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp")
CLIPS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
MOST = 8  # pictures that are asked about together, and frames of a clip, as in EmoBench
LONGEST = 60  # seconds of a clip
LARGEST = "32mb"  # of a file
SIDE = 1024  # pixels of a picture's longer side; larger ones are reduced, so that many visitors fit in memory


def reduce(picture: Image.Image) -> Image.Image:
    picture = picture.convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    return picture


def read_picture(data: bytes) -> Image.Image:
    return reduce(decode_picture({"bytes": data, "path": None}))


def read_clip(path: Path) -> list[Image.Image]:
    *_, seconds = check_clip(path)
    if seconds > LONGEST:
        raise MediaError(f"clip of {seconds:.0f} seconds, where at most {LONGEST} are allowed")
    return [read_picture(frame) for frame in sample_frames(path, MOST, SIDE)]


def read_files(files: list[tuple[Path, str]]) -> list[Image.Image]:
    """
    Up to [`MOST`] pictures in the order of the files (path and name), or the frames of one clip, upright and in RGB.

    Raises:
        `ValueError`: in words for visitors, if the files are too many or of other kinds, or one can't be read.
    """
    suffixes = [Path(name).suffix.lower() for _, name in files]
    for (_, name), suffix in zip(files, suffixes, strict=True):
        if suffix not in PICTURES + CLIPS:
            kinds = ", ".join(PICTURES + CLIPS)
            raise ValueError(f"{name} is no picture or clip that this page reads: give one of {kinds}.")
    clips = sum(suffix in CLIPS for suffix in suffixes)
    if len(files) > (1 if clips else MOST):
        raise ValueError(f"These are {len(files)} files: give up to {MOST} pictures, or one clip alone.")
    pictures = []
    for path, name in files:
        try:
            pictures += read_clip(path) if clips else [read_picture(path.read_bytes())]
        except FileNotFoundError as error:  # it waited for too long, or the same file was sent twice
            raise ValueError(f"{name} is not here any more: please upload it again.") from error
        except (MediaError, PictureError) as error:
            raise ValueError(f"{name} can't be used: {error}. Try another file, or save it anew.") from error
    return pictures


def take_files(files: list[tuple[Path, str]]) -> list[Image.Image]:
    """[`read_files`], after which they are not there any more."""
    try:
        return read_files(files)
    finally:
        for path, _ in files:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # somebody sends the same file just now
                path.parent.rmdir()  # its name is a hash of the file


def sweep(folder: Path, age: float) -> None:
    """Deletes what was not touched for `age` seconds, such as the beginning of an upload that broke off."""
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file() and time.time() - path.stat().st_mtime > age:
                path.unlink()


def keep_clean(folder: Path, age: float) -> None:
    """[`sweep`], from now on and every minute."""
    while True:
        sweep(folder, age)
        time.sleep(60)
