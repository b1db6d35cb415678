"""Features of pictures that are stored once: what they give the model, when they are computed, and what is refused."""

import os
import pickle
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from sft_run import KINDS, train
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import ModelConfig

from benchmarks.conformance.__main__ import FAMILIES
from benchmarks.conformance.checks import as_if_trained, make_family, upgrade_as_if_trained
from modeling_emollm import EmoLLMForConditionalGeneration, attach_emoprompt, compact_processor
from training.collator import EmoBenchCollator
from training.data import GREY, load_mixture
from training.encoding import encode, is_size, join
from training.features import FeatureCache, with_encoder_outputs
from training.model import choose_trainable


CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def table(drawn_dataset) -> Dataset:
    """Rows with one picture and with three."""
    return load_mixture([f"{drawn_dataset}:hate_detection,humor_detection"], None, "train", 0)


def load(folder: Path, upgrade: bool = False, train: str | None = None, number: int | None = None):
    """A model that is frozen but for what is chosen, and its processor; an upgraded one acts as if trained."""
    processor = attach_emoprompt(AutoProcessor.from_pretrained(folder))
    if upgrade:
        torch.manual_seed(0)
        model = EmoLLMForConditionalGeneration.from_foundation(folder, mvp_size=16, visual_tokens_per_image=number)
        as_if_trained(model)
        processor = compact_processor(processor, number) if number else processor
    else:
        model = AutoModelForImageTextToText.from_pretrained(folder)
    if train is None:
        return model.requires_grad_(False).eval(), processor
    return choose_trainable(model, train, ModelConfig()), processor


def filled(folder: Path, rows: Dataset, model, processor, gigabytes: float = 1.0) -> FeatureCache:
    features = FeatureCache(folder, model, processor, gigabytes)
    features.fill(rows, model, CPU)
    return features


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def distinct(rows: Dataset) -> set[bytes]:
    return {image["bytes"] for images in rows["images"] for image in images}


# --- What they give the model


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, {}) for kind in KINDS),
        *((kind, {"upgrade": True}) for kind in KINDS),
        # The last kind's processor has no number of placeholders to be told.
        *((kind, {"upgrade": True, "number": 4}) for kind in KINDS[:-1]),
        ("llava", {"upgrade": True, "train": "mvp+lora"}),
        ("idefics3", {"train": "mvp+lora"}),
    ],
)
def test_a_batch_of_stored_features_is_one_of_pixels(tiny_foundations, table, tmp_path, kind, options):
    model, processor = load(tiny_foundations[kind], **options)
    features = filled(tmp_path, table, model, processor)
    chosen = [table[i] for i in (0, 16, 1, 17)]  # one picture, three, one, three
    stored = EmoBenchCollator(processor, None, 0.5, 0.0, 0, features)(chosen)
    pixels = EmoBenchCollator(processor, None, 0.5, 0.0, 0)(chosen)
    assert "pixel_values" in pixels and not any("pixel" in name for name in stored)
    for name in stored.keys() & pixels.keys():
        assert torch.equal(stored[name], pixels[name]), name
    assert {"input_ids", "attention_mask", "labels"} <= stored.keys() and stored.keys() - {
        "image_features"
    } < pixels.keys()
    model.eval()
    torch.testing.assert_close(model(**with_encoder_outputs(stored)).logits, model(**pixels).logits)
    for pooled in stored["image_features"]["pooler_output"]:
        pooled *= -1
    assert not torch.allclose(model(**with_encoder_outputs(stored)).logits, model(**pixels).logits, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["aya_vision", "glm4v", "inkling_mm_model", "internvl", "llava_next", "minicpmv4_7", "qwen3_vl"]
)
def test_features_of_single_pictures_are_those_of_a_batch(name):
    family = make_family(FAMILIES[name])
    model, rows = upgrade_as_if_trained(family), [[0], [], [1, 2]]
    batch, entries = family.batch(rows), [encode(model, family.image_inputs([[i]])) for i in (0, 1, 2)]
    stored = {key: value for key, value in batch.items() if key not in family.image_inputs(rows)}
    stored |= {key: torch.cat([entry[key] for entry in entries]) for key in entries[0] if is_size(key)}
    stored["image_features"] = join(entries)
    torch.testing.assert_close(model(**with_encoder_outputs(stored)).logits, model(**batch).logits)


