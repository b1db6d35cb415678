"""EmoBench from the command line to `load_dataset`: what is built, what is left out, and what is refused."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Image as ImageFeature
from datasets import List, load_dataset
from PIL import Image

from dataset_scripts import build_emobench, ferplus
from dataset_scripts.builder import DUPLICATE, FEATURES, EmoBench
from dataset_scripts.media import MediaError, pixel_digest, read_media
from dataset_scripts.sample import EmoSample
from dataset_scripts.tasks import TASKS, get_task, render_instruction, render_messages


SIZES = {"train": 16, "validation": 128, "test": 240}


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """EmoBench-Drawn, built once by the command; its folder and the finished process."""
    folder = tmp_path_factory.mktemp("drawn") / "build"
    arguments = ["--source", "drawn", "--drawn-size", "16", "--output", str(folder)]
    run = subprocess.run(
        [sys.executable, "-m", "dataset_scripts.build_emobench", *arguments], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return folder, run


@pytest.fixture(scope="module")
def drawn(command):
    return command[0]


@pytest.fixture
def cli(monkeypatch, tmp_path):
    """Run the command in this process with `--output` in an empty folder; give its error, or the folder it wrote."""

    def run(*arguments):
        folder = tmp_path / "home" / "build"
        monkeypatch.setattr(sys, "argv", ["build_emobench", "--output", str(folder), *arguments])
        try:
            build_emobench.main()
        except SystemExit as stop:
            assert not folder.exists() and not list(folder.parent.glob(".*")), "a refused build must leave nothing"
            return str(stop.code)
        return folder

    return run


def load(folder, config, tmp_path_factory, **kwargs):
    return load_dataset(str(folder), config, cache_dir=str(tmp_path_factory.mktemp("cache")), **kwargs)


def png(colour=(10, 200, 30), size=(6, 5)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


# building and loading


def test_command_says_what_it_wrote(command):
    folder, run = command
    assert "sarcasm_detection     drawn    validation 128 of 128 kept" in run.stdout
    assert "drawn humor_detection test: 100%" in run.stderr or "drawn humor_detection test:" in run.stderr
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    shards = [f"{task}/{split}-00000-of-00001.parquet" for task in TASKS for split in SIZES]
    assert files == sorted(["README.md", "stats.json", *shards])
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
        assert row["source"] == "drawn" and row["task"] == config
        assert row["answer"] in row["choices"] == list(TASKS[config].label_sets["drawn"])
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


def test_two_builds_are_byte_identical(drawn, tmp_path):
    build_emobench.build({"drawn": None}, tmp_path / "again", drawn_size=16)
    files = [path.relative_to(drawn) for path in sorted(drawn.rglob("*")) if path.is_file()]
    assert files
    for file in files:
        assert (drawn / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file


def test_seed_and_tasks_choose_what_is_built(cli, drawn):
    folder = cli("--source", "drawn", "--drawn-size", "16", "--tasks", "sarcasm_detection", "--seed", "5")
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["sarcasm_detection"]
    shard = "sarcasm_detection/train-00000-of-00001.parquet"
    assert (folder / shard).read_bytes() != (drawn / shard).read_bytes()


def test_card_tells_licence_design_and_counts_but_no_path(drawn):
    card = (drawn / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "our own research design" in card and "what onlookers" in card
    assert "| hate_detection | 1.0.0 | drawn | train | 16 | 16 | no 8, yes 8 | - |" in card
    for path in drawn.rglob("*"):
        if path.is_file():
            assert str(drawn.parent).encode() not in path.read_bytes()
    stats = json.loads((drawn / "stats.json").read_text())
    assert stats["intent_understanding"]["drawn"]["test"]["labels"] == dict.fromkeys(
        ("eat", "sleep", "play", "travel"), 60
    )


# what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "emoset"], "unknown source 'emoset': choose from drawn, ferplus, harmeme"),
        (["--source", "drawn=somewhere"], "drawn is computed, it takes no path (got 'somewhere')"),
        (["--source", "drawn", "--source", "drawn"], "source drawn is given twice"),
        (["--source", "ferplus"], "ferplus needs a path: write --source ferplus=PATH. FER+ is made from Kaggle's"),
        (["--source", "ferplus="], "ferplus needs a path"),
        (
            ["--source", "harmeme=not/there"],
            "there is no folder not/there. HarMeme is in https://github.com/di-dimitrov",
        ),
        (["--source", "harmeme=."], "nothing of HarMeme in .. HarMeme is in https://github.com/di-dimitrov/mmf"),
        (["--source", "ferplus=."], "nothing of FER+ in .. FER+ is made from Kaggle's fer2013.csv"),
        (["--source", "drawn", "--tasks", "mood"], "unknown task 'mood': choose one of emotion_recognition"),
        (
            ["--source", "drawn", "--drawn-size", "50"],
            "50 train samples a task are not balanced: give a multiple of 16",
        ),
    ],
)
def test_bad_arguments_are_refused(cli, arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert message in cli(*arguments)


def test_command_exits_with_an_error(tmp_path):
    arguments = ["--source", "nope", "--output", str(tmp_path / "build")]
    run = subprocess.run(
        [sys.executable, "-m", "dataset_scripts.build_emobench", *arguments], capture_output=True, text=True
    )
    assert run.returncode == 1
    assert run.stderr == "build_emobench: unknown source 'nope': choose from drawn, ferplus, harmeme\n"


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ValueError, match=f"{tmp_path} exists and is not empty"):
        build_emobench.build({"drawn": None}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_config_without_source_is_not_built(cli, tmp_path):
    root = write_harmeme(tmp_path / "harmeme", [("a", "a.png", ["not harmful"])])
    folder = cli("--source", f"harmeme={root}")
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["hate_detection"]
    assert "none of the tasks intent_understanding has a source among harmeme" in pytest.raises(
        ValueError, build_emobench.build, {"harmeme": str(root)}, tmp_path / "other", ["intent_understanding"]
    ).value.args[0]  # fmt: skip


def test_bad_config_or_source_of_the_builder_is_refused(tmp_path):
    builder = EmoBench(config_name="hate_detection", sources={"emoset": "x"}, cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="unknown source 'emoset': choose from drawn, ferplus, harmeme"):
        builder.download_and_prepare(str(tmp_path / "build"), file_format="parquet")
    with pytest.raises(ValueError, match="'mood' not found.*humor_detection"):
        EmoBench(config_name="mood", sources={"drawn": None}, cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="unknown task 'mood': choose one of .*humor_detection"):
        get_task("mood")


# samples and instructions


def sample(**changes):
    fields = {"source": "drawn", "split": "train", "record": "1", "task": "intent_understanding", "images": (b"",)}
    return EmoSample(**{**fields, "answer": "eat", "licence": "", **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"answer": "dance"},
            "drawn/train/1: label 'dance' is outside the label set of drawn: eat, sleep, play, travel",
        ),
        ({"task": "mood"}, "unknown task 'mood'"),
        ({"source": "ferplus"}, "intent_understanding has no source 'ferplus', only drawn"),
        ({"images": ()}, "at least one image"),
        ({"label_distribution": (0.5, 0.5)}, "must be 4 shares that sum to 1"),
        ({"label_distribution": (0.5, 0.5, 0.5, 0.5)}, "must be 4 shares that sum to 1"),
    ],
)
def test_bad_samples_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        sample(**changes)


OPTIONS = {
    "emotion_recognition": " Answer with one of: happiness, sadness, anger, fear.",
    "intent_understanding": " Answer with one of: eat, sleep, play, travel.",
    "hate_detection": " Answer with one of: no, yes.",
    "humor_detection": " Answer with one of: no, yes.",
    "sarcasm_detection": " Answer with one of: no, yes.",
}
GOLDEN = {
    ("emotion_recognition", "closed"): [
        "How does the person in red feel?",
        "What is the emotion of the person in red?",
        "What is the person in red feeling?",
        "Which emotion does the person in red show?",
    ],
    ("emotion_recognition", "open"): [
        "How does the person in red feel? Answer with one word.",
        "In one word, what is the person in red feeling?",
        "Name the emotion of the person in red in one word.",
        "Which emotion does the person in red show? Answer with one word.",
    ],
    ("intent_understanding", "closed"): [
        "What does the person in red want to do?",
        "What is the intent of the person in red?",
        "What is the person in red thinking of doing?",
        "Which wish does the person in red have?",
    ],
    ("hate_detection", "closed"): [
        'Text on the meme: "Hm."\nDoes this meme attack a person or a group?',
        'Text on the meme: "Hm."\nDoes this meme harm somebody?',
        'Text on the meme: "Hm."\nIs this meme hateful or harmful?',
        'Text on the meme: "Hm."\nTaken together, are picture and text hateful or harmful?',
    ],
    ("humor_detection", "closed"): [
        'Words in the clip: "Hm."\nDoes this clip end with a joke?',
        'Words in the clip: "Hm."\nIs this clip funny?',
        'Words in the clip: "Hm."\nIs this clip meant to be humorous?',
        'Words in the clip: "Hm."\nWould people laugh at the end of this clip?',
    ],
    ("sarcasm_detection", "closed"): [
        'Caption: "Hm."\nDoes the caption mean the opposite of what it says?',
        'Caption: "Hm."\nGiven the picture, is the caption sarcasm?',
        'Caption: "Hm."\nIs the caption sarcastic?',
        'Caption: "Hm."\nIs the writer of the caption being sarcastic?',
    ],
}


@pytest.mark.parametrize(("task", "setting"), GOLDEN)
def test_golden_instructions(task, setting):
    """Every paraphrase, word for word; bump the task's version when you change one."""
    four = task in ("emotion_recognition", "intent_understanding")
    fields = {"subject": "the person in red"} if four else {"context": "Hm."}
    answer = TASKS[task].label_sets["drawn"][0]
    seen = {
        render_instruction(sample(task=task, answer=answer, record=str(number), **fields), setting)
        for number in range(100)
    }
    assert sorted(seen) == [text + (OPTIONS[task] if setting == "closed" else "") for text in GOLDEN[task, setting]]


