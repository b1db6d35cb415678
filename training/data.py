"""The rows that are trained on: configs of EmoBench and datasets in TRL's formats, mixed."""

import io
import math
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from accelerate import PartialState
from datasets import (
    Dataset,
    Features,
    Json,
    List,
    Value,
    concatenate_datasets,
    get_dataset_config_names,
    interleave_datasets,
    load_dataset,
)
from PIL import ExifTags
from transformers.utils import logging
from trl.data_utils import is_conversational, prepare_multimodal_messages

from dataset_scripts.media import BROKEN, MediaError, open_picture
from evaluation.pictures import PICTURES, grey_picture, undecoded


logger = logging.get_logger(__name__)

COLUMNS = ["id", "task", "images", "rationale", "messages"]
ROW = Features(
    {
        "id": Value("string"),
        "task": Value("string"),
        "images": PICTURES,
        "rationale": Value("string"),
        "messages": List(Json()),
    }
)

GREY_SIZE = (64, 64)


def _grey() -> dict:
    file = io.BytesIO()
    grey_picture(GREY_SIZE).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


# What stands in for a picture that can't be decoded, and in a batch that has none.
GREY = _grey()


def picture_size(image: pa.StructScalar) -> tuple[int, int]:
    """Height and width of a picture of a row, from the head of the file; `GREY`'s if that can't be read."""
    data = image["bytes"].as_buffer() if image["bytes"].is_valid else None
    try:
        with open_picture(pa.BufferReader(data) if data else image["path"].as_py()) as picture:
            # A PNG without EXIF data in its head would be decoded to look for them at its end.
            orientation = {"exif", "xmp"} & picture.info.keys() and picture.getexif().get(ExifTags.Base.Orientation)
            turned = orientation in (5, 6, 7, 8)  # by a quarter
            return picture.size if turned else picture.size[::-1]
    except (MediaError, AttributeError, *BROKEN):
        return GREY_SIZE


def filled(column: pa.ChunkedArray) -> int:
    """Rows that are neither null nor an empty list."""
    lengths = pc.list_value_length(column) if pa.types.is_list(column.type) else pc.is_valid(column)
    return pc.sum(pc.not_equal(pc.fill_null(lengths.cast(pa.int64()), 0), 0)).as_py() or 0


def to_row(example: dict, index: int, label: str) -> dict:
    """An example in one of TRL's conversational formats as a row without a task."""
    row_id = f"{label}/{index}"
    images = example.get("images") or [image for image in [example.get("image")] if image]
    # Where datasets inferred the columns, every message has the keys of all, None where it had none.
    messages = [
        {key: value for key, value in message.items() if value is not None}
        for message in example.get("messages") or example["prompt"] + example["completion"]
    ]
    for message in messages:
        if not isinstance(message.get("content"), str):
            message["content"] = [
                {key: value for key, value in item.items() if value is not None}
                for item in message.get("content") or []
            ]
            if any(item["type"] == "video" for item in message["content"]):
                raise ValueError(
                    f"Row {row_id} has a video, which would be trained on as text: give frames as images."
                )
    try:
        messages = prepare_multimodal_messages(messages, images)
    except ValueError as error:
        raise ValueError(f"Row {row_id}: {error}") from error
    for message in messages:
        message["content"] = [{"type": "image"} if item["type"] == "image" else item for item in message["content"]]
    return {"id": row_id, "task": None, "images": images, "rationale": None, "messages": messages}


