"""A finished build of EmoBench: its training samples one by one, and a copy of it with rationales."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard
from tqdm import tqdm

from dataset_scripts.card import render_card
from dataset_scripts.finish import METADATA
from dataset_scripts.manifest import MANIFEST, digest_file, verify
from dataset_scripts.rows import ROW_SCHEMA
from dataset_scripts.scan import write_json
from dataset_scripts.shards import open_writer
from dataset_scripts.tasks import TASKS

from ..predictions import draw_samples
from .checks import KEPT, UNANSWERED, Outcome, Request, Sample, examine


FACTS = "rationales.json"
COLUMNS = ["id", "source", "task", "setting", "images", "instruction", "choices", "answer", "answers"]


def sample_of(row_id: str) -> str:
    return row_id.split("#")[0]


def train_shards(folder: Path, task: str) -> list[Path]:
    return sorted((folder / task).glob("train-*.parquet"))


def read_stats(folder: Path) -> dict:
    """
    stats.json of a build, of which every file was checked.

    Raises:
        `ValueError`: if the folder is no finished build, or has changed since, or has rationales, or other tasks.
    """
    if problems := verify(folder):
        raise ValueError(f"{folder} is not what was built: {'; '.join(problems)}. Build or download it again.")
    stats = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
    if unknown := sorted(stats["configs"].keys() - TASKS.keys()):  # they are names of folders
        raise ValueError(f"{folder} has the tasks {', '.join(unknown)}, which EmoBench does not: build it again.")
    if "rationales" in stats:
        raise ValueError(f"{folder} has rationales, by {stats['rationales']['teacher']}: give the build without them.")
    return stats


def find_samples(folder: Path, stats: dict, tasks: list[str], limit: int | None, seed: int) -> dict[str, set[str]]:
    """
    By task, the ids of the training samples, or of `limit` of them.

    Raises:
        `ValueError`: if a task has no training rows, or a sample no pictures, or another version built the folder.
    """
    present = [task for task in stats["configs"] if train_shards(folder, task)]
    wanted = present if tasks == ["all"] else tasks
    if missing := [task for task in wanted if task not in present]:
        raise ValueError(
            f"{folder} has no training rows of {', '.join(missing)}; it has some of {', '.join(present) or 'none'}."
        )
    samples = {}
    for task in wanted:
        images: dict[str, int] = {}
        for shard in train_shards(folder, task):
            with pq.ParquetFile(shard) as file:
                if not file.schema_arrow.equals(ROW_SCHEMA):
                    raise ValueError(f"{shard} has other columns than this version builds: build {folder} again.")
                # the paths are null, and alone tell the number without the pictures
                table = file.read(columns=["id", "images.list.element.path"])
            numbers = table["images"].combine_chunks().value_lengths()
            images.update(zip(map(sample_of, table["id"].to_pylist()), numbers.to_pylist(), strict=True))
        samples[task] = draw_samples(images, len(images) if limit is None else limit, seed)
        if bare := [name for name in images if name in samples[task] and not images[name]]:
            raise ValueError(
                f"{bare[0]}, and {len(bare) - 1} others, are clips without frames: build the dataset again with "
                "--video frames."
            )
    return samples


def samples_in(table: pa.Table, wanted: set[str]) -> Iterator[Sample]:
    """The wanted samples of a row group, by their closed questions."""
    table = table.select(COLUMNS)
    for place, row in enumerate(table.select(["id", "setting"]).to_pylist()):
        if row["setting"] == "closed" and sample_of(row["id"]) in wanted:
            (row,) = table.slice(place, 1).to_pylist()
            del row["setting"]
            images = [image["bytes"] for image in row["images"]]
            yield Sample(**row | {"id": sample_of(row["id"]), "images": images})


def read_samples(folder: Path, wanted: dict[str, set[str]]) -> Iterator[Sample]:
    """The wanted samples, in the order of the rows; one row group is held at a time."""
    for task, names in wanted.items():
        for shard in train_shards(folder, task):
            with pq.ParquetFile(shard) as file:
                for group in range(file.num_row_groups):
                    ids = file.read_row_group(group, columns=["id"])["id"].to_pylist()
                    if not names.isdisjoint(map(sample_of, ids)):
                        yield from samples_in(file.read_row_group(group, columns=COLUMNS), names)


def write_shard(shard: Path, copy: Path, wanted: set[str], judge: Callable[[Sample], Outcome]) -> int:
    """Copy a shard with the rationales of its samples; its pictures are not decoded. Returns bytes of its rows."""
    with pq.ParquetFile(shard) as file, copy.open("wb") as target:
        ids = [sample_of(row_id) for row_id in file.read(columns=["id"])["id"].to_pylist()]
        size = 0
        with open_writer(target, METADATA, shared=len(set(ids)) < len(ids)) as writer:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                outcomes = {sample.id: judge(sample) for sample in samples_in(table, wanted)}
                found = [outcomes.get(sample_of(row_id), Outcome("")).rationale for row_id in table["id"].to_pylist()]
                place = table.schema.get_field_index("rationale")
                table = table.set_column(place, ROW_SCHEMA.field(place), pa.array(found, pa.string()))
                writer.write_table(table.replace_schema_metadata(METADATA))
                size += table.nbytes
    return size


class Tally:
    """
    Judges samples by the stored replies, and counts what it says.

    Args:
        get (`Callable[[Request], dict | None]`): the stored reply to a request.
    """

    def __init__(self, get: Callable[[Request], dict | None]):
        self.get, self.counts, self.tokens = get, {}, {}

    def find(self, request: Request) -> dict | None:
        reply = self.get(request)
        if reply and "refused" not in reply:
            self.tokens[reply["key"]] = reply["input_tokens"], reply["output_tokens"]
        return reply

    def judge(self, sample: Sample) -> Outcome:
        outcome = examine(sample, self.find)
        if isinstance(outcome, Request):
            outcome = Outcome(UNANSWERED)
        found = self.counts.setdefault(sample.task, {}).setdefault(sample.source, Counter())
        found[outcome.reason] += 1
        return outcome

    def facts(self) -> dict:
        """Tokens that the replies report, and task → source → samples asked about, kept, and dropped by reason."""
        return {
            "input_tokens": sum(tokens for tokens, _ in self.tokens.values()),
            "output_tokens": sum(tokens for _, tokens in self.tokens.values()),
            "configs": {
                task: {
                    source: {
                        "asked": found.total(),
                        "kept": found[KEPT],
                        "dropped": {reason: found[reason] for reason in sorted(found) if reason != KEPT},
                    }
                    for source, found in sources.items()
                }
                for task, sources in self.counts.items()
            },
        }


def write_dataset(
    folder: Path, output: Path, stats: dict, wanted: dict[str, set[str]], tally: Tally, facts: dict
) -> dict:
    """
    A copy of a build, with rationales in its training rows.

    Args:
        folder (`Path`): the build.
        output (`Path`): the copy; one that this function made before is replaced.
        stats (`dict`): what its stats.json holds.
        wanted (`dict[str, set[str]]`): by task, ids of the samples that were asked about.
        tally (`Tally`): what says whether a sample has a rationale.
        facts (`dict`): of the teacher, for the card.

    Returns:
        `dict`: the facts with those of the tally, as stats.json and rationales.json have them.
    """
    files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    infos = DatasetInfosDict.from_dataset_card_data(DatasetCard.load(folder / "README.md").data)
    changed = {shard.relative_to(folder).as_posix(): task for task in wanted for shard in train_shards(folder, task)}
    work = output.with_name(f".{output.name}.rationales-writing")
    shutil.rmtree(work, ignore_errors=True)  # left by a process that was killed
    stage = work / "new"
    try:
        sizes = Counter()
        for path in tqdm(files, desc="write", unit="file"):
            (stage / path).parent.mkdir(parents=True, exist_ok=True)
            if path in changed:
                task = changed[path]
                sizes[task] += write_shard(folder / path, stage / path, wanted[task], tally.judge)
            else:
                shutil.copyfile(folder / path, stage / path)
        facts = facts | tally.facts()
        for task in wanted:
            info, split = infos[task], infos[task].splits["train"]
            info.dataset_size += sizes[task] - split.num_bytes
            split.num_bytes = sizes[task]
            info.download_size = sum(shard.stat().st_size for shard in stage.glob(f"{task}/*.parquet"))
        sizes = {task: info.download_size for task, info in infos.items()}
        stats = stats | {"bytes": sizes, "rationales": facts}
        write_json(stage / "stats.json", stats)
        write_json(stage / FACTS, facts)
        (stage / "README.md").write_text(render_card(infos, stats), encoding="utf-8")
        for path in (*changed, "README.md", "stats.json", FACTS):
            files[path] = {"size": (stage / path).stat().st_size, "sha256": digest_file(stage / path)}
        write_json(stage / MANIFEST, {"files": dict(sorted(files.items()))})
        if output.exists():
            output.rename(work / "replaced")
        stage.rename(output)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return facts
