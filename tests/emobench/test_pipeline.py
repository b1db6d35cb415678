"""Builds from the command line to `load_dataset`, and builds that are stopped."""

import errno
import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from datasets import Image as ImageFeature
from datasets import List
from made_up import COMMAND, SIZES, assert_same, content, load, memes, write_harmeme

from dataset_scripts import pipeline, scan, shards
from dataset_scripts.builder import EmoBench
from dataset_scripts.features import FEATURES
from dataset_scripts.manifest import verify
from dataset_scripts.pipeline import build
from dataset_scripts.rows import ROW_SCHEMA
from dataset_scripts.tasks import TASKS


# building and loading


def test_command_says_what_it_wrote(command):
    folder, run = command
    assert "sarcasm_detection     drawn         validation 128 of 128 kept" in run.stdout
    assert "harmeme: HarMeme is in https://github.com/di-dimitrov/mmf" in run.stdout, "how to obtain what is missing"
    assert "read sources: 100%" in run.stderr and "write: 100%" in run.stderr
    shards = [f"{task}/{split}-00000-of-00001.parquet" for task in TASKS for split in SIZES]
    pages = ["README.md", "duplicates.jsonl", "figures/counts.png", "manifest.json", "stats.json"]
    assert sorted(content(folder)) == sorted([*pages, *shards])
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("config", TASKS)
def test_load_dataset(drawn, config, tmp_path_factory):
    dataset = load(drawn, config, tmp_path_factory)
    open_too = config == "emotion_recognition"
    assert {split: len(rows) for split, rows in dataset.items()} == {k: v * (1 + open_too) for k, v in SIZES.items()}
    assert list(dataset) == list(SIZES)
    assert dataset["test"].features == FEATURES
    identifiers = [row for split in dataset.values() for row in split["id"]]
    assert len(set(identifiers)) == len(identifiers)
    for row in dataset["train"]:
        assert row["source"] == "drawn" and row["task"] == config and row["video"] is None and row["media"] == []
        assert row["rationale"] is None, "a build has none yet"
        assert row["answers"] == [row["answer"]] and row["choices"] == list(TASKS[config].sources["drawn"].labels)
        assert row["answer"] in row["choices"]
        assert row["id"].endswith(f"#{row['setting']}") == open_too
        assert len(row["images"]) == (3 if config == "humor_detection" else 1)
        assert all(image.size == (128, 128) for image in row["images"])
        offered = f"Answer with one of: {', '.join(row['choices'])}."
        assert row["instruction"].endswith(offered) == (row["setting"] == "closed")
        if row["setting"] == "open":
            assert not any(choice in row["instruction"] for choice in row["choices"])
        assert row["context"] in row["instruction"]
        user, assistant = row["messages"]
        assert user == {
            "role": "user",
            "content": [{"type": "image"}] * len(row["images"]) + [{"type": "text", "text": row["instruction"]}],
        }
        assert assistant == {"role": "assistant", "content": [{"type": "text", "text": row["answer"]}]}


def test_streaming_gives_the_same_rows(drawn, tmp_path_factory):
    streamed = load(drawn, "humor_detection", tmp_path_factory, split="train", streaming=True)
    stored = load(drawn, "humor_detection", tmp_path_factory, split="train")
    for one, other in zip(streamed, stored, strict=True):
        assert {k: v for k, v in one.items() if k != "images"} == {k: v for k, v in other.items() if k != "images"}
        assert [image.tobytes() for image in one["images"]] == [image.tobytes() for image in other["images"]]


def test_arrows_schema_is_that_of_the_features():
    assert ROW_SCHEMA.equals(FEATURES.arrow_schema.remove_metadata())