def test_no_context_no_quotation_and_one_image_entry_a_frame():
    clip = sample(task="humor_detection", answer="no", images=(b"",) * 3)
    assert '"' not in render_instruction(clip, "closed")
    assert [part["type"] for part in render_messages(clip, "closed")[0]["content"]] == ["image"] * 3 + ["text"]


def test_task_specs_are_whole():
    assert list(TASKS) == [
        "emotion_recognition",
        "intent_understanding",
        "hate_detection",
        "humor_detection",
        "sarcasm_detection",
    ]
    for task in TASKS.values():
        assert task.version == "1.0.0" and task.metric == "macro_f1" and "drawn" in task.sources
        if task.positive:
            assert all(task.positive in labels and len(labels) == 2 for labels in task.label_sets.values())


# media


def jpeg():
    buffer = io.BytesIO()
    Image.linear_gradient("L").save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "damage",
    [b"", b"not a picture", png()[:40], png()[:-30], png()[:30] + b"\7" + png()[31:], jpeg()[: len(jpeg()) // 2]],
    ids=["empty", "text", "png header", "png cut", "png checksum", "jpeg cut"],
)
def test_broken_pictures_are_found(damage):
    with pytest.raises(MediaError, match="picture broken or truncated"):
        pixel_digest(damage)


@pytest.mark.parametrize("limit", [20, 5])
def test_decompression_bombs_are_found(limit, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # Pillow warns above it and raises above twice as much
    with pytest.raises(MediaError, match="picture too large to decode"):
        pixel_digest(png())


def test_digest_is_of_pixels_not_of_files():
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png())).save(buffer, "BMP")
    assert pixel_digest(png()) == pixel_digest(buffer.getvalue())
    assert len({pixel_digest(png(size=size)) for size in ((6, 5), (5, 6), (6, 6))}) == 3


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "/etc/hostname", "..\\secret.png"])
def test_paths_out_of_the_source_are_refused(name, tmp_path):
    (tmp_path / "secret.png").write_bytes(png())
    (tmp_path / "source").mkdir()
    with pytest.raises(MediaError, match="path outside the source folder"):
        read_media(tmp_path / "source", name)


