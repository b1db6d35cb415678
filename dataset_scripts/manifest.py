"""The manifest of a build: size and SHA-256 of every file, so that a copy can be checked; and a digest of weights."""

import json
from hashlib import file_digest, sha256

from tqdm import tqdm


MANIFEST = "manifest.json"


def digest_file(path):
    """SHA-256 of a file (`Path`), in hexadecimal digits."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def digest_safetensors(folder):
    """What tells the weights of a model from others': SHA-256 of what `sha256sum *.safetensors` says in its folder.

    Args:
        folder (`Path`): A model, or its snapshot in the Hub's cache.

    Returns:
        `str` or `None`: Hexadecimal digits; None if there is no such file.
    """
    lines = "".join(f"{digest_file(path)}  {path.name}\n" for path in sorted(folder.glob("*.safetensors")))
    return sha256(lines.encode()).hexdigest() if lines else None


def verify(folder):
    """Read a build again and compare it with its manifest.

    Args:
        folder (`Path`): A finished build.

    Returns:
        `list[str]`: What is wrong, by file; empty if every file is as it was built.

    Raises:
        `ValueError`: If the folder holds no manifest, or a damaged one.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} has no {MANIFEST}: it is no finished build")
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): download or build it again") from error
    found = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    found = {name for name in found if not name.startswith(".")}  # what a download adds: .gitattributes, .cache/
    problems = [f"{name}: not part of the build" for name in sorted(found - set(files) - {MANIFEST})]
    with tqdm(
        total=sum(file["size"] for file in files.values()), desc="verify", unit="B", unit_scale=True
    ) as progress:
        for name, file in files.items():
            if name not in found:
                problems.append(f"{name}: missing")
            elif (size := (folder / name).stat().st_size) != file["size"]:
                problems.append(f"{name}: {size} bytes, built with {file['size']}")
            elif digest_file(folder / name) != file["sha256"]:
                problems.append(f"{name}: its content has changed")
            progress.update(file["size"])
    return problems
