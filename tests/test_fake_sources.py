"""The fake sources of benchmarks/ are what they say: all readers and a whole build count exactly what was planted."""

import json
from collections import Counter

import pytest
from datasets import load_dataset

from benchmarks.fake_sources import PLANTED, WRITERS, make_sources
from dataset_scripts.pipeline import build
from dataset_scripts.readers import READERS
from dataset_scripts.sample import Skipped
from dataset_scripts.scan import Request, Unit, read_unit
from dataset_scripts.tasks import TASKS


# these are found by the build; all other reasons are the reader's own
FOUND_BY_BUILD = (
    *(f"{kind} {trouble}" for kind in ("picture", "clip") for trouble in ("missing", "broken or truncated", "empty")),
    "repeated id",
    "duplicate of a held-out sample",
    "near-duplicate of a held-out sample",
)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def fakes(tmp_path_factory):
    """All thirteen sources, some 1,000 records: their folder, and what was planted."""
    root = tmp_path_factory.mktemp("fakes")
    return root, make_sources(root, scale=0)


@pytest.fixture(scope="module")
def built(fakes, tmp_path_factory):
    """A build of all of them with the drawn data: its folder, and its counts."""
    root, _ = fakes
    output = tmp_path_factory.mktemp("built") / "EmoBench"
    return output, build({**{name: str(root / name) for name in READERS}, "drawn": None}, output, drawn_size=16)


def test_every_source_is_faked():
    assert set(PLANTED) == {writer.__name__ for writer in WRITERS} == set(READERS)


@pytest.mark.parametrize(("name", "task"), [(name, task) for name in READERS for task in READERS[name].SOURCE.tasks])
def test_readers_read_what_was_planted(fakes, name, task):
    root, planted = fakes
    splits = READERS[name].splits(root / name)
    assert splits == tuple(READERS[name].SOURCE.published) == tuple(planted["counts"][task][name])
    request = Request({name: str(root / name)}, (task,), seed=0, drawn_size=16, video="frames", frames=8)
    for split, expected in planted["counts"][task][name].items():
        records = list(read_unit(request, Unit(task, name, split)))
        assert len(records) == expected["read"] == 32
        skipped = Counter(record.reason for record in records if isinstance(record, Skipped))
        assert skipped == {
            reason: number for reason, number in expected["skipped"].items() if reason not in FOUND_BY_BUILD
        }


def test_published_sizes(tmp_path):
    planted = make_sources(tmp_path, scale=1.0, names=("mustard",))
    assert {split: found["read"] for split, found in planted["counts"]["sarcasm_detection"]["mustard"].items()} == {
        "train": 334,
        "test": 356,
    }


def test_build_counts_what_was_planted(fakes, built):
    _, planted = fakes
    output, stats = built
    found = {
        task: {name: counts for name, counts in config["sources"].items() if name != "drawn"}
        for task, config in stats["configs"].items()
    }
    assert found == planted["counts"]
    assert json.loads((output / "stats.json").read_text())["configs"] == stats["configs"]
    reported = [json.loads(line)["removed"] for line in (output / "duplicates.jsonl").read_text().splitlines()]
    assert sorted(reported) == planted["duplicates"]


@pytest.mark.parametrize("task", TASKS)
def test_configs_load(built, tmp_path, task):
    output, stats = built
    dataset = load_dataset(str(output), task, cache_dir=str(tmp_path))
    counts = stats["configs"][task]["sources"]
    for split in ("train", "validation", "test"):
        expected = {source: found[split]["rows"] for source, found in counts.items() if split in found}
        assert Counter(dataset[split]["source"]) == Counter(expected)
        last = {source: row for row, source in enumerate(dataset[split]["source"]) if source != "drawn"}
        for row in dataset[split].select(last.values()):  # decodes the pictures
            assert len(row["images"]) == (8 if row["media"][0].endswith(".mp4") else 1)
            assert all(min(image.size) >= 32 for image in row["images"])


def test_same_arguments_same_bytes(fakes, tmp_path):
    root, _ = fakes
    names = ("ferplus", "harmeme", "hateful_memes", "mintrec")
    make_sources(tmp_path / "one", scale=0, names=names)
    make_sources(tmp_path / "two", scale=0, names=names, num_proc=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_picture_bytes(tmp_path):
    make_sources(tmp_path, scale=0, names=("caers",), picture_bytes=30_000)
    sizes = [path.stat().st_size for path in tmp_path.rglob("*.png")]
    assert 25_000 < sorted(sizes)[len(sizes) // 2] < 35_000