# FER+ and HarMeme in their authors' layout, made up here


def write_ferplus(root, split_rows):
    """`split_rows`: folder → rows of name, votes, file content or `None` for no file."""
    for folder in ("FER2013Train", "FER2013Valid", "FER2013Test"):
        (root / folder).mkdir(parents=True)
        with (root / folder / "label.csv").open("w", newline="") as file:
            for name, votes, content in split_rows.get(folder, ()):
                csv.writer(file).writerow([name, "(0, 0, 48, 48)", *votes])
                if content is not None:
                    (root / folder / name).write_bytes(content)
    return root


def write_harmeme(root, rows):
    """`rows`: id, image name, labels; every image named plainly is written."""
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    lines = [{"id": i, "image": name, "labels": labels, "text": f" text of {i}\n"} for i, name, labels in rows]
    (root / "annotations" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for number, (_, name, _) in enumerate(rows):
        if "/" not in name:
            (root / "images" / name).write_bytes(png((number, 0, 0)))
    return root


HAPPY = [0, 7, 1, 0, 0, 0, 1, 0, 1, 0]


def test_ferplus_original_layout_counts_every_record(tmp_path, tmp_path_factory):
    same = png((1, 2, 3))
    rows = [
        ("fer0000001.png", HAPPY, png((1, 1, 1))),
        ("fer0000002.png", [5, 5, 0, 0, 0, 0, 0, 0, 0, 0], png()),
        ("fer0000003.png", [4, 3, 3, 0, 0, 0, 0, 0, 0, 0], png()),
        ("fer0000004.png", [0, 0, 0, 0, 0, 0, 0, 0, 8, 2], png()),
        ("fer0000005.png", [0, 0, 0, 0, 0, 0, 0, 0, 0, 10], png()),
        ("fer0000006.png", HAPPY, b"no picture"),
        ("fer0000007.png", HAPPY, png()[:-30]),
        ("fer0000008.png", HAPPY, None),
        ("../../fer0000009.png", HAPPY, None),
        ("fer0000010.png", HAPPY, same),
        ("fer0000011.png", HAPPY, same),
    ]
    held_out = [("fer0000020.png", [0, 0, 0, 0, 0, 0, 0, 10, 0, 0], same)]
    root = write_ferplus(
        tmp_path / "fer",
        {"FER2013Train": rows, "FER2013Valid": [("fer0000030.png", HAPPY, same)], "FER2013Test": held_out},
    )
    stats = build_emobench.build({"ferplus": str(root)}, tmp_path / "build")["emotion_recognition"]["ferplus"]
    assert stats["train"]["read"] == 11 and stats["train"]["kept"] == 1
    assert stats["train"]["skipped"] == {
        DUPLICATE: 2,
        "fewer than 5 of 10 votes for one label": 1,
        "most votes for not a face": 1,
        "most votes for unknown": 1,
        "path outside the source folder": 1,
        "picture broken or truncated": 2,
        "picture missing": 1,
        "tie": 1,
    }
    assert stats["validation"]["skipped"] == {DUPLICATE: 1} and stats["test"]["kept"] == 1
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "build").rglob("*.parquet")) == ["test", "train"]
    assert "1 tie" in (tmp_path / "build" / "README.md").read_text()
    dataset = load(tmp_path / "build", "emotion_recognition", tmp_path_factory)
    assert list(dataset) == ["train", "test"], "a split of which nothing is left is no split"
    closed, open_ = dataset["train"]
    assert (closed["id"], open_["id"]) == ("ferplus/train/fer0000001#closed", "ferplus/train/fer0000001#open")
    assert closed["choices"] == open_["choices"] == list(ferplus.EMOTIONS)
    assert closed["label_distribution"] == pytest.approx([0, 7 / 9, 1 / 9, 0, 0, 0, 1 / 9, 0])


