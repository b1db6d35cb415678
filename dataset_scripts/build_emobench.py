"""Build EmoBench, or the part of it whose sources are at hand.

    python -m dataset_scripts.build_emobench --source drawn --output DIR
    python -m dataset_scripts.build_emobench --source ferplus=PATH --source harmeme=PATH --output DIR

Writes DIR/<config>/<split>-*.parquet, README.md (the card, which makes `load_dataset(DIR, config)` work) and
stats.json, all at once at the end; an interrupted build leaves no DIR. The same arguments give the same bytes.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import datasets
from datasets.exceptions import DatasetGenerationError

from dataset_scripts import drawn
from dataset_scripts.builder import EmoBench, check_sources
from dataset_scripts.card import render_card
from dataset_scripts.tasks import TASKS, get_task


def parse_sources(arguments):
    """`["drawn", "ferplus=PATH"]` → `{"drawn": None, "ferplus": "PATH"}`; a source given twice is a `ValueError`."""
    sources = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if name in sources:
            raise ValueError(f"source {name} is given twice: name each source once")
        sources[name] = path if equals else None
    return sources


def build_config(name, sources, seed, drawn_size, work, folder):
    """Build one config into `folder` (`Path`), with `work` (`Path`) for locks; returns its `DatasetInfo` and stats."""
    builder = EmoBench(
        config_name=name, sources=sources, seed=seed, drawn_size=drawn_size, cache_dir=str(work / "cache")
    )
    raw = work / name
    builder.download_and_prepare(str(raw), file_format="parquet")
    folder.mkdir()
    # a split of which nothing is left could not be loaded; its counts stay in the stats
    filled = [split for split, info in builder.info.splits.items() if info.num_examples][::-1]
    if not filled:
        skipped = sum(
            (Counter(count["skipped"]) for found in builder.stats.values() for count in found.values()), Counter()
        )
        reasons = ", ".join(f"{number} {reason}" for reason, number in skipped.items())
        raise ValueError(
            f"{name}: no record of {', '.join(builder.stats)} could be used: {reasons or 'there is none'}"
        )
    for split in filled:
        shards = sorted(raw.glob(f"{builder.dataset_name}-{split}*.parquet"))
        for number, shard in enumerate(shards):
            shard.rename(folder / f"{split}-{number:05d}-of-{len(shards):05d}.parquet")
    builder.info.splits = datasets.SplitDict({split: builder.info.splits[split] for split in filled})
    return builder.info, {source: dict(reversed(found.items())) for source, found in builder.stats.items()}


def build(sources, output, tasks=tuple(TASKS), seed=0, drawn_size=drawn.SPLIT_SIZES["train"]):
    """Build the configs among `tasks` that have one of `sources`, and write them to `output`.

    Args:
        sources (`dict[str, str | None]`): Name to folder; `None` for `drawn`.
        output (`Path`): A folder that is not there yet, or empty.
        tasks (`Sequence[str]`): Names of configs.
        seed (`int`): Seed of the drawings.
        drawn_size (`int`): Drawn training samples a task.

    Returns:
        `dict`: config → source → split → counts, which is also written to stats.json.

    Raises:
        `ValueError`: If an argument, or a record of a source, cannot be used; `output` is then left as it was.
    """
    check_sources(sources)
    names = [name for name in tasks if set(get_task(name).sources) & set(sources)]
    if not names:
        raise ValueError(f"none of the tasks {', '.join(tasks)} has a source among {', '.join(sources)}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} exists and is not empty: give a new folder, or remove it first")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        work, result = Path(scratch), Path(scratch) / "result"
        result.mkdir()
        infos, stats = {}, {}
        for name in names:
            try:
                infos[name], stats[name] = build_config(name, sources, seed, drawn_size, work, result / name)
            except DatasetGenerationError as error:
                # a reader's own message says what is wrong with which record
                if isinstance(error.__cause__, ValueError):
                    raise error.__cause__ from None
                raise
        (result / "README.md").write_text(render_card(infos, stats), encoding="utf-8")
        (result / "stats.json").write_text(json.dumps(stats, indent=2) + "\n", encoding="utf-8")
        result.rename(output)
    return stats


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", action="append", required=True, metavar="NAME[=PATH]", help="may be repeated")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), metavar="TASK", help="only these configs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the drawings")
    parser.add_argument(
        "--drawn-size",
        type=int,
        default=drawn.SPLIT_SIZES["train"],
        help="drawn training samples a task, a multiple of 16 (default: %(default)s)",
    )
    args = parser.parse_args()
    datasets.disable_progress_bars()  # the readers have their own
    try:
        stats = build(parse_sources(args.source), args.output, args.tasks, args.seed, args.drawn_size)
    except ValueError as error:
        sys.exit(f"build_emobench: {error}")
    for name, by_source in stats.items():
        for source, by_split in by_source.items():
            for split, count in by_split.items():
                skipped = "".join(f", {number} {reason}" for reason, number in count["skipped"].items())
                print(f"{name:21} {source:8} {split:10} {count['kept']} of {count['read']} kept{skipped}")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
