"""What of a finished build may be published, and that as a folder: as it is, or without its media.

Only builds of `drawn` alone may be public as they are: the other sources forbid, or do not plainly allow, that their
media are passed on. A build with them is for a private repository, or goes without pictures and clips, with a card
that says how to join one's own copies.
"""

import json

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard

from dataset_scripts.card import FIGURE, draw_counts, render_card
from dataset_scripts.features import FEATURES
from dataset_scripts.manifest import MANIFEST, digest_file
from dataset_scripts.readers import READERS
from dataset_scripts.scan import write_json


MEDIA = ("images", "video")
TEXT_FEATURES = Features({name: feature for name, feature in FEATURES.items() if name not in MEDIA})
BATCH = 10_000  # rows of text that are held at a time


def read_stats(folder):
    """What stats.json of a build holds; a `ValueError` if the folder (`Path`) is no finished build."""
    missing = [name for name in (MANIFEST, "stats.json", "README.md") if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} has no {', '.join(missing)}: it is no finished build")
    return json.loads((folder / "stats.json").read_text(encoding="utf-8"))


def licences_of(stats):
    """Licences of the sources in a build by name, but for `drawn`, in order."""
    names = (name for config in stats["configs"].values() for name in config["sources"] if name != "drawn")
    return {name: READERS[name].SOURCE.licence.rstrip(".") for name in names}


def copy_text(shard, copy):
    """Copy the columns of a Parquet file (`Path`) that hold no media; returns the size of its rows in memory."""
    copy.parent.mkdir(exist_ok=True)
    metadata, size = TEXT_FEATURES.arrow_schema.metadata, 0
    with pq.ParquetFile(shard) as file:
        schema = pa.schema([field for field in file.schema_arrow if field.name not in MEDIA], metadata)
        with pq.ParquetWriter(copy, schema, compression="zstd") as writer:
            for batch in file.iter_batches(BATCH, columns=schema.names):
                writer.write_batch(batch.replace_schema_metadata(metadata))
                size += batch.nbytes
    return size


def lay_out(folder, stats, stage, repo_id, media, gated):
    """Lay out in the folder `stage` (`Path`) what is uploaded: links to the shards or copies without media, and the
    card, figure and manifest of that."""
    infos = DatasetInfosDict.from_dataset_card_data(DatasetCard.load(folder / "README.md").data)
    shards = sorted(path.relative_to(folder) for path in folder.glob("*/*.parquet"))
    if media:
        for shard in shards:
            (stage / shard).parent.mkdir(exist_ok=True)
            (stage / shard).symlink_to((folder / shard).resolve())
    else:
        sizes = {shard: copy_text(folder / shard, stage / shard) for shard in shards}
        for config, info in infos.items():
            mine = [shard for shard in shards if shard.parts[0] == config]
            for name, split in info.splits.items():
                split.num_bytes = sum(sizes[shard] for shard in mine if shard.name.startswith(f"{name}-"))
            info.features = TEXT_FEATURES
            info.dataset_size = sum(split.num_bytes for split in info.splits.values())
            info.download_size = sum((stage / shard).stat().st_size for shard in mine)
        stats = stats | {"bytes": {config: info.download_size for config, info in infos.items()}}
    (stage / FIGURE).parent.mkdir()
    draw_counts(stats, stage / FIGURE)
    (stage / "README.md").write_text(render_card(infos, stats, repo_id, media, gated), encoding="utf-8")
    write_json(stage / "stats.json", stats)
    (stage / "duplicates.jsonl").write_bytes((folder / "duplicates.jsonl").read_bytes())
    files = sorted(path for path in stage.rglob("*") if path.is_file())
    listed = {
        path.relative_to(stage).as_posix(): {"size": path.stat().st_size, "sha256": digest_file(path)}
        for path in files
    }
    write_json(stage / MANIFEST, {"files": listed})