@pytest.mark.parametrize("train_", ["mvp", "mvp+lora"])
def test_training_with_stored_features_is_training_with_pixels(tiny_foundations, drawn_dataset, tmp_path, train_):
    fields = {"max_steps": 3, "train": train_, "dataloader_num_workers": 2}
    pixels = train(tiny_foundations["llava"], drawn_dataset, tmp_path / "pixels", **fields)
    stored = train(
        tiny_foundations["llava"], drawn_dataset, tmp_path / "stored", feature_cache=tmp_path / "cache", **fields
    )
    assert pixels.keys() == stored.keys()
    for name in pixels:
        torch.testing.assert_close(stored[name], pixels[name], atol=1e-4, rtol=1e-3)


def test_rows_without_pictures_need_none(tiny_foundations, table, tmp_path):
    model, processor = load(tiny_foundations["llava"])
    features = filled(tmp_path, table.select([]), model, processor)
    assert features.has(GREY) and len(content(tmp_path)) == 1
    batch = features.process(["<s>a word", "<s>and another two"], [[], []])
    assert set(batch) == {"input_ids", "attention_mask"} and with_encoder_outputs(batch) == batch


def test_it_goes_to_workers_without_the_model(tiny_foundations, table, tmp_path):
    model, processor = load(tiny_foundations["llava"])
    features = filled(tmp_path, table, model, processor)
    sent = pickle.dumps(features)
    assert len(sent) < len(pickle.dumps(processor)) + 10_000
    texts, images = ["<s><image>"], [[table[0]["images"][0]]]
    torch.testing.assert_close(pickle.loads(sent).process(texts, images), features.process(texts, images))


# --- When they are computed


def test_each_picture_is_stored_once(tiny_foundations, table, tmp_path, capsys):
    model, processor = load(tiny_foundations["llava"])
    twice = Dataset.from_list([*table, *table], features=table.features)
    filled(tmp_path, twice, model.train(), processor)
    assert model.training  # as it was
    files = content(tmp_path)
    assert len(files) == len(distinct(table)) + 1  # and the grey one
    assert f"Features of {len(files)} pictures in {tmp_path}: " in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    filled(tmp_path, twice, model, processor)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}