def test_a_source_without_a_usable_record_is_refused(cli, tmp_path):
    root = write_ferplus(tmp_path / "fer", {"FER2013Train": [("fer0000001.png", HAPPY, b"no picture")]})
    error = cli("--source", f"ferplus={root}")
    assert "emotion_recognition: no record of ferplus could be used: 1 picture broken or truncated" in error


@pytest.mark.parametrize("votes", [HAPPY[:-1], [*HAPPY[:-1], "many"]])
def test_ferplus_votes_that_are_no_votes_are_refused(cli, votes, tmp_path):
    root = write_ferplus(tmp_path / "fer", {"FER2013Train": [("fer0000001.png", votes, png())]})
    assert "FER2013Train/fer0000001.png" in (error := cli("--source", f"ferplus={root}"))
    assert "needs ten whole numbers of votes" in error


def test_ferplus_table_without_votes_is_refused(cli, tmp_path):
    (tmp_path / "labels.csv").write_text("split,path,neutral\n")
    assert "labels.csv has no column happiness, surprise" in cli("--source", f"ferplus={tmp_path}")


def test_harmeme_original_layout(tmp_path, tmp_path_factory):
    rows = [
        ("a", "a.png", ["not harmful"]),
        ("b", "b.png", ["somewhat harmful", "community"]),
        ("c", "c.png", ["very harmful", "society"]),
        ("d", "../d.png", ["not harmful"]),
    ]
    root = write_harmeme(tmp_path / "harmeme", rows)
    stats = build_emobench.build({"harmeme": str(root)}, tmp_path / "build")["hate_detection"]["harmeme"]
    assert stats == {
        "train": {
            "read": 4,
            "kept": 3,
            "skipped": {"path outside the source folder": 1},
            "labels": {"no": 1, "yes": 2},
        }
    }
    dataset = load(tmp_path / "build", "hate_detection", tmp_path_factory, split="train")
    assert dataset["answer"][:] == ["no", "yes", "yes"]
    assert dataset["context"][0] == "text of a"
    assert dataset["attributes"][:] == [
        {"level": "not harmful", "target": None},
        {"level": "somewhat harmful", "target": "community"},
        {"level": "very harmful", "target": "society"},
    ]
    stored = dataset.cast_column("images", List(ImageFeature(decode=False)))
    assert [row["images"][0]["bytes"] for row in stored] == [
        (root / "images" / name).read_bytes() for _, name, _ in rows[:3]
    ]


