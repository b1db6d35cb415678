"""Which rows are read."""

import pytest
from datasets import load_dataset
from PIL import Image

from training.data import load_mixture


# --- Which rows are read


def test_datasets_are_mixed(drawn_dataset, captions):
    rows = load_mixture([f"{drawn_dataset}:humor_detection,hate_detection", str(captions)], None, "train", 0)
    assert rows["task"] == ["humor_detection"] * 16 + ["hate_detection"] * 16 + ["captioning"] * 8
    assert {len(images) for images in rows["images"]} == {1, 3}
    assert isinstance(rows[0]["images"][0], Image.Image) and isinstance(rows[-1]["images"][0], Image.Image)
    assert (
        len(load_mixture([str(drawn_dataset)], None, "train", 0)) == 6 * 16
    )


def test_an_unknown_config_is_refused(drawn_dataset):
    with pytest.raises(ValueError, match="has no config joke_detection; it has .*humor_detection"):
        load_mixture([f"{drawn_dataset}:hate_detection,joke_detection"], None, "train", 0)


def test_a_dataset_without_emobenchs_columns_is_refused(drawn_dataset, tmp_path):
    rows = load_dataset(str(drawn_dataset), "hate_detection", split="validation").select(range(2))
    rows.remove_columns(["rationale", "messages"]).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="has no column messages, rationale; build it with dataset_scripts"):
        load_mixture([str(tmp_path)], None, "train", 0)