def load_config(name: str, config: str, rows: Dataset) -> Dataset:
    """
    One split of one config as rows.

    Raises:
        `ValueError`: if its columns are neither EmoBench's nor one of TRL's conversational formats, or if there are
            videos.
    """
    label = f"{name}:{config}/{rows.split}"
    columns = set(rows.column_names)
    if {"task", "setting"} <= columns:
        if missing := sorted(set(COLUMNS) - columns):
            raise ValueError(f"{label} has no column {', '.join(missing)}; build it with dataset_scripts.")
        if "video" in columns:
            no_frames = pc.equal(pc.list_value_length(rows.data["images"]), 0)
            clips = pc.sum(pc.and_(pc.is_valid(rows.data["video"]), no_frames)).as_py()
            if clips:
                raise ValueError(
                    f"{label} has {clips} clips without frames, which training would not see: build it with --video "
                    "frames, or both."
                )
        return undecoded(rows.select_columns(COLUMNS))
    for column, feature in rows.features.items():
        unread = column in ("video", "videos", "tools") or "Video(" in repr(feature)
        if unread and (number := filled(rows.data[column])):
            raise ValueError(
                f"{label} has {number} rows with something in {column}, which training would not see: give clips as "
                "frames in images, and tools in a system message."
            )
        if column in ("image", "images") and "Image(" not in repr(feature) and "null" not in repr(feature):
            raise ValueError(f"{label} has {feature} in {column}: cast it to Image() or List(Image()).")
    conversation = ["messages"] if "messages" in columns else ["prompt", "completion"]
    if not columns.issuperset(conversation) or not all(
        is_conversational({key: rows.select_columns([key])[0][key]}) for key in conversation
    ):
        raise ValueError(
            f"{label} has the columns {', '.join(rows.column_names)}: neither EmoBench's, nor conversations of TRL's "
            "formats, with messages, or prompt and completion, each a list of role and content "
            "(https://huggingface.co/docs/trl/dataset_formats)."
        )
    rows = undecoded(rows.select_columns([*conversation, *sorted({"image", "images"} & columns)]))
    with PartialState().local_main_process_first():  # the others read what it has stored
        return rows.map(
            partial(to_row, label=label), with_indices=True, remove_columns=rows.column_names, features=ROW, desc=label
        )


def load_mixture(datasets: list[str], weights: list[float] | None, split: str, seed: int) -> Dataset:
    """
    One split of all given datasets, with the columns `COLUMNS` and pictures that are not decoded yet.

    Args:
        datasets (`list[str]`): folders or Hub ids, each as `ID` (all its configs) or `ID:config,config`; with
            EmoBench's columns, or in TRL's formats: `messages`, or `prompt` and `completion`, with `image`, `images`
            or none.
        weights (`list[float]`, *optional*): the share of each of them among the rows, in any unit; the smaller ones
            are repeated until every row of each was there. By default they follow one after the other.
        split (`str`): e.g. `"train"`. What has no such split is left out with a warning.
        seed (`int`): of the order of a weighted mixture.

    Raises:
        `ValueError`: for a config that a dataset does not have, a dataset in another format, one with videos or
            without any row of the split, and for weights that are not one positive number for each.
    """
    if weights is not None and (
        len(weights) != len(datasets) or not all(weight > 0 and math.isfinite(weight) for weight in weights)
    ):
        raise ValueError(f"dataset_weights={weights} must be {len(datasets)} positive numbers, one for each dataset.")
    parts = []
    for dataset in datasets:
        name, _, chosen = dataset.partition(":")
        available = get_dataset_config_names(name)
        configs = chosen.split(",") if chosen else available
        if unknown := sorted(set(configs) - set(available)):
            raise ValueError(f"{name} has no config {', '.join(unknown)}; it has {', '.join(available)}.")
        part = []
        for config in configs:
            splits = load_dataset(name, config)
            if split in splits and len(splits[split]):
                part.append(load_config(name, config, splits[split]))
            else:
                logger.warning(f"{name}:{config} has no rows for {split} and is left out of it.")
        if part:
            parts.append(concatenate_datasets(part))
        elif split == "train":
            raise ValueError(f"{dataset} has no rows for {split}; leave it out.")
    if not parts:
        raise ValueError(f"None of {', '.join(datasets)} has rows for {split}.")
    if weights is None:
        return concatenate_datasets(parts)
    shares = [weight / sum(weights) for weight in weights]
    return interleave_datasets(parts, probabilities=shares, seed=seed, stopping_strategy="all_exhausted")
