"""The last step of a build: Parquet shards with the media as they are.

Pictures are neither compressed again nor put into statistics; where a sample has two rows, a dictionary stores its
picture once. How fast that is, `python -m benchmarks.emobench --part write` measures.
"""

import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset_scripts.media import MediaError
from dataset_scripts.rows import ROW_SCHEMA, SCAN_SCHEMA, TEXT_FIELDS
from dataset_scripts.scan import SCAN_ROWS, scan_path, whole_file, write_json


# Reading one row means reading its row group, so small groups make random access fast. Rows of large clips are cut
# earlier, which bounds the memory of writers and readers.
GROUP_ROWS, GROUP_BYTES = 100, 32_000_000
FRAME_SIDE = 448  # pixels, at most, of a stored frame's longer side


def leaf_columns(field, prefix=""):
    """Paths by which Parquet knows the columns of a field (`pyarrow.Field`)."""
    path, kind = prefix + field.name, field.type
    if pa.types.is_list(kind):
        return leaf_columns(pa.field("element", kind.value_type), f"{path}.list.")
    if pa.types.is_struct(kind):
        return [leaf for child in kind for leaf in leaf_columns(child, f"{path}.")]
    return [path]


TEXT_COLUMNS = [leaf for field in TEXT_FIELDS for leaf in leaf_columns(field)]
MEDIA_COLUMNS = ["images.list.element.bytes", "video.bytes"]


def read_text(work, parts):
    """The rows of a shard, of `SCAN_SCHEMA`."""
    tables = [SCAN_SCHEMA.empty_table()]
    for unit, rows in parts:
        file = pq.ParquetFile(scan_path(work, unit))
        groups = rows // SCAN_ROWS
        for group in np.unique(groups).tolist():
            tables.append(file.read_row_group(group).take(pa.array(rows[groups == group] % SCAN_ROWS)))
    return pa.concat_tables(tables)


def read_media(request, row):
    """Pictures and clip of a sample: bytes as its files have them, or the frames of its clip.

    Raises:
        `MediaError`: If frames are wanted and the clip cannot be decoded.
        `ValueError`: If a picture is not what it was when its source was scanned.
    """
    if row["computed"]:
        return row["computed"], None
    # these paths were resolved, and the pictures decoded, when the source was scanned and checked
    paths = [f"{request.sources[row['source']]}/{path}" for path in row["media"]]
    if row["clip"] and request.video == "frames":
        return read_frames(request, paths[0]), None
    data = []
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            data.append(file.readall())
    if row["clip"]:
        return [] if request.video == "clip" else read_frames(request, paths[0]), data[0]
    if (size := sum(map(len, data))) != row["size"]:
        raise ValueError(
            f"{paths[0]} has {size} bytes, and had {row['size']} when this build began: remove the unfinished build "
            "and start again"
        )
    return data, None


