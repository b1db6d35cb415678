"""What may not be published, by name and by content, and whether it loads where nothing of this repository is."""

import json
import os
import pickletools
import re
import subprocess
import sys
import tempfile
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

import yaml
from huggingface_hub import constants, get_token
from transformers.dynamic_module_utils import get_relative_import_files


ROOT = Path(__file__).parents[1]
SUFFIXES = {
    "model": {".safetensors", ".json", ".jinja", ".py", ".md", ".model", ".txt", ".yaml"},
    "dataset": {".parquet", ".json", ".jsonl", ".md", ".png"},
    "space": {".py", ".md", ".txt", ".json", ".jinja", ".png", ".jpg", ".mp4"},
    "metric": {".py", ".md", ".html"},
}
# What runs code when it is unpickled, or can hold that: pickles, archives (torch.save writes zip), NumPy's arrays.
PICKLES = re.compile(
    rb"\x80[\x02-\x05]|PK\x03\x04|\x1f\x8b|\x93NUMPY|BZh[1-9]|\xfd7zXZ\0|\x28\xb5\x2f\xfd|7z\xbc\xaf|.{257}ustar",
    re.DOTALL,
)
URL = re.compile(r"""https?://[^\s"'<>()\[\]]+""")
# Folders of somebody's, by where machines have these, and drives.
SOMEBODYS = (
    r"/(?:home|Users|mnt|media|scratch|data|work|workspace|nfs|gpfs|lustre|srv|Volumes|content|kaggle)/[\w.-]+/\w"
    r"|/root/\w|[A-Za-z]:\\{1,2}[\w.-]{2,}\\{1,2}\w"
)
# A text that is a path and nothing else. Two names can be an id on the Hub, unless the first is a usual folder's.
ABSOLUTE = re.compile(r"(?:file:/*)?(?:/[\w.-]+/|~/|[A-Za-z]:[\\/])[\w.\\/-]+")
RELATIVE = re.compile(
    r"\.\.?/.+|[\w.-]+(?:/[\w.-]+){2,}/?|(?:outputs?|checkpoints?|runs|results|models|data)/[\w.-]+/?"
)
NEEDED = {"model": ("license", "library_name", "pipeline_tag", "tags"), "metric": ("license", "sdk")}
NEEDED |= {"dataset": ("license", "configs"), "space": ("license", "sdk", "sdk_version", "app_file")}
UNFINISHED = re.compile(r"TODO|FIXME|\{\{|\{%|\| *(?:None|unknown|nan) *\|")


def read_json(path: Path) -> dict:
    """
    Raises:
        `ValueError`: if it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): save the model again") from None


def code_of(folder: Path) -> set[str]:
    """
    Names of the Python files that loading needs: those that an `auto_map` names, and what these import of each other.

    Raises:
        `ValueError`: if one of them is not in the folder, or is another repository's.
    """
    named = []
    for path in folder.glob("*config.json"):
        for value in read_json(path).get("auto_map", {}).values():
            named += [value] if isinstance(value, str) else filter(None, value)
    if elsewhere := [name for name in named if "--" in name]:
        raise ValueError(f"auto_map names {elsewhere[0]}, code of another repository: copy it beside the weights")
    found = set()
    for module in {folder / f"{name.rpartition('.')[0]}.py" for name in named}:
        try:
            found |= {module.name, *(Path(file).name for file in get_relative_import_files(module))}
        except FileNotFoundError as error:
            raise ValueError(f"{error.filename} is needed to load the model: train again, or save it again") from None
    return found


def strings_of(value: object, keys: bool = True) -> Iterator[str]:
    """Every text in what JSON holds."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        if isinstance(value, dict) and keys:
            yield from value
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings_of(item, keys)


def local_paths(local: Iterable[Path]) -> re.Pattern:
    """A pattern of paths in these folders, in this user's and in anybody's home."""
    folders = {*local, Path.home(), Path.cwd(), Path(tempfile.gettempdir()), ROOT}
    folders |= {folder.resolve() for folder in folders}
    known = [re.escape(str(folder)) + r"/\w" for folder in folders if folder.is_absolute() and len(folder.parts) > 1]
    known += [re.escape(str(folder)) + r"(?![\w.-])" for folder in folders if len(folder.parts) > 2]
    return re.compile(rf"(?<![\w.-])(?:{'|'.join(sorted(known))}|{SOMEBODYS})")


def texts_of(path: Path) -> list[str]:
    """What a file says: its text, of JSON every one, as of the header of a safetensors file; nothing for a picture."""
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = file.read(size) if size < path.stat().st_size else b""
        if not header.startswith(b"{"):
            raise ValueError("no safetensors file")
        return list(strings_of(json.loads(header)))
    if path.suffix in {".parquet", ".png", ".jpg", ".mp4", ".model"}:
        return []
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [found for line in text.splitlines() if line.strip() for found in strings_of(json.loads(line))]
    return list(strings_of(json.loads(text))) if path.suffix == ".json" else [text]


def is_pickle(data: bytes) -> bool:
    """Whether it can be unpickled, which the oldest protocol does not say at its head."""
    try:
        return not data.startswith(b"PAR1") and len(list(pickletools.genops(data))) > 1
    except (ValueError, OverflowError):
        return False


