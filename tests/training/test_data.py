"""Which rows are read."""

import io
import json
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, Json, List, Value, Video, load_dataset
from PIL import Image as PILImage
from sft_run import question
from transformers.utils import logging

from evaluation.pictures import PictureError, decode_picture
from training.data import COLUMNS, load_mixture


def save(folder: Path, rows: list[dict], features: Features | None = None) -> str:
    folder.mkdir()
    Dataset.from_list(rows, features=features).to_parquet(folder / "train.parquet")
    return str(folder)


def picture(format: str = "PNG", **fields) -> dict:
    file = io.BytesIO()
    PILImage.new("RGB", (12, 8), "red").save(file, format, **fields)
    return {"bytes": file.getvalue(), "path": None}


# --- EmoBench


def test_datasets_follow_one_another(drawn_dataset, captions):
    rows = load_mixture([f"{drawn_dataset}:humor_detection,hate_detection", str(captions)], None, "train", 0)
    assert rows["task"] == ["humor_detection"] * 16 + ["hate_detection"] * 16 + ["captioning"] * 8
    assert rows.column_names == COLUMNS
    assert {len(images) for images in rows["images"]} == {1, 3}
    assert len(load_mixture([str(drawn_dataset)], None, "train", 0)) == 6 * 16


def test_pictures_are_left_undecoded_and_not_copied(drawn_dataset, captions):
    name = f"{drawn_dataset}:humor_detection"
    stored = load_dataset(str(drawn_dataset), "humor_detection", split="train")
    files = {path.name for path in Path(stored.cache_files[0]["filename"]).parent.iterdir()}
    rows = load_mixture([name, str(captions)], None, "train", 0)
    assert {path.name for path in Path(stored.cache_files[0]["filename"]).parent.iterdir()} == files
    assert decode_picture(rows[0]["images"][1]) == stored[0]["images"][1]
    assert rows[-1]["images"][0]["bytes"][:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0")


def test_weights_are_shares_of_the_mixture(tmp_path):
    names = [
        save(tmp_path / name, [question(f"{name}{i}", "yes") for i in range(number)])
        for name, number in (("a", 40), ("b", 400))
    ]
    rows = load_mixture(names, [3, 1], "train", 0)  # in any unit
    first = sum(row_id.startswith(names[0]) for row_id in rows["id"])
    assert len(set(rows["id"])) == 440  # each of them at least once
    assert 0.7 < first / len(rows) < 0.8
    assert rows["id"] == load_mixture(names, [0.75, 0.25], "train", 0)["id"]
    assert rows["id"] != load_mixture(names, [3, 1], "train", 1)["id"]
    assert rows["id"][:50] != sorted(rows["id"][:50])  # not one after the other


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_weights_that_are_no_shares_are_refused(drawn_dataset, captions, weights):
    with pytest.raises(ValueError, match="must be 2 positive numbers, one for each dataset"):
        load_mixture([str(drawn_dataset), str(captions)], weights, "train", 0)


def test_an_unknown_config_is_refused(drawn_dataset):
    with pytest.raises(ValueError, match="has no config joke_detection; it has .*humor_detection"):
        load_mixture([f"{drawn_dataset}:hate_detection,joke_detection"], None, "train", 0)


def test_an_emobench_without_its_columns_is_refused(drawn_dataset, tmp_path):
    rows = load_dataset(str(drawn_dataset), "hate_detection", split="validation").select(range(2))
    rows.remove_columns(["rationale"]).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="has no column rationale; build it with dataset_scripts"):
        load_mixture([str(tmp_path)], None, "train", 0)


def test_clips_without_frames_are_refused_before_training(drawn_dataset, tmp_path):
    rows = load_dataset(str(drawn_dataset), "humor_detection", split="train").select(range(3)).to_list()
    for row in rows:
        row["video"] = {"bytes": b"clip", "path": None}
    rows[1]["images"] = rows[2]["images"] = []
    features = load_dataset(str(drawn_dataset), "humor_detection", split="train").features
    name = save(tmp_path / "clips", rows, features)
    with pytest.raises(ValueError, match="has 2 clips without frames, which training would not see: .*frames"):
        load_mixture([name], None, "train", 0)
    both = save(tmp_path / "both", rows[:1], features)
    assert [len(images) for images in load_mixture([both], None, "train", 0)["images"]] == [3]


def test_a_dataset_without_the_split_is_left_out_of_validation_but_not_of_training(drawn_dataset, tmp_path, caplog):
    plain = save(tmp_path / "plain", [question("Why?", "So.")])
    logging.enable_propagation()
    rows = load_mixture([f"{drawn_dataset}:hate_detection", plain], None, "validation", 0)
    logging.disable_propagation()
    assert set(rows["task"]) == {"hate_detection"}
    assert f"{plain}:default has no rows for validation" in caplog.text
    (tmp_path / "plain" / "train.parquet").rename(tmp_path / "plain" / "test.parquet")
    with pytest.raises(ValueError, match="plain has no rows for train; leave it out"):
        load_mixture([str(drawn_dataset), plain], None, "train", 0)
    with pytest.raises(ValueError, match="None of .*plain has rows for validation"):
        load_mixture([plain], None, "validation", 0)