def test_harmeme_label_outside_the_set_is_refused(cli, tmp_path):
    root = write_harmeme(tmp_path / "harmeme", [("a", "a.png", ["not harmful"]), ("b", "b.png", ["quite harmful"])])
    error = cli("--source", f"harmeme={root}")
    assert "line 2 (b): label 'quite harmful' is outside the label set: not harmful, somewhat harmful, very" in error


@pytest.mark.parametrize(
    ("line", "message"), [("{", "line 1 is no JSON"), ('{"id": "a", "image": "a.png"}', "line 1 has no labels, text")]
)
def test_harmeme_lines_that_are_no_records_are_refused(cli, line, message, tmp_path):
    root = write_harmeme(tmp_path / "harmeme", [])
    (root / "annotations" / "train.jsonl").write_text(line + "\n")
    assert message in cli("--source", f"harmeme={root}")


# the real FER+ and HarMeme


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    """A build of both, its stats, and the folder with the sources."""
    folder = tmp_path_factory.mktemp("real") / "build"
    sources = {"ferplus": str(shared_data / "ferplus_faces"), "harmeme": str(shared_data / "harmeme")}
    return folder, build_emobench.build(sources, folder), shared_data


def test_real_ferplus_is_read_whole_but_for_duplicates(real):
    _, stats, shared_data = real
    stats = stats["emotion_recognition"]["ferplus"]
    assert {split: count["read"] for split, count in stats.items()} == {
        "train": 5732,
        "validation": 1097,
        "test": 1106,
    }
    assert all(set(count["skipped"]) <= {DUPLICATE} for count in stats.values())
    # the list of pixel-identical groups that comes with the copy was made by another program
    groups = json.loads((shared_data / "ferplus_faces" / "pixel_duplicates.json").read_text())
    skipped = {"train": 0, "val": 0, "test": 0}
    for group in groups["duplicates_within_sample"]:
        found = [name.split("/")[0] for name in group]
        if {"val", "test"} & set(found):
            skipped["train"] += found.count("train")
        if "test" in found:
            skipped["val"] += found.count("val")
    assert sum(skipped.values()) > 100
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        assert stats[split]["skipped"].get(DUPLICATE, 0) == skipped[name]
    assert stats["test"]["labels"] == {
        "neutral": 200, "happiness": 200, "surprise": 200, "sadness": 200,
        "anger": 200, "disgust": 15, "fear": 78, "contempt": 13,
    }  # fmt: skip