@pytest.mark.parametrize("stop", [3, 40])  # in the sample and behind it
def test_an_interruption_changes_nothing(tiny_foundations, table, tmp_path, monkeypatch, stop):
    model, processor = load(tiny_foundations["idefics3"])
    filled(tmp_path / "whole", table, model, processor)
    writes, replace = [], Path.replace

    def interrupted(path, target):
        if len(writes) == stop:
            raise KeyboardInterrupt
        writes.append(target)
        return replace(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", interrupted)
        filled(tmp_path / "parts", table, model, processor)
    part = content(tmp_path / "parts")
    assert len(part) == stop and all(name.endswith(".safetensors") for name in part)
    filled(tmp_path / "parts", table, model, processor)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_a_picture_that_cannot_be_decoded_is_left_out(tiny_foundations, table, tmp_path, capsys):
    model, processor = load(tiny_foundations["llava"])
    rows = [table[i] for i in (0, 1, 16, 17)]
    rows[0]["images"][0] = {"bytes": b"no picture", "path": None}
    rows[2]["images"][1] = {"bytes": None, "path": str(tmp_path / "missing.png")}
    features = filled(tmp_path / "cache", Dataset.from_list(rows, features=table.features), model, processor)
    assert f"2 of {len(content(tmp_path / 'cache')) + 2} pictures can't be decoded" in capsys.readouterr().out
    has = [[features.has(image) for image in row["images"]] for row in rows]
    assert has == [[False], [True], [True, False, True], [True, True, True]]
    batch = EmoBenchCollator(processor, None, 0.5, 0.0, 0, features)(rows)
    assert [row_id for row_id, _ in batch["skipped"]] == [rows[0]["id"], rows[2]["id"]]
    assert len(batch["image_features"]["pooler_output"]) == 8


def test_what_makes_features_decides_which_are_used(tiny_foundations, table, tmp_path):
    model, processor = load(tiny_foundations["llava"])
    image = table[0]["images"][0]
    filled(tmp_path / "cache", table, model, processor)

    def has(model, processor):
        return FeatureCache(tmp_path / "cache", model, processor, 1.0).has(image)

    shutil.copytree(tiny_foundations["llava"], tmp_path / "copy")
    assert has(*load(tmp_path / "copy")) and has(*load(tiny_foundations["llava"], upgrade=True, train="mvp+lora"))
    other, _ = load(tmp_path / "copy")
    other.model.language_model.layers[0].mlp.up_proj.weight.data += 1
    assert has(other, processor)  # the language model makes none
    other.model.vision_tower.post_layernorm.weight.data += 1
    assert not has(other, processor)
    assert not has(model.to(torch.bfloat16), processor)
    assert not has(*load(tiny_foundations["llava"], upgrade=True, number=4))  # other placeholders
    processor.image_processor.image_mean = [0.4, 0.4, 0.4]
    assert not has(load(tiny_foundations["llava"])[0], processor)


# --- What is refused


@pytest.mark.parametrize(
    ("train_", "weight"), [("mvp+lora+projector", "multi_modal_projector"), ("full", "vision_tower")]
)
@pytest.mark.parametrize("upgrade", [False, True])
def test_a_vision_tower_or_projector_that_trains_is_refused(
    tiny_foundations, table, tmp_path, upgrade, train_, weight
):
    model, processor = load(tiny_foundations["llava"], upgrade, train_)
    with pytest.raises(ValueError, match=f"weights that make the features of pictures are trained, e.g. .*{weight}"):
        filled(tmp_path, table, model, processor)
    assert content(tmp_path) == {}


def test_too_little_space_is_refused_with_the_numbers(tiny_foundations, table, tmp_path, monkeypatch):
    model, processor = load(tiny_foundations["llava"])
    whole = filled(tmp_path / "whole", table, model, processor).folder
    size = sum(map(len, content(whole).values())) / 1e9
    numbers = rf"there, about .* GB to come, .* free on the disk, and feature_cache_gb={size * 0.99:g}. Raise it"
    with pytest.raises(ValueError, match=numbers) as error:
        filled(tmp_path / "parts", table, model, processor, size * 0.99)
    there, to_come = (float(part.split()[-1]) for part in str(error.value).split(" GB")[:2])
    assert there + to_come == pytest.approx(size, rel=0.02)
    assert len(content(tmp_path / "parts")) < len(content(whole)) / 2  # a sample
    filled(tmp_path / "parts", table, model, processor, size * 1.02)
    usage = namedtuple("usage", "total used free")(10, 9, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    filled(whole, table, model, processor)  # nothing is to come
    with pytest.raises(ValueError, match="1e-09 GB free on the disk.*choose a folder on a larger disk"):
        filled(tmp_path / "others", table, model, processor)


def test_a_damaged_file_is_named(tiny_foundations, table, tmp_path):
    model, processor = load(tiny_foundations["llava"])
    features = filled(tmp_path, table, model, processor)
    [path] = [path for path in tmp_path.rglob("*") if path == features._path(GREY)]
    os.truncate(path, 100)
    with pytest.raises(ValueError, match=f"{path} is damaged .* Delete it"):
        features.process(["<image>"], [[GREY]])


def test_a_processor_that_looks_at_neighbours_is_refused(tiny_foundations, table, tmp_path, monkeypatch):
    model, processor = load(tiny_foundations["llava"])
    replace = type(processor).replace_image_token

    def numbered(self, image_inputs, image_idx, **kwargs):
        return f"{image_idx}{replace(self, image_inputs, image_idx, **kwargs)}"

    monkeypatch.setattr(type(processor), "replace_image_token", numbered)
    with pytest.raises(ValueError, match="input_ids that LlavaProcessor gives can't be had from single pictures"):
        filled(tmp_path, table, model, processor)


def test_a_vision_tower_that_looks_at_neighbours_is_refused(tiny_foundations, table, tmp_path, monkeypatch):
    model, processor = load(tiny_foundations["llava"], upgrade=True)
    base, encode = type(model.foundation.base_model), type(model.foundation.base_model).get_image_features

    def mixed(self, pixel_values, **kwargs):
        outputs = encode(self, pixel_values, **kwargs)
        outputs.pooler_output = [pooled - outputs.pooler_output[0] / 2 for pooled in outputs.pooler_output]
        return outputs

    monkeypatch.setattr(base, "get_image_features", mixed)
    with pytest.raises(ValueError, match="LlavaForConditionalGeneration can't be had from .* differ by"):
        filled(tmp_path, table, model, processor)


def test_features_that_have_more_to_them_are_refused(tiny_foundations, table, tmp_path, monkeypatch):
    model, processor = load(tiny_foundations["llava"])
    forward = type(model).forward

    def needs_more(self, *args, **kwargs):
        if "mm_encoder_outputs" in kwargs:
            kwargs["mm_encoder_outputs"]["image"].router_logits  # noqa: B018 as Granite Docling does
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", needs_more)
    with pytest.raises(ValueError, match="features of LlavaForConditionalGeneration can't be had .*router_logits"):
        filled(tmp_path, table, model, processor)