# --- TRL's formats


MESSAGES = question("What is this?", "A cat.")["messages"]
STRUCTURED = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
]


@pytest.mark.parametrize(
    ("row", "features"),
    [
        ({"messages": MESSAGES, "images": [picture()]}, {"images": List(Image())}),
        ({"messages": MESSAGES, "image": picture()}, {"image": Image()}),
        ({"prompt": MESSAGES[:1], "completion": MESSAGES[1:], "image": picture()}, {"image": Image()}),
        ({"messages": STRUCTURED, "images": [picture()]}, {"images": List(Image())}),
    ],
    ids=["messages", "image", "prompt", "structured"],
)
@pytest.mark.parametrize("kept", [False, True], ids=["inferred", "json"])
def test_trls_formats_become_rows(drawn_dataset, tmp_path, row, features, kept):
    features = Features(features)
    for name in {"messages", "prompt", "completion"} & row.keys():
        item = {"type": Value("string"), "text": Value("string")}
        content = List(item) if row[name] is STRUCTURED else Value("string")
        features[name] = (
            List(Json()) if kept else List({"role": Value("string"), "name": Value("string"), "content": content})
        )
    name = save(tmp_path / "general", [row, row], features)
    rows = load_mixture([f"{drawn_dataset}:hate_detection", name], None, "train", 0)
    assert rows[-1] == {
        "id": f"{name}:default/train/1",
        "task": None,
        "images": [picture()],
        "rationale": None,
        "messages": STRUCTURED,
    }


def test_conversations_without_pictures_keep_their_turns(tmp_path):
    turns = [{"role": "system", "content": "Be brief."}, *MESSAGES, *question("Sure?", "Yes.")["messages"]]
    rows = load_mixture([save(tmp_path / "text", [{"messages": turns}])], None, "train", 0)
    assert rows[0]["images"] == []
    assert [(turn["role"], turn["content"]) for turn in rows[0]["messages"]] == [
        (turn["role"], [{"type": "text", "text": turn["content"]}]) for turn in turns
    ]


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"text": "A cat."}, "has the columns text: neither EmoBench's, nor conversations of TRL's"),
        ({"prompt": "What?", "completion": "A cat."}, "has the columns prompt, completion: neither"),
        ({"prompt": MESSAGES[:1], "chosen": MESSAGES[1:], "rejected": MESSAGES[1:]}, "columns prompt, chosen, rej"),
        ({"messages": MESSAGES, "videos": [{"bytes": b"clip", "path": None}]}, "has 1 rows with something in videos"),
        ({"messages": MESSAGES, "tools": ["def look(): ..."]}, "has 1 rows with something in tools"),
        ({"messages": MESSAGES, "images": ["cat.png"]}, r"in images: cast it to Image\(\)"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "Row .*/0 has a video, which would be"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, r"Row .*/0: Number of images provided \(0"),
        ({"messages": [{"role": "narrator", "content": "One day"}]}, "Row .*/0: Invalid role in message: narrator"),
    ],
    ids=["text", "strings", "preference", "videos", "tools", "paths", "video", "placeholder", "role"],
)
def test_what_can_not_be_trained_on_is_refused_by_name(tmp_path, row, error):
    with pytest.raises(ValueError, match=error):
        load_mixture([save(tmp_path / "other", [row])], None, "train", 0)


def test_a_column_of_clips_is_refused_whatever_its_name(tmp_path):
    features = Features({"messages": List(Json()), "clip": Video(decode=False)})
    name = save(tmp_path / "clips", [{"messages": MESSAGES, "clip": {"bytes": b"clip", "path": None}}], features)
    with pytest.raises(ValueError, match="has 1 rows with something in clip"):
        load_mixture([name], None, "train", 0)


def test_empty_columns_are_no_clips_and_no_tools(tmp_path):
    rows = [{"messages": MESSAGES, "videos": [], "tools": None, "images": []}]
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    assert len(load_mixture([str(tmp_path / "text")], None, "train", 0)) == 1


# --- Pictures


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ({"bytes": b"no picture", "path": None}, "broken or truncated"),
        ({"bytes": picture("JPEG")["bytes"][:300], "path": None}, "broken or truncated"),
        ({"bytes": None, "path": None}, "broken or truncated"),
        ({"bytes": None, "path": "/nowhere/cat.png"}, "missing"),
    ],
    ids=["bytes", "cut", "nothing", "missing"],
)
def test_a_picture_that_can_not_be_decoded_says_why(image, reason):
    with pytest.raises(PictureError, match=reason):
        decode_picture(image)


def test_a_picture_of_too_many_pixels_says_so(monkeypatch):
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(PictureError, match="too large to decode"):
        decode_picture(picture())