def test_vote_rule_gives_the_label_of_every_row_of_the_copy(shared_data):
    with (shared_data / "ferplus_faces" / "labels.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 7935
    for row in table:
        assert ferplus.decide([int(row[column]) for column in ferplus.COLUMNS]) == (row["label"], None)


def test_vote_tables_of_the_original_layout_are_read_whole(shared_data, tmp_path):
    for folder in ferplus.FOLDERS.values():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "label.csv").symlink_to(shared_data / "ferplus_faces" / f"label_{folder}.csv")
    assert ferplus.splits(tmp_path) == tuple(SIZES)
    # the known counts of the full set come from the newer fer2013new.csv, so these are near, not equal
    for split, number, full in (("train", 28558, 25018), ("validation", 3579, 3186), ("test", 3573, 3134)):
        table = ferplus.rows(tmp_path, split)
        kept = [ferplus.decide([int(cell) for cell in cells])[0] for _, cells in table]
        assert len(table) == number
        assert sum(label is not None for label in kept) == pytest.approx(full, rel=0.005)


def test_real_harmeme_counts(real):
    _, stats, _ = real
    stats = stats["hate_detection"]["harmeme"]
    assert list(stats) == ["train", "validation"]
    assert stats["train"]["read"] == 3013 and set(stats["train"]["skipped"]) <= {DUPLICATE}
    assert stats["validation"] == {"read": 177, "kept": 177, "skipped": {}, "labels": {"no": 116, "yes": 61}}
    assert stats["train"]["kept"] == sum(stats["train"]["labels"].values())


def test_real_pictures_are_embedded_as_they_are(real, tmp_path_factory):
    folder, stats, shared_data = real
    assert set(stats) == {"emotion_recognition", "hate_detection"}
    faces = load(folder, "emotion_recognition", tmp_path_factory, split="test")
    assert len(faces) == 2 * 1106
    row = faces.cast_column("images", List(ImageFeature(decode=False)))[0]
    name = row["id"].split("/")[-1].split("#")[0] + ".png"
    source = shared_data / "ferplus_faces" / "test" / row["answer"] / name
    assert row["images"][0]["bytes"] == source.read_bytes()
    assert faces[0]["images"][0].size == (48, 48)
    for row in faces.select(range(50)):
        assert max(row["label_distribution"]) == row["label_distribution"][row["choices"].index(row["answer"])]
    card = Path(folder / "README.md").read_text()
    assert "license: other" in card and "do not redistribute" in card.replace("do not\n", "do not ")
