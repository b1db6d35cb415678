"""What of a model is trained, over all families and over whole trainings, and the model that is saved in the end."""

import json
import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from safetensors.torch import load_file, save_file
from sft_run import train
from torch import nn
from transformers import AutoModelForImageTextToText
from trl import ModelConfig

import train_sft
from benchmarks.conformance.__main__ import FAMILIES
from benchmarks.conformance.checks import RAGGED, make_family, upgrade_as_if_trained
from training.model import choose_trainable, load_model, save_trained


CHOICES = ("mvp", "mvp+lora", "mvp+lora+projector", "full")
LORA = ModelConfig(lora_dropout=0.0)
# Where a family's projector is, below `model`; all others have a `multi_modal_projector`.
PLACES = {
    "aligner": "deepseek_vl deepseek_vl_hybrid janus",
    "connector": "idefics2 idefics3 smolvlm",
    "embed_vision": "gemma4 gemma4_unified",
    "merger": "minicpm_ocr minicpmv4_6 minicpmv4_7",
    "mm_projector": "kimi_k25",
    "projector": "cosmos3_edge paddleocr_vl video_llama_3",
    "resampler_model": "ernie4_5_vl_moe",
    "vision_adapter vision_projection": "muse_glimmer muse_spark",
    "vision_model.connector": "granite_docling",
    "vision_model.merger projector": "hyperclovax_vision_v2",
    "vision_projection": "lighton_ocr",
    "vision_tower.merger": "dots3_note inkling2",
    "vision_tower.patch_merger": "hunyuan_vl",
    "visual.merger": "exaone4_5 glm46v glm4v glm4v_moe glm5_next glm_ocr glmga qwen2_5_omni_thinker qwen2_5_vl "
    "qwen2_vl qwen3_5 qwen3_5_moe qwen4_exp",
    "visual.merger visual.deepstack_merger_list.0": "cohere_compass cosmos3_omni qwen3_vl qwen3_vl_moe",
    "visual.merger visual.merger_list.0": "qwen3_omni_moe_thinker",
    "visual_embeddings_table": "ovis2",
}
PROJECTOR = {family: place.split() for place, families in PLACES.items() for family in families.split()}
WITHOUT = ("chameleon", "emu3", "inkling_mm_model")
# Weights that the pictures of the tests have no use for: of tiles of two sizes, and of the gap between two pictures.
UNUSED = {"granite_docling": ".fine.", "hunyuan_vl": ".image_sep"}


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def load(folder: Path | str, upgrade: bool = True, **fields):
    model_args = ModelConfig(model_name_or_path=str(folder), **fields)
    return load_model(model_args, mvp_fields={"mvp_size": 16} if upgrade else None, trust_remote_code=True)[0]


def logits_of(model: nn.Module, batch: dict) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch).logits.float()


