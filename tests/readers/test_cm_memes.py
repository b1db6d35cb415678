"""CM_MEMES: every real row, and both layouts made up."""

import csv
from collections import Counter

import pytest
from datasets import load_dataset
from PIL import Image

from dataset_scripts.pipeline import build
from dataset_scripts.readers import cm_memes
from dataset_scripts.sample import EmoSample, Skipped


HEADER = ("Name", "Text", "Ground truth reality", "Level1", "Level2", "Valence", "Sarcasm", "Joy")
TASKS = ("hate_detection", "sarcasm_detection")
TRAIN, VALIDATION, TEST = "meme_0", "meme_7", "meme_8"  # where the hash of the name puts them


def row(name, off="non-off", sarcasm="non-sarcastic", text=" kya text hai, yaar "):
    return [name, text, "nothing", off, "non-off" if off == "non-off" else "implicit", "neutral", sarcasm, "0"]


def write(root, rows, file="sample_data.csv"):
    with (root / file).open("w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([HEADER, *rows])
    return root


def test_every_real_row_is_read(shared_data):
    root = shared_data / "cm_memes"
    labels = {  # by split: no, yes of each task
        "train": {"hate_detection": (393, 371), "sarcasm_detection": (267, 495)},
        "validation": {"hate_detection": (56, 63), "sarcasm_detection": (41, 78)},
        "test": {"hate_detection": (116, 95), "sarcasm_detection": (82, 129)},
    }
    assert cm_memes.splits(root) == tuple(labels) == tuple(cm_memes.SOURCE.published)
    names = []
    for split, counts in labels.items():
        records = list(cm_memes.read(root, split))
        skipped = [record for record in records if isinstance(record, Skipped)]
        assert [(record.reason, record.task) for record in skipped] == [("no label", TASKS[1])] * (
            2 if split == "train" else 0
        )
        samples = [record for record in records if isinstance(record, EmoSample)]
        for task, (no, yes) in counts.items():
            assert Counter(sample.answer for sample in samples if sample.task == task) == {"no": no, "yes": yes}
        memes = {record.record for record in records}
        assert len(records) == 2 * len(memes) == 2 * cm_memes.SOURCE.published[split]
        names += memes
        for sample in samples:
            assert (root / sample.images[0]).is_file() and sample.context == sample.context.strip() != ""
            assert sample.attributes["level"] in ("non-off", "implicit", "explicit")
            if sample.task == "hate_detection":
                assert (sample.attributes["level"] == "non-off") == (sample.answer == "no")
    assert len(names) == len(set(names)) == 1094


@pytest.mark.parametrize(
    ("file", "folder", "ending"), [("sample_data.csv", "LREC_COLING_meme", ".png"), ("labels.csv", "images", ".jpg")]
)
def test_both_layouts(file, folder, ending, tmp_path):
    rows = [row(TRAIN + ending, "off", "non-sarcastic"), row(TEST + ending, "non-off", "sarcasm")]
    root = write(tmp_path, rows, file)
    hate, sarcasm = cm_memes.read(root, "train")
    assert hate == EmoSample(
        source="cm_memes",
        split="train",
        record=TRAIN,
        task="hate_detection",
        answers=("yes",),
        licence="none stated (research only)",
        images=(f"{folder}/{TRAIN}{ending}",),
        context="kya text hai, yaar",
        attributes={"level": "implicit", "valence": "neutral"},
    )
    assert (sarcasm.task, sarcasm.answer, sarcasm.id) == ("sarcasm_detection", "no", hate.id)
    assert (sarcasm.images, sarcasm.context) == (hate.images, hate.context)
    assert [(sample.task, sample.answer) for sample in cm_memes.read(root, "test")] == list(
        zip(TASKS, ("no", "yes"), strict=True)
    )
    assert not list(cm_memes.read(root, "validation"))


def test_a_name_always_has_the_same_split():
    assert [cm_memes.split_of(name) for name in (TRAIN, VALIDATION, TEST)] == ["train", "validation", "test"]
    counts = Counter(cm_memes.split_of(f"m{number}") for number in range(10_000))
    assert all(
        abs(counts[split] / 10_000 - share) < 0.02
        for split, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2))
    )


def test_an_empty_cell_is_counted_for_its_task_alone(tmp_path):
    root = write(tmp_path, [row(f"{TRAIN}.png", "off", " "), row("meme_2.png", "", "sarcasm ")])
    first, second, third, fourth = cm_memes.read(root, "train")
    assert (first.answer, second) == ("yes", Skipped(TRAIN, "no label", "sarcasm_detection"))
    assert (third, fourth.answer) == (Skipped("meme_2", "no label", "hate_detection"), "yes")


def test_a_build_keeps_the_tasks_apart(tmp_path):
    names = [name for number in range(40) if cm_memes.split_of(name := f"meme_{number}") == "train"][:4]
    root = tmp_path / "cm_memes"
    (root / "LREC_COLING_meme").mkdir(parents=True)
    for name in names:
        Image.new("RGB", (40, 40)).save(root / "LREC_COLING_meme" / f"{name}.png")
    labels = [("off", "sarcasm"), ("off", "non-sarcastic"), ("off", ""), ("non-off", "non-sarcastic")]
    write(root, [row(f"{name}.png", *cells) for name, cells in zip(names, labels, strict=True)])
    stats = build({"cm_memes": str(root)}, tmp_path / "build")["configs"]
    found = {task: stats[task]["sources"]["cm_memes"]["train"] for task in TASKS}
    assert [(found[task]["read"], found[task]["labels"]) for task in TASKS] == [
        (4, {"no": 1, "yes": 3}),
        (4, {"no": 2, "yes": 1}),
    ]
    assert [found[task]["skipped"] for task in TASKS] == [{}, {"no label": 1}]
    rows = load_dataset(str(tmp_path / "build"), "sarcasm_detection", split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["answer"][:] == ["yes", "no", "no"] and set(rows["task"]) == {"sarcasm_detection"}
    for instruction in rows["instruction"]:
        text, question = instruction.split("\n")
        assert text == 'Text on the meme: "kya text hai, yaar"' and "caption" not in question


def test_a_folder_without_a_table_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError) as error:
        cm_memes.splits(tmp_path)
    assert f"cm_memes: nothing of CM_MEMES in {tmp_path}. CM_MEMES is at https://github.com/Gitanjali1801" in str(
        error.value
    )


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (("offensive", "sarcasm"), "Level1 'offensive' is outside the label set: non-off, off"),
        (("off", "sarcastic"), "Sarcasm 'sarcastic' is outside the label set: non-sarcastic, sarcasm"),
    ],
)
def test_a_label_outside_the_set_is_refused(cells, message, tmp_path):
    root = write(tmp_path, [row(f"{TRAIN}.png"), row("meme_2.png", *cells)])
    with pytest.raises(ValueError) as error:
        list(cm_memes.read(root, "train"))
    assert f"sample_data.csv line 3 (meme_2.png): {message}" in str(error.value)


def test_a_table_without_a_column_is_refused(tmp_path):
    (tmp_path / "labels.csv").write_text("Name,Text,Level1,Level2,Valence\n", encoding="utf-8")
    with pytest.raises(ValueError, match="cm_memes: .*labels.csv has no column Sarcasm, only Name, Text"):
        list(cm_memes.read(tmp_path, "train"))