def read_frames(request, path):
    from dataset_scripts.video import sample_frames  # needs PyAV, which builds without clips do without

    frames = sample_frames(Path(path), request.frames, FRAME_SIDE)
    # the conversation was written for so many: a clip of fewer shows some of them longer
    return [frames[place * len(frames) // request.frames] for place in range(request.frames)]


def media_type(data):
    """Encoded media (`list[bytes | None]`) as the Arrow array of `datasets`' pictures and clips."""
    data = pa.array(data, pa.binary())
    return pa.StructArray.from_arrays([data, pa.nulls(len(data), pa.string())], ["bytes", "path"], mask=data.is_null())


@dataclass
class Group:
    """A row group in the making: places of its rows in the shard, and their media."""

    places: list = field(default_factory=list)
    images: list = field(default_factory=list)
    offsets: list = field(default_factory=lambda: [0])
    videos: list = field(default_factory=list)
    size: int = 0

    def add(self, place, images, video):
        self.places.append(place)
        self.images += images
        self.offsets.append(len(self.images))
        self.videos.append(video)

    def complete(self, rows):
        """The group's rows, of `SCAN_SCHEMA`, and the same with their media, of `ROW_SCHEMA`."""
        start, number = self.places[0], len(self.places)
        is_run = self.places[-1] - start == number - 1
        text = rows.slice(start, number) if is_run else rows.take(pa.array(self.places))
        columns = {name: text[name] for name in text.column_names}
        columns["images"] = pa.ListArray.from_arrays(pa.array(self.offsets, pa.int32()), media_type(self.images))
        columns["video"] = media_type(self.videos)
        return text, pa.table({name: columns[name] for name in ROW_SCHEMA.names}).cast(ROW_SCHEMA)


def read_groups(request, rows, skipped):
    """Read the media of a shard's rows (`pyarrow.Table` of `SCAN_SCHEMA`), and cut them into row groups.

    Clips that cannot be decoded are counted in `skipped` (`Counter` of source and reason). Yields a `Group` each.
    """
    group, media = Group(), None
    wanted = rows.select(["source", "media", "first", "clip", "size", "computed"])
    for place, row in enumerate(row for batch in wanted.to_batches() for row in batch.to_pylist()):
        if row["first"]:
            try:
                media = read_media(request, row)
            except MediaError as error:
                media = None
                skipped[row["source"], str(error)] += 1
                continue
            size = sum(map(len, media[0])) + len(media[1] or b"")
            if group.places and (len(group.places) >= GROUP_ROWS or group.size + size > GROUP_BYTES):
                yield group
                group = Group()
            group.size += size
        if media:
            group.add(place, *media)
    if group.places:
        yield group


def record_path(work, shard):
    return work / "shards" / f"{shard.path}.json"


def is_written(work, shard):
    return record_path(work, shard).exists() and (work / "result" / shard.path).exists()


class Digest:
    """SHA-256 of a file that is being written, in a thread beside its writer: that takes as long as the writing.

    Args:
        file (`BufferedRandom`): Open for reading and writing.
    """

    def __init__(self, file):
        self.file, self.hash, self.end, self.parts = file, hashlib.sha256(), 0, []
        self.thread = ThreadPoolExecutor(1)

    def follow(self):
        """Take in what was written since the last call."""
        self.file.flush()
        start, self.end = self.end, self.file.tell()
        self.parts.append(self.thread.submit(self._read, start, self.end))

    def _read(self, start, end):
        while start < end:
            part = os.pread(self.file.fileno(), min(end - start, 2**20), start)
            self.hash.update(part)
            start += len(part)

    def finish(self):
        """The digest of the whole file, in hexadecimal digits."""
        self.follow()
        for part in self.parts:
            part.result()
        self.thread.shutdown()
        return self.hash.hexdigest()


def open_writer(file, metadata, shared):
    """The `pyarrow.parquet.ParquetWriter` of a shard.

    Args:
        file (`BufferedIOBase`): Open for writing.
        metadata (`dict`): Of the file's schema; `datasets` finds the features there.
        shared (`bool`): Whether rows share pictures or clips, which are then stored once.
    """
    return pq.ParquetWriter(
        file,
        ROW_SCHEMA.with_metadata(metadata),
        use_dictionary=MEDIA_COLUMNS if shared else [],
        dictionary_pagesize_limit=4 * GROUP_BYTES,
        compression={**dict.fromkeys(TEXT_COLUMNS, "zstd"), **dict.fromkeys(MEDIA_COLUMNS, "none")},
        write_statistics=["id", "source", "setting", "answer"],
    )


def write_shard(work, request, shard, metadata):
    """Write one shard, and its record: rows, bytes, labels by source, what was left out, and the file's hash.

    Args:
        work (`Path`): The working folder.
        request (`Request`): What is built.
        shard (`Shard`): What goes into the file.
        metadata (`dict`): Of the file's schema; `datasets` finds the features there.
    """
    rows = read_text(work, shard.parts)
    rows = rows.combine_chunks()
    number, size, samples, labels, skipped = 0, 0, Counter(), Counter(), Counter()
    path = work / "result" / shard.path
    with whole_file(path) as file:
        written = Digest(file)
        with open_writer(file, metadata, not pc.all(rows["first"]).as_py()) as writer:
            for group in read_groups(request, rows, skipped):
                text, table = group.complete(rows)
                writer.write_table(table.replace_schema_metadata(metadata))
                written.follow()
                number += len(table)
                size += table.nbytes
                for row in text.filter(text["first"]).select(["source", "answers"]).to_pylist():
                    samples[row["source"]] += 1
                    labels.update((row["source"], answer) for answer in row["answers"])
        digest = written.finish()
    write_json(
        record_path(work, shard),
        {
            "rows": number,
            "num_bytes": size,
            "size": path.stat().st_size,
            "sha256": digest,
            "samples": dict(samples),
            "labels": [[*key, count] for key, count in labels.items()],
            "skipped": [[*key, count] for key, count in skipped.items()],
        },
    )