# --- What is trained


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in WITHOUT])
def test_every_familys_projector_and_language_model_are_found_and_learn(family, tmp_path):
    tiny = make_family(FAMILIES[family])
    model, batch = upgrade_as_if_trained(tiny), tiny.batch(RAGGED)
    before = logits_of(model, batch)
    wrapped = choose_trainable(model, "mvp+lora+projector", LORA)
    whole = {name.partition(".modules_to_save.default")[0] for name in trainable(wrapped) if ".lora_" not in name}
    prefix = "base_model.model.model.foundation." + ("" if family == "nemotron_h_omni" else "model.")
    places = [prefix + place for place in PROJECTOR.get(family, ["multi_modal_projector"])]
    assert whole == {"base_model.model.model.multi_perspective_projection", *places}
    adapted = {name.partition(".lora_")[0] for name in trainable(wrapped) if ".lora_" in name}
    assert {place.removeprefix(prefix).partition(".")[0] for place in adapted} <= {"language_model", "text_model"}
    assert adapted and not any(place.endswith("lm_head") for place in adapted)
    torch.testing.assert_close(logits_of(wrapped, batch), before)  # LoRA begins with nothing

    for name, weight in trainable(wrapped).items():
        if ".lora_B" in name:
            nn.init.normal_(weight, std=0.02)
    wrapped.train()(**batch, labels=batch["input_ids"]).loss.backward()
    unused = {name for name, weight in trainable(wrapped).items() if weight.grad is None or not weight.grad.any()}
    assert all(UNUSED.get(family, "none") in name for name in unused)
    learned = logits_of(wrapped.eval(), batch)
    assert not torch.allclose(learned, before, atol=1e-5)
    wrapped.merge_and_unload().save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(logits_of(again, batch), learned, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", WITHOUT)
def test_a_family_without_a_projector_is_refused_by_name(family):
    model = make_family(FAMILIES[family]).model
    with pytest.raises(ValueError, match=f"{type(model).__name__} has no module named aligner.*set train to mvp.lora"):
        choose_trainable(model, "mvp+lora+projector", LORA)
    assert trainable(choose_trainable(model, "mvp+lora", LORA))


@pytest.mark.parametrize("choice", CHOICES)
def test_what_is_trained_is_wide_and_the_rest_is_as_it_was_loaded(tiny_foundations, choice, capsys):
    model = load(tiny_foundations["gemma3"], dtype="bfloat16")
    loaded, total = {name: weight.clone() for name, weight in model.named_parameters()}, model.num_parameters()
    model = choose_trainable(model, choice, ModelConfig())
    weights = trainable(model)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    kinds = {"multi_perspective": "mvp", ".lora_": "lora", "multi_modal_projector": "projector"}
    found = {next((kinds[part] for part in kinds if part in name), "more") for name in weights}
    assert found == ({"mvp", "projector", "more"} if choice == "full" else set(choice.split("+")))
    for name, weight in model.named_parameters():
        name = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if not weight.requires_grad and ".original_module" not in name:
            assert weight.dtype == torch.bfloat16 and torch.equal(weight, loaded[name])
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight  # Gemma's are tied
    count = sum(weight.numel() for weight in weights.values())
    assert capsys.readouterr().out == f"train={choice}: {count:,} of {total:,} parameters.\n"


@pytest.mark.parametrize("family", ["llava", "molmo2"])
def test_a_wide_projector_fits_between_narrow_modules(family):
    tiny = make_family(FAMILIES[family])
    tiny.model.bfloat16()
    model, batch = upgrade_as_if_trained(tiny), tiny.batch(RAGGED)
    batch["pixel_values"] = batch["pixel_values"].bfloat16()
    before = logits_of(model, batch)
    after = logits_of(choose_trainable(model, "mvp+lora+projector", LORA), batch)
    torch.testing.assert_close(after, before, atol=0.02, rtol=0.05)


def test_the_fields_of_lora_are_used(tiny_foundations):
    fields = {"lora_r": 4, "lora_alpha": 6, "lora_dropout": 0.2, "use_rslora": True}
    model = choose_trainable(load(tiny_foundations["llava"]), "mvp+lora", ModelConfig(**fields))
    layer = next(
        module for name, module in model.named_modules() if name.endswith("language_model.layers.0.self_attn.q_proj")
    )
    assert layer.lora_A["default"].weight.shape[0] == 4 and layer.scaling["default"] == 6 / 4**0.5
    assert layer.lora_dropout["default"].p == 0.2


@pytest.mark.parametrize("choice", ["mvp", "full"])
def test_fields_of_lora_without_lora_are_refused(tiny_foundations, choice):
    with pytest.raises(ValueError, match=f"lora_r, use_rslora would have no effect with train={choice}; leave it out"):
        choose_trainable(load(tiny_foundations["llava"]), choice, ModelConfig(lora_r=4, use_rslora=True))


@pytest.mark.parametrize("field", ["use_peft", "use_dora", "load_in_4bit", "lora_target_modules"])
def test_other_fields_are_refused(tiny_foundations, field):
    with pytest.raises(ValueError, match=f"{field} would have no effect here; leave it out"):
        load(tiny_foundations["llava"], **{field: ["q_proj", "k_proj"] if "modules" in field else True})


def test_a_foundation_has_no_mvp_to_train(tiny_foundations):
    with pytest.raises(ValueError, match="LlavaForConditionalGeneration has no MVP to train: set upgrade to true"):
        choose_trainable(load(tiny_foundations["llava"], upgrade=False), "mvp", ModelConfig())


@pytest.mark.parametrize("upgrade", [True, False])
def test_the_attention_that_is_asked_for_is_used(tiny_foundations, upgrade):
    model = load(tiny_foundations["llava"], upgrade, attn_implementation="eager")
    used = {part.config._attn_implementation for part in model.modules() if "Attention" in type(part).__name__}
    assert used == {"eager"}


def test_a_wrapped_model_generates_and_shows_what_it_looks_at():
    tiny = make_family(FAMILIES["llava"])
    model, batch = upgrade_as_if_trained(tiny), tiny.batch([[0, 1]])
    expected = model.generate(**batch, max_new_tokens=4)
    wrapped = choose_trainable(model, "mvp+lora+projector", LORA)
    assert torch.equal(wrapped.generate(**batch, max_new_tokens=4), expected)
    gates = next(weight for name, weight in trainable(wrapped).items() if name.endswith("gates"))
    nn.init.constant_(gates, 0.25)
    seen = wrapped(**batch, output_perspectives=True).perspectives["image"]
    torch.testing.assert_close(seen["gates"], gates.tanh())


def test_a_revision_of_the_hub_is_read_again_after_the_hub_has_moved_on(tiny_foundations):
    """As a cache has it: another commit on the same branch before the training ends."""
    cache = Path(HF_HUB_CACHE, "models--tiny--llava")
    for commit, kind in (("a" * 40, "llava"), ("b" * 40, "idefics3")):
        shutil.copytree(tiny_foundations[kind], cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("a" * 40)
    model = load("tiny/llava")
    (cache / "refs" / "main").write_text("b" * 40)
    again, _ = model.load_again()
    expected, actual = model.foundation.state_dict(), again.foundation.state_dict()
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


# --- What is saved


@contextmanager
def watched():
    """The logits of every model that is trained meanwhile, and their batch, beside the model that it is saved as."""

    def save(trainer):
        batch = trainer.data_collator([trainer.train_dataset[i] for i in (0, 5, 10)])
        del batch["labels"]
        tensors = {**batch, "expected_logits": logits_of(trainer.model.eval(), batch)}
        save_file(tensors, Path(trainer.args.output_dir).with_suffix(".safetensors"))
        save_trained(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_sft, "save_trained", save)
        yield


LOAD = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor
found = {}
for folder in Path(sys.argv[1]).iterdir():
    if folder.is_dir():
        model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        batch = load_file(folder.with_suffix(".safetensors"))
        expected = batch.pop("expected_logits")
        with torch.no_grad():
            difference = (model(**batch).logits.float() - expected).abs().max() / expected.abs().max()
        tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
        guided = "who is targeted" in processor.apply_chat_template(
            [{"role": "user", "content": "Hateful?"}], emotion_task="hate_detection"
        )
        found[folder.name] = [difference.item(), str(model.dtype), tied, guided, model.config.model_type]
print(json.dumps(found))
"""
# Of the tied Gemma: upgraded, loaded as an EmoLLM, and as it is.
RUNS = [(start, choice) for start in ("upgrade", "emollm", "foundation") for choice in CHOICES]
RUNS.remove(("foundation", "mvp"))
NARROW = ("mvp+lora+projector", "full")  # upgraded, and loaded in bfloat16


@pytest.fixture(scope="module")
def saved(tiny_foundations, drawn_dataset, tmp_path_factory) -> tuple[Path, dict[str, list]]:
    """A folder of trainings, and what a fresh interpreter finds in the folder of each training."""
    folder, data = tmp_path_factory.mktemp("saved"), f"{drawn_dataset}:hate_detection"
    fields = {"learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 1, "dataloader_num_workers": 0}
    with watched():
        for start, choice in RUNS:
            model = folder / "upgrade-mvp" if start == "emollm" else tiny_foundations["gemma3"]
            loading = {"upgrade": start == "upgrade", "trust_remote_code": True}
            train(model, data, folder / f"{start}-{choice}", train=choice, **loading, **fields)
        narrow = {"upgrade": True, "dtype": "bfloat16", **fields}
        for choice in NARROW:
            train(tiny_foundations["gemma3"], data, folder / f"narrow-{choice}", train=choice, **narrow)
    command = [sys.executable, "-I", "-c", LOAD, str(folder)]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=folder)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder, json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize(("start", "choice"), [*RUNS, *(("narrow", choice) for choice in NARROW)])
def test_the_saved_model_is_the_trained_one(saved, start, choice):
    difference, dtype, tied, guided, kind = saved[1][f"{start}-{choice}"]
    narrow = start == "narrow"
    assert dtype == ("torch.bfloat16" if narrow else "torch.float32")
    assert difference < (0.05 if narrow else 1e-5)  # bfloat16 rounds what was trained
    assert tied and guided and kind == ("gemma3" if start == "foundation" else "emollm")


@pytest.mark.parametrize(("start", "choice"), RUNS)
def test_a_training_changes_what_it_trains_and_nothing_else(saved, tiny_foundations, start, choice):
    first = saved[0] / "upgrade-mvp" if start == "emollm" else tiny_foundations["gemma3"]
    before, after = (
        AutoModelForImageTextToText.from_pretrained(path, trust_remote_code=True)
        for path in (first, saved[0] / f"{start}-{choice}")
    )
    before, after = before.state_dict(), (after.foundation if start == "upgrade" else after).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    parts = {"lora": "language_model.layers", "projector": "multi_modal_projector", "mvp": "multi_perspective"}
    if choice == "full":
        assert {"language_model", "vision_tower", "multi_modal_projector"} <= {
            part for name in changed for part in name.split(".")
        }
    else:
        chosen = [part for part in choice.split("+") if part != "mvp" or start == "emollm"]
        for part in chosen:
            assert any(parts[part] in name for name in changed)
        assert all(any(parts[part] in name for part in chosen) for name in changed)


@pytest.mark.parametrize(("start", "choice"), [run for run in RUNS if run[1] != "full"])
def test_a_checkpoint_holds_what_is_trained_and_no_more(saved, start, choice):
    folder = saved[0] / f"{start}-{choice}" / "checkpoint-2"
    assert not list(folder.glob("model*"))
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == ""  # no local path
    kinds = {"multi_perspective": "mvp", ".lora_": "lora", "multi_modal_projector": "projector"}
    found = {
        next(kinds[part] for part in kinds if part in name) for name in load_file(folder / "adapter_model.safetensors")
    }
    assert found == set(choice.split("+")) - ({"mvp"} if start == "foundation" else set())


@pytest.mark.parametrize("choice", CHOICES)
def test_a_training_that_goes_on_ends_with_the_same_weights(tiny_foundations, drawn_dataset, tmp_path, choice):
    fields = {"train": choice, "save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-2}
    expected = train(tiny_foundations["gemma3"], drawn_dataset, tmp_path, **fields)
    shutil.rmtree(tmp_path / "checkpoint-2")
    actual = train(tiny_foundations["gemma3"], drawn_dataset, tmp_path, resume_from_checkpoint="last", **fields)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


@pytest.mark.parametrize("choice", ["mvp+lora+projector", "full"])
def test_the_best_model_is_saved(tiny_foundations, drawn_dataset, tmp_path, choice):
    """By a measure of the worst, which is at the beginning."""
    fields = {"train": choice, "learning_rate": 1e-2, "eval_strategy": "steps", "eval_steps": 1, "eval_samples": 4}
    fields |= {"save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": True}
    fields |= {"metric_for_best_model": "eval_loss", "greater_is_better": True}
    after = train(tiny_foundations["llava"], f"{drawn_dataset}:hate_detection", tmp_path, **fields)
    file = "model.safetensors" if choice == "full" else "adapter_model.safetensors"
    first, second = (load_file(tmp_path / f"checkpoint-{step}" / file) for step in (1, 2))
    up = next(name for name in first if name.endswith("multi_perspective_projection.up.weight"))
    saved = after["model.multi_perspective_projection.up.weight"]
    assert torch.equal(saved, first[up]) and not torch.equal(saved, second[up])


def test_activation_checkpointing_learns_the_same(tiny_foundations, drawn_dataset, tmp_path):
    fields = {"train": "mvp+lora+projector", "learning_rate": 1e-2}
    plain, saving = (
        train(tiny_foundations["llava"], drawn_dataset, tmp_path / name, gradient_checkpointing=name, **fields)
        for name in ("false", "true")
    )
    start = load_file(tiny_foundations["llava"] / "model.safetensors")
    learned = {name for name in start if not torch.equal(start[name], saving[f"model.foundation.{name}"])}
    assert any("layers.0.self_attn.q_proj" in name for name in learned)
    torch.testing.assert_close(saving, plain)


# --- What may go wrong


@pytest.fixture
def trained_twice(tiny_foundations, drawn_dataset, tmp_path):
    """A folder with an older model in many files and its adapter, and the trainer of the next, before it is saved."""
    model = AutoModelForImageTextToText.from_pretrained(tiny_foundations["idefics3"])
    choose_trainable(model, "mvp+lora", LORA).save_pretrained(tmp_path)
    AutoModelForImageTextToText.from_pretrained(tiny_foundations["idefics3"]).save_pretrained(
        tmp_path, max_shard_size="100KB"
    )
    trainers = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_sft, "save_trained", trainers.append)
        with pytest.raises(FileNotFoundError, match="model.safetensors"):
            train(tiny_foundations["llava"], drawn_dataset, tmp_path, train="mvp+lora")
    return trainers[0], tmp_path


@pytest.mark.parametrize("file", ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"])
def test_a_save_that_is_interrupted_leaves_nothing_that_loads(trained_twice, monkeypatch, file):
    trainer, folder = trained_twice
    replace = os.replace

    def interrupted(source, target):
        if Path(source).name == file:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_trained(trainer)
    with pytest.raises((OSError, ValueError), match="config"):
        AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
    save_trained(trainer)
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
    up = model.model.multi_perspective_projection.up.weight
    trained = trainer.model.get_base_model().model.multi_perspective_projection.up.weight
    assert up.any() and torch.equal(up, trained)
    assert (
        not list(folder.glob("adapter*")) and not list(folder.glob("model-*")) and not (folder / "unfinished").exists()
    )


@pytest.mark.parametrize(("limit", "left"), [(100_000, False), (700_000, True)])
def test_a_disk_that_is_full_is_named_and_the_older_model_stays(trained_twice, limit, left):
    trainer, folder = trained_twice
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match="unfinished.* could not be written .* GB are free"):
            save_trained(trainer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert (folder / "unfinished" / "weights" / "adapter_model.safetensors").exists() == left
    assert AutoModelForImageTextToText.from_pretrained(folder).config.model_type == "idefics3"


def test_an_adapter_that_lacks_a_weight_is_not_merged(trained_twice, monkeypatch):
    trainer, folder = trained_twice
    save = trainer.save_model

    def lossy(target, **kwargs):
        save(target, **kwargs)
        file = Path(target) / "adapter_model.safetensors"
        weights = load_file(file)
        del weights[next(name for name in weights if ".lora_B" in name)]
        save_file(weights, file)

    monkeypatch.setattr(trainer, "save_model", lossy)
    with pytest.raises(
        ValueError, match="unfinished/weights lacks 1 trained weights, e.g. .*lora_B.weight; please report"
    ):
        save_trained(trainer)
