"""The first two steps of a build: what the sources say, and what their pictures and clips are like.

Both write one file a piece into the build's working folder, under another name until it is whole. A piece whose file
is there is done: that is how an interrupted build goes on.
"""

import json
import os
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset_scripts import drawn
from dataset_scripts.media import MediaError, fingerprint, locate
from dataset_scripts.readers import READERS
from dataset_scripts.rows import SCAN_SCHEMA, render_rows
from dataset_scripts.sample import Skipped


SCAN_ROWS = 2000  # of a row group, which is checked as one piece
FRAME_BYTES = 100_000  # more than a frame takes as JPEG; shards are cut before the frames are known
REPEATED = "repeated id"
CHECK_SCHEMA = pa.schema(
    [("reason", pa.string()), ("digest", pa.binary(16)), ("hash", pa.uint64()), ("seconds", pa.float32())]
)


@dataclass(frozen=True)
class Request:
    """What decides the bytes of a build.

    Args:
        sources (`dict[str, str | None]`): Name to absolute folder; `None` for `drawn`.
        tasks (`tuple[str, ...]`): Names of configs.
        seed (`int`): Seed of the drawings.
        drawn_size (`int`): Drawn training samples a task.
        video (`str`): How clips are stored: `"frames"`, `"clip"` or `"both"`.
        frames (`int`): Frames of a clip.
    """

    sources: dict[str, str | None]
    tasks: tuple[str, ...]
    seed: int
    drawn_size: int
    video: str
    frames: int


@dataclass(frozen=True)
class Unit:
    """The records of one source in one split of a task."""

    task: str
    source: str
    split: str

    @property
    def name(self):
        return f"{self.task}-{self.source}-{self.split}"


@contextmanager
def whole_file(path):
    """A binary file that gets its name `path` (`Path`) when it is complete and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # with the process in its name: a worker that outlived a killed build must not write into our file
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path, content):
    with whole_file(path) as file:
        file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_unit(request, unit):
    """The samples and skipped records of a unit, as its reader yields them; it may yield those of other tasks, too."""
    if unit.source == "drawn":
        size = request.drawn_size if unit.split == "train" else drawn.SPLIT_SIZES[unit.split]
        return drawn.read(unit.task, unit.split, size, request.seed)
    records = READERS[unit.source].read(Path(request.sources[unit.source]), unit.split)
    return (record for record in records if record.task in (unit.task, ""))


def frames_of(request):
    """Images in a clip's row."""
    return 0 if request.video == "clip" else request.frames


def weigh(request, root, sample):
    """Bytes that the sample's media will take in its row; a `MediaError` if one of its files cannot be used."""
    if sample.video:
        size = locate(root, sample.video, "clip").stat().st_size
        return {"clip": size, "frames": 0, "both": size}[request.video] + FRAME_BYTES * frames_of(request)
    return sum(
        len(image) if isinstance(image, bytes) else locate(root, image).stat().st_size for image in sample.images
    )


def scan_path(work, unit):
    return work / "scan" / f"{unit.name}.parquet"


def check_path(work, unit, group):
    return work / "check" / f"{unit.name}-{group:05d}.parquet"


def scan(work, request, unit):
    """Read a unit's annotations into `SCAN_SCHEMA`, and count in the file's metadata what was read and left out.

    Raises:
        `ValueError`: If the reader refuses a file or a record.
    """
    root = None if unit.source == "drawn" else Path(request.sources[unit.source])
    read, skipped, seen, rows = 0, Counter(), set(), []

    with whole_file(scan_path(work, unit)) as file, pq.ParquetWriter(file, SCAN_SCHEMA, compression="zstd") as writer:

        def flush(count):
            writer.write_table(pa.Table.from_pylist(rows[:count], SCAN_SCHEMA), row_group_size=SCAN_ROWS)
            del rows[:count]

        for sample in read_unit(request, unit):
            read += 1
            if isinstance(sample, Skipped):
                skipped[sample.reason] += 1
            elif sample.record in seen:
                skipped[REPEATED] += 1
            else:
                seen.add(sample.record)
                try:
                    rows += render_rows(sample, weigh(request, root, sample), frames_of(request))
                except MediaError as error:
                    skipped[str(error)] += 1
            if len(rows) >= SCAN_ROWS:
                flush(SCAN_ROWS)
        if rows:
            flush(len(rows))
        writer.add_key_value_metadata({"read": json.dumps(read), "skipped": json.dumps(skipped)})


def scan_source(work, request, units):
    """`scan` the units of one source in turn: a source's tables may take hundreds of MB, and each split reads them."""
    for unit in units:
        scan(work, request, unit)


def scan_counts(work, unit):
    """`(read, skipped)` of a scanned unit: the number of its records, and a `Counter` of reasons."""
    metadata = pq.read_metadata(scan_path(work, unit)).metadata
    return json.loads(metadata[b"read"]), Counter(json.loads(metadata[b"skipped"]))


def check(work, request, unit, group):
    """Decode the pictures of row group `group` of a scanned unit, and open its clips. One result a sample.

    Frames are taken from clips when their shard is written, and so it may turn out then that one is broken.
    """
    root = Path(request.sources[unit.source])
    table = pq.ParquetFile(scan_path(work, unit)).read_row_group(group, columns=["media", "clip", "first"])
    results = []
    for row in table.filter(pc.field("first")).to_pylist():
        try:
            # no source has several pictures a sample
            if row["clip"]:
                from dataset_scripts.video import check_clip  # needs PyAV, which builds without clips do without

                results.append((None, *check_clip(locate(root, row["media"][0], "clip"))))
            else:
                results.append((None, *fingerprint(locate(root, row["media"][0]).read_bytes()), 0))
        except MediaError as error:
            results.append((str(error), None, None, None))
    with whole_file(check_path(work, unit, group)) as file:
        pq.write_table(pa.table([list(column) for column in zip(*results, strict=True)], schema=CHECK_SCHEMA), file)