def file_problems(path: Path, name: str, kind: str, paths: re.Pattern) -> Iterator[str]:
    if any(part.startswith(".") for part in Path(name).parent.parts if part != ".eval_results") or path.name[0] == ".":
        yield f"{name}: hidden"
    if path.suffix not in SUFFIXES[kind] and path.name not in ("LICENSE", "NOTICE"):
        yield f"{name}: no file of a {kind} (these end in {', '.join(sorted(SUFFIXES[kind]))})"
    with path.open("rb") as file:
        start = file.read(1 << 20)
        if PICKLES.match(start) or (path.stat().st_size < 1 << 20 and is_pickle(start)):
            yield f"{name}: a pickle or an archive, which may run code when it is loaded: save it as safetensors"
            return
    try:
        texts = texts_of(path)
    except ValueError as error:  # also of text that can't be decoded
        yield f"{name}: {error}"
        return
    text = URL.sub("", "\n".join(texts))
    if match := paths.search(text):
        yield f"{name}: a local path, {text[match.start() : match.start() + 80].splitlines()[0]!r}"
    elif path.suffix == ".json" and path.name not in ("tokenizer.json", "vocab.json"):
        for value in strings_of(read_json(path), keys=False):
            there = re.search(r"\w[/\\]\w", value[:1000]) and "\n" not in value and os.path.exists(value)
            if there or ABSOLUTE.fullmatch(value) or (kind == "model" and RELATIVE.fullmatch(value)):
                yield f"{name}: a local path, {value!r}"


def card_problems(text: str, kind: str, files: Container[str]) -> Iterator[str]:
    parts = re.match(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL)
    try:
        head = yaml.safe_load(parts.group(1)) if parts else None
    except yaml.YAMLError as error:
        yield f"README.md: its head is no YAML ({str(error).splitlines()[0]})"
        return
    if not isinstance(head, dict):
        yield "README.md: no YAML between --- and --- at its head"
        return
    for field in NEEDED[kind]:
        if field not in head:
            yield f"README.md: no {field} in its head"
    if kind == "space" and head.get("app_file") not in files:
        yield f"README.md: app_file in its head is {head.get('app_file')!r}, which is no file here"
    for field, value in head.items():
        if value in (None, "", [], {}) or str(value).lower() in ("unknown", "todo", "none"):
            yield f"README.md: {field} in its head is {value!r}"
    if match := UNFINISHED.search(parts.group(2)):
        line = parts.group(2)[: match.end()].splitlines()[-1]
        yield f"README.md: not finished, {line[-80:]!r}"


def check_folder(folder: Path, kind: str, local: Iterable[Path] = ()) -> None:
    """
    Raises:
        `ValueError`: naming everything that keeps the folder from being published as this kind of repository. `local`
            are folders that no file may name, beside the usual ones.
    """
    paths, problems = local_paths([folder, *local]), []
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    for name, path in files.items():
        problems += file_problems(path, name, kind, paths)
    problems += card_problems(files["README.md"].read_text(encoding="utf-8"), kind, files)
    if kind == "model" and not any(name.endswith(".safetensors") for name in files):
        problems.append("no *.safetensors: save the model with transformers' save_pretrained")
    if problems:
        raise ValueError("this may not be published: " + "; ".join(problems))


def probe(kind: str, name: str, home: Path, revision: str | None = None, isolated: bool = True) -> str:
    """
    Load it in a fresh interpreter that has an empty cache and, if `isolated`, can't import this repository: a folder
    without a network, or a repository of the Hub at a commit.

    Returns:
        `str`: what it printed.

    Raises:
        `ValueError`: if it does not load or does not work.
    """
    # what Python, its libraries and the way to the Hub need: nobody's keys
    kept = re.compile(
        r"PATH|HOME|TMPDIR|TEMP|TMP|SYSTEMROOT|LANG|LC_\w+|LD_LIBRARY_PATH|\w+_NUM_THREADS|CUDA_VISIBLE_DEVICES"
        r"|(?:HTTPS?|ALL|NO)_PROXY|SSL_CERT_(?:FILE|DIR)|(?:REQUESTS|CURL)_CA_BUNDLE"
        r"|HF_(?!HOME|\w*TOKEN|\w*CACHE|\w*OFFLINE)\w+"
    )
    environment = {key: value for key, value in os.environ.items() if kept.fullmatch(key.upper())}
    environment |= {"HF_HOME": str(home), "HF_UPDATE_DOWNLOAD_COUNTS": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment |= {"HF_ENDPOINT": constants.ENDPOINT, "HF_TOKEN": get_token() or ""} if revision else {}
    environment |= {} if revision else {"HF_HUB_OFFLINE": "1"}
    environment |= {} if isolated else {"PYTHONPATH": str(ROOT)}
    script = Path(__file__).with_name("probe.py")
    done = subprocess.run(
        [sys.executable, *(["-I"] if isolated else []), script, kind, name, *filter(None, [revision])],
        env=environment,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise ValueError(f"{name} does not load in a fresh interpreter: {said[-1] if said else done.returncode}")
    return done.stdout