def test_builder_class_gives_the_same_rows(harmeme, tmp_path, tmp_path_factory):
    sources = {"harmeme": str(harmeme)}
    build(sources, tmp_path / "build")
    builder = EmoBench(config_name="hate_detection", sources=sources, cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare()
    for split in ("train", "validation"):
        rows = builder.as_dataset(split)
        assert rows.features == FEATURES
        wanted = load(tmp_path / "build", "hate_detection", tmp_path_factory, split=split)
        assert rows.remove_columns("images").to_list() == wanted.remove_columns("images").to_list()
        pixels = [[image.tobytes() for row in part["images"] for image in row] for part in (rows, wanted)]
        assert pixels[0] == pixels[1]


def test_seed_and_tasks_choose_what_is_built(cli, drawn):
    folder = cli("drawn:", "--drawn-size", "16", "--tasks", "sarcasm_detection", "--seed", "5")
    assert [path.parent.name for path in folder.rglob("*.parquet")] == ["sarcasm_detection"] * 3
    shard = "sarcasm_detection/train-00000-of-00001.parquet"
    assert (folder / shard).read_bytes() != (drawn / shard).read_bytes()


def test_pictures_are_embedded_as_they_are_and_nothing_of_this_machine(harmeme, tmp_path, tmp_path_factory):
    build({"harmeme": str(harmeme)}, tmp_path / "build")
    rows = load(tmp_path / "build", "hate_detection", tmp_path_factory, split="train")
    assert rows["media"][:2] == [["images/m0000.png"], ["images/m0001.png"]]
    assert rows["context"][0] == "text of m0000"
    stored = rows.cast_column("images", List(ImageFeature(decode=False)))
    assert [row["images"][0]["bytes"] for row in stored] == [picture for _, picture, _ in memes(0, 24)]
    assert stored[0]["images"][0]["path"] is None
    for data in content(tmp_path / "build").values():
        assert str(tmp_path).encode() not in data


# the same bytes, whatever happens on the way


def test_any_number_of_processes_gives_the_same_bytes(drawn, tmp_path):
    build({"drawn": None}, tmp_path / "again", drawn_size=16)
    assert_same(tmp_path / "again", drawn)


def test_a_build_stopped_at_any_piece_goes_on(harmeme, small_pieces, monkeypatch, tmp_path):
    """Every call of `whole_file` may be the last one: before its file is there, or just after."""
    sources = {"harmeme": str(harmeme)}
    build(sources, tmp_path / "wanted")
    whole_file, calls = scan.whole_file, []

    def count(path):
        calls.append(path.name)
        return whole_file(path)

    for module in (scan, shards):
        monkeypatch.setattr(module, "whole_file", count)
    build(sources, tmp_path / "counted")
    total = len(calls)
    assert total > 20 and len([name for name in calls if name.startswith("train-")]) > 8, "many pieces"

    class Stop(BaseException):
        pass

    redone = []
    for stop in range(0, total, 3):
        calls.clear()
        before = stop % 2

        def stopping(path, stop=stop, before=before):
            calls.append(path)
            if len(calls) <= stop:
                return whole_file(path)
            if not before:
                with whole_file(path) as file:
                    file.write(b"half a piece")
                    raise Stop
            raise Stop

        for module in (scan, shards):
            monkeypatch.setattr(module, "whole_file", stopping)
        folder = tmp_path / f"stopped{stop}"
        with pytest.raises(Stop):
            build(sources, folder)
        assert not folder.exists()
        done = {path for path in calls[:-1] if "result" not in path.parts or path.suffix == ".parquet"}
        calls.clear()
        for module in (scan, shards):
            monkeypatch.setattr(module, "whole_file", lambda path: calls.append(path) or whole_file(path))
        build(sources, folder)
        assert_same(folder, tmp_path / "wanted")
        redone.append(len(done & set(calls)))
    assert max(redone) <= 1, "a shard whose record was not yet written, and nothing else, is made again"


def alive(parent):
    """Processes that `parent` started, by what the system says."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


def test_a_killed_or_interrupted_command_goes_on_and_leaves_no_process(tmp_path):
    root = write_harmeme(tmp_path / "harmeme", {"train": memes(0, 60), "val": memes(100, 6)})
    (tmp_path / "sources.yaml").write_text("drawn:\nharmeme: harmeme\n")
    build(
        {"drawn": None, "harmeme": str(root)},
        tmp_path / "wanted",
        ["hate_detection", "humor_detection"],
        drawn_size=480,
    )
    arguments = ["--sources", str(tmp_path / "sources.yaml"), "--output", str(tmp_path / "build")]
    arguments = [*COMMAND, *arguments, "--drawn-size", "480", "--num-proc", "2"]
    arguments += ["--tasks", "hate_detection", "humor_detection"]
    work, seen = tmp_path / "build.building", []
    for wanted, how in (("scan/*.parquet", signal.SIGKILL), ("shards/*/*.json", signal.SIGINT)):
        process = subprocess.Popen(
            arguments,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # started in a shell's background, tests inherit that Ctrl-C is ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while len(list(work.glob(wanted))) < 2:
            assert process.poll() is None
            time.sleep(0.002)
        workers = alive(process.pid)
        process.send_signal(how)
        process.wait()
        seen.append(len(list(work.glob("*/**/*.*"))))
        assert not (tmp_path / "build").exists()
        deadline = time.monotonic() + 300
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < deadline, "workers outlive their parent"
            time.sleep(0.05)
    assert seen[1] > seen[0] > 1
    run = subprocess.run(arguments, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert_same(tmp_path / "build", tmp_path / "wanted")
    assert not work.exists()


@pytest.mark.parametrize("last", ["rename", "rmtree"])
def test_a_build_killed_at_its_very_end_harms_no_later_one(harmeme, last, monkeypatch, tmp_path):
    folder, work = tmp_path / "build", tmp_path / "build.building"
    build({"harmeme": str(harmeme), "drawn": None}, tmp_path / "wanted", ["hate_detection"], seed=1, drawn_size=16)

    class Stop(BaseException):
        pass

    def stop(*_):
        raise Stop

    with monkeypatch.context() as patch:
        if last == "rmtree":
            patch.setattr(pipeline.shutil, "rmtree", stop)
        else:  # the second one, after which the working folder has another name
            rename = Path.rename
            patch.setattr(Path, "rename", lambda path, to: stop() if path == work else rename(path, to))
        with pytest.raises(Stop):
            build({"harmeme": str(harmeme)}, folder)
    assert not verify(folder), "the build itself is whole"
    with pytest.raises(ValueError, match="exists and is not empty"):
        build({"harmeme": str(harmeme)}, folder)
    shutil.rmtree(folder)
    if last == "rename":
        build({"harmeme": str(harmeme)}, folder)
        assert not verify(folder)
        shutil.rmtree(folder)
    build({"harmeme": str(harmeme), "drawn": None}, folder, ["hate_detection"], seed=1, drawn_size=16)
    assert_same(folder, tmp_path / "wanted")


def test_a_disk_that_is_full_while_a_piece_is_written(cli, harmeme, monkeypatch, tmp_path):
    """`/dev/full` answers every write with ENOSPC."""
    whole_file = scan.whole_file

    @contextmanager
    def full(path):
        with whole_file(path) as file:
            if path.suffix == ".parquet":
                os.dup2(os.open("/dev/full", os.O_WRONLY), file.fileno())
            yield file

    with monkeypatch.context() as patch:
        patch.setattr(shards, "whole_file", full)
        assert "is full. Nothing that was built is lost" in cli({"harmeme": str(harmeme)})
    assert not verify(cli({"harmeme": str(harmeme)}))


def test_a_worker_that_is_killed_is_named(tmp_path, monkeypatch, cli):
    monkeypatch.setattr(pipeline, "scan_source", die)
    assert "a worker process was killed" in cli("drawn:", "--drawn-size", "16", "--num-proc", "2")


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_interrupting_says_how_to_go_on(cli, harmeme, monkeypatch, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "write_shard", interrupt)
        assert "interrupted; the same command goes on from here" in cli({"harmeme": str(harmeme)})
    assert cli({"harmeme": str(harmeme)}).is_dir()


def test_a_full_disk_loses_nothing(cli, harmeme, small_pieces, monkeypatch, tmp_path):
    build({"harmeme": str(harmeme)}, tmp_path / "wanted")
    whole_file, written = scan.whole_file, []

    def full(path):
        if len(written) > 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        written.append(path)
        return whole_file(path)

    with monkeypatch.context() as patch:
        patch.setattr(scan, "whole_file", full)
        patch.setattr(shards, "whole_file", full)
        error = cli({"harmeme": str(harmeme)})
    assert "is full. Nothing that was built is lost: free some space and run the same command again" in error
    assert all(path.exists() for path in written[:-1])
    assert_same(cli({"harmeme": str(harmeme)}), tmp_path / "wanted")
