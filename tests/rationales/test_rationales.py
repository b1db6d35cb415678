"""The command: what it asks, writes and reports, and that it can be stopped at any moment."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from asking import EMOTION, arguments, content, rows_of, stopped, write
from datasets import load_dataset
from datasets.info import DatasetInfosDict
from filelock import FileLock
from huggingface_hub import DatasetCard
from loopback_teacher import Asked, LoopbackTeacher, Reply, code_of, right
from PIL import Image

from benchmarks.fake_sources import make_sources
from dataset_scripts.manifest import verify
from dataset_scripts.pipeline import build
from dataset_scripts.publication import lay_out, read_stats
from dataset_scripts.tasks import TASKS
from evaluation.rationales import __main__ as rationales
from evaluation.rationales import dataset as rationale_dataset
from modeling_emollm.emoprompt import guide_messages


ROOT = Path(__file__).parents[2]


def test_rationales_are_in_the_training_rows_and_nothing_else_changes(finished, drawn_dataset, tmp_path):
    output, _ = finished
    assert verify(output) == []
    for task in ("emotion_recognition", "humor_detection"):
        before, after = rows_of(drawn_dataset, task), rows_of(output, task)
        for old, new in zip(before, after, strict=True):
            assert old | {"rationale": None} == new | {"rationale": None} and old["rationale"] is None
            assert new["rationale"] == (
                f"1. Cues: a {code_of(new['answer'])} is seen.\n2. All of it is {new['answer']}."
            )
    assert {row["setting"] for row in rows_of(output, "emotion_recognition")} == {"closed", "open"}
    loaded = load_dataset(str(output), "emotion_recognition", cache_dir=str(tmp_path))
    assert loaded["train"].features == load_dataset(str(drawn_dataset), "emotion_recognition")["train"].features
    assert all(loaded["train"]["rationale"]) and not any(loaded["test"]["rationale"])
    copied = [path for path in content(drawn_dataset) if "/" in path and "/train-" not in path]
    assert len(copied) == 11 and all(
        (output / path).read_bytes() == (drawn_dataset / path).read_bytes() for path in copied
    )
    before, after = (
        DatasetInfosDict.from_dataset_card_data(DatasetCard.load(folder / "README.md").data)["hate_detection"]
        for folder in (drawn_dataset, output)
    )
    words = sum(len(row["rationale"]) for row in rows_of(output, "hate_detection"))
    assert after.splits["train"].num_bytes - before.splits["train"].num_bytes == pytest.approx(words, abs=200)
    assert after.dataset_size == sum(split.num_bytes for split in after.splits.values())
    assert after.download_size == sum(path.stat().st_size for path in (output / "hate_detection").iterdir())
    # as large as the build's, so that pictures of two rows are stored once
    shard = "emotion_recognition/train-00000-of-00001.parquet"
    assert (output / shard).stat().st_size < (drawn_dataset / shard).stat().st_size + 4000


def test_the_teacher_is_shown_the_truth_and_then_the_notes_alone(finished, drawn_dataset):
    _, asked = finished
    pictures = Counter()
    for row in [row for task in TASKS for row in rows_of(drawn_dataset, task) if row["setting"] == "closed"]:
        question = {"role": "user", "content": row["instruction"]}
        guided = guide_messages([question], emotion_task=row["task"], emotion_mode="reason")[0]["content"]
        text = (
            f"{guided}\n\nThe right answer is known: {row['answer']}. Write the steps that lead to it from what can "
            "be seen and read. Do not mention that it was told, and do not name it, or a word for it, before the last "
            "line."
        )
        pictures[text, tuple(image["bytes"] for image in row["images"])] += 1
    first = [one for one in asked if one.number == 1]
    assert Counter((one.text, tuple(one.images)) for one in first) == pictures and len(first) == 80
    assert {kind for one in first for kind in one.kinds} == {"data:image/jpeg"}
    assert all(one.body["temperature"] == 0 and one.body["model"] == "wise" for one in asked)
    second = [one for one in asked if one.number == 2]
    assert not any(one.images for one in second)
    assert (
        f"Notes of somebody who saw a picture:\n1. Cues: a {code_of('anger')} is seen.\n\nHow does the person in "
        "question feel? Judge by the notes alone. Write one line, 'Answer: ' and one of: happiness, sadness, anger, "
        "fear, or unclear."
    ) in [one.text for one in second]
    assert any("saw a clip:" in one.text for one in second)
    # several samples have the same notes, which are judged once
    assert len({one.text for one in second}) == len(second)


def test_everything_is_reported(finished, capsys, drawn_dataset, tmp_path):
    output, asked = finished
    facts = json.loads((output / "rationales.json").read_text())
    assert facts["teacher"] == "wise" and facts["input_tokens"] == 100 * len(asked)
    assert facts["configs"]["hate_detection"] == {"drawn": {"asked": 16, "kept": 16, "dropped": {}}}
    assert json.loads((output / "stats.json").read_text())["rationales"] == facts
    card = (output / "README.md").read_text()
    assert "## Rationales" in card and "`wise`" in card and "| hate_detection | drawn | 16 | 16 | – |" in card
    assert "## Rationales" not in (drawn_dataset / "README.md").read_text()
    (tmp_path / "stage").mkdir()
    stats = read_stats(output)
    lay_out(output, stats, tmp_path / "stage", "user/name", media=False, gated=False)
    assert verify(tmp_path / "stage") == [] and "`wise`" in (tmp_path / "stage" / "README.md").read_text()
    loaded = load_dataset(str(tmp_path / "stage"), "hate_detection", split="train", cache_dir=str(tmp_path / "cache"))
    assert all(loaded["rationale"])


def test_a_killed_and_an_interrupted_run_are_resumed(finished, drawn_dataset, tmp_path, monkeypatch, capsys):
    output, path = tmp_path / finished[0].name, tmp_path / f"{finished[0].name}.responses.jsonl"

    def script(asked: Asked) -> Reply:
        reply = right(asked)
        reply.delay = 0.05
        return reply

    with LoopbackTeacher(script) as teacher:
        command = [sys.executable, "-m", "evaluation.rationales"]
        command += arguments(drawn_dataset, teacher, output, "--concurrency", 2)
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        deadline = time.monotonic() + 120
        while not (path.exists() and path.read_bytes().count(b"\n") > 5):
            assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
            time.sleep(0.01)
        process.kill()
        process.communicate()
    killed = path.read_bytes()
    lines = killed.count(b"\n")
    assert not output.exists() and 5 < lines < 80 and killed.endswith(b"\n")
    path.write_bytes(killed + b'{"key": "half')

    def interrupt(asked: Asked) -> Reply:
        if asked.place == 20:
            os.kill(os.getpid(), signal.SIGINT)
        reply = right(asked)
        reply.delay = 0.5 if asked.place >= 19 else 0
        return reply

    # started in a shell's background, tests inherit that Ctrl-C is ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with LoopbackTeacher(interrupt) as teacher:
            assert stopped(drawn_dataset, teacher, output, "--concurrency", 2) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    interrupted = path.read_bytes()
    assert interrupted.startswith(killed) and interrupted.count(b"\n") - lines == len(teacher.asked) <= 21
    lines = interrupted.count(b"\n")
    assert f"interrupted\n{lines} replies are kept in {path}; the same command again" in capsys.readouterr().err
    left = tmp_path / f".{output.name}.rationales-writing"
    (left / "new").mkdir(parents=True)
    (left / "new" / "left").write_text("by a process that was killed while writing")
    mine = {tmp_path / f"{output.name}.{word}" for word in ("replaced", "writing")}
    for folder in mine:
        folder.mkdir()
    with LoopbackTeacher() as teacher:
        write(drawn_dataset, teacher, output)
    assert len(teacher.asked) == len(finished[1]) - lines
    assert content(output) == content(finished[0])
    locks = {path.with_name(f"{path.name}.lock"), path.with_name(f".{output.name}.rationales.lock")}
    assert set(tmp_path.iterdir()) == {output, path} | locks | mine


def test_writing_can_be_interrupted(finished, drawn_dataset, tmp_path, monkeypatch, capsys):
    output = tmp_path / finished[0].name
    shutil.copytree(finished[0], output)
    shutil.copy(f"{finished[0]}.responses.jsonl", f"{output}.responses.jsonl")
    monkeypatch.setattr(rationale_dataset, "render_card", lambda *_: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with LoopbackTeacher() as teacher, pytest.raises(SystemExit) as stop:
            write(drawn_dataset, teacher, output)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stop.value.code == 130 and "interrupted" in capsys.readouterr().err
    assert content(output) == content(finished[0])
    assert not [path for path in tmp_path.iterdir() if path.name.endswith("writing")]


def test_the_cost_is_told_first(drawn_dataset, tmp_path, monkeypatch, capsys):
    rows = [row for row in rows_of(drawn_dataset, "emotion_recognition") if row["setting"] == "closed"]
    output = tmp_path / "reasons"
    options = (*EMOTION, "--price", 1000, 2000)
    with LoopbackTeacher() as teacher:
        assert not rationales.main(
            rationales.make_parser().parse_args(arguments(drawn_dataset, teacher, output, *options, "--estimate"))
        )
        assert not teacher.asked and not output.exists()
        shown = capsys.readouterr().out
        assert "16 samples, 0 of them done; at most 32 requests to wise" in shown
        told, out, cost = re.search(r"about ([\d,]+) tokens in and ([\d,]+) out, \$([\d.]+)", shown).groups()
        told, out = (int(number.replace(",", "")) for number in (told, out))
        write(drawn_dataset, teacher, output, *options)
        texts = sum(len(asked.text) / 4 for asked in teacher.asked if asked.number == 1)
        sizes = [Image.open(io.BytesIO(image["bytes"])).size for row in rows for image in row["images"]]
        pictures = sum(width * height / 750 for width, height in sizes)
        (length,) = {len(asked.text) for asked in teacher.asked if asked.number == 2}
        notes = len("1. Cues: a sign01234567 is seen.")
        assert told == round(texts + pictures + 16 * ((length - notes) / 4 + 120))
        assert out == 16 * 128 and float(cost) == pytest.approx((told + 2 * out) / 1000, abs=0.01)
        paid = len(teacher.asked)
        assert (
            f"the replies report {100 * paid:,} tokens in and {10 * paid:,} out, ${0.12 * paid:,.2f}"
            in capsys.readouterr().out
        )
        lines = Path(f"{output}.responses.jsonl").read_text().splitlines(keepends=True)
        half = [line for line in lines if '"number": 1' in line][:6]
        Path(f"{output}.responses.jsonl").write_text("".join(half))
        rationales.main(
            rationales.make_parser().parse_args(arguments(drawn_dataset, teacher, output, *options, "--estimate"))
        )
        assert "16 samples, 0 of them done; at most 26 requests" in capsys.readouterr().out
        monkeypatch.setattr(rationales, "ESTIMATED", 4)  # of samples that are much alike
        Path(f"{output}.responses.jsonl").unlink()
        rationales.main(
            rationales.make_parser().parse_args(arguments(drawn_dataset, teacher, output, *options, "--estimate"))
        )
        some = re.search(r"about ([\d,]+) tokens in and 2,048 out, .*; what it thinks", capsys.readouterr().out)[1]
        assert int(some.replace(",", "")) == pytest.approx(told, rel=0.1)


def test_a_full_disk_is_said_with_what_is_kept(drawn_dataset, tmp_path, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rationale_dataset, "write_shard", full)
    with LoopbackTeacher() as teacher:
        assert stopped(drawn_dataset, teacher, tmp_path / "out", *EMOTION) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error and f"{len(teacher.asked)} replies are kept in" in error


def test_bad_input_is_refused_before_anything_is_asked(finished, drawn_dataset, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.txt").write_text("keep me")
    (tmp_path / "notes.txt").write_text("my notes\nwithout an end")
    (tmp_path / "line.txt").write_text("my notes without an end")
    shutil.copytree(drawn_dataset, tmp_path / "damaged")
    (tmp_path / "damaged" / "stats.json").write_text("{}")
    output = tmp_path / "out"
    with LoopbackTeacher(models=("wise", "fool")) as teacher:
        for dataset, folder, options, message in (
            (drawn_dataset, tmp_path / "mine", (), "mine exists, and was not made by this command"),
            (drawn_dataset, output, (), r"has 2 models \(wise, fool\); name one by --model"),
            (drawn_dataset, drawn_dataset / "out", (), "/out is inside of .*, which would change it"),
            (finished[0], output, (), "has rationales, by wise: give the build without them"),
            (tmp_path / "mine", output, (), "has no manifest.json: it is no finished build"),
            (
                tmp_path / "damaged",
                output,
                (),
                "damaged is not what was built: stats.json: .*Build or download it again",
            ),
            (
                drawn_dataset,
                output,
                ("--tasks", "mood"),
                "no training rows of mood; it has some of emotion_recognition",
            ),
            (
                drawn_dataset,
                output,
                ("--responses", tmp_path / "notes.txt"),
                "notes.txt, line 1: no reply of a teacher",
            ),
            (
                drawn_dataset,
                output,
                ("--responses", tmp_path / "line.txt"),
                "line.txt, line 1: no reply of a teacher",
            ),
        ):
            with pytest.raises(ValueError, match=message):
                write(dataset, teacher, folder, *options)
        for lock in (f"{output}.responses.jsonl.lock", output.with_name(".out.rationales.lock")):
            with FileLock(lock), pytest.raises(ValueError, match=f"Another command writes .*out or .*{lock}"):
                write(drawn_dataset, teacher, output, "--model", "wise")
        with pytest.raises(ValueError, match="--model wise is for an endpoint, but --teacher a/model is no http"):
            write(drawn_dataset, "a/model", output, "--model", "wise")
        assert not teacher.asked
    assert stopped(drawn_dataset, teacher, output) == 1  # it is gone
    assert (tmp_path / "notes.txt").read_text() == "my notes\nwithout an end"
    assert (tmp_path / "line.txt").read_text() == "my notes without an end"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["mine.txt"]
    for option in ("--concurrency", "--limit", "--requests-per-minute"):
        with pytest.raises(SystemExit):
            write(drawn_dataset, teacher, output, option, "0")


def test_clips_without_frames_are_refused(tmp_path):
    make_sources(tmp_path, 0.0, ("mintrec",))
    build({"mintrec": str(tmp_path / "mintrec")}, tmp_path / "build", video="clip")
    with LoopbackTeacher() as teacher:
        with pytest.raises(
            ValueError, match="mintrec/train/.*, and 26 others, are clips without frames: .*--video frames"
        ):
            write(tmp_path / "build", teacher, tmp_path / "out")
    assert not teacher.asked
