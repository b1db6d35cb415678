"""Training as its users meet it: what is learned from a row, the command, its errors, and what it leaves behind."""

from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from sft_run import RECIPE, train
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import ModelConfig, SFTConfig

from modeling_emollm import attach_emoprompt
from train_sft import EmoLLMArguments, main
from training.collator import EmoBenchCollator
from training.data import load_mixture


# --- The command


def test_the_command_leaves_a_model_that_loads(trained):
    mvp_size = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["mvp_size"]
    model = AutoModelForImageTextToText.from_pretrained(trained, trust_remote_code=True)
    assert model.config.model_type == "emollm" and model.config.mvp_size == mvp_size
    mvp = model.model.multi_perspective_projection
    assert mvp.up.weight.any() and len(mvp.gates) == 4 and (mvp.gates != 1).all()
    processor = AutoProcessor.from_pretrained(trained, trust_remote_code=True)
    question = [{"role": "user", "content": "Hateful?"}]
    assert "who is targeted" in processor.apply_chat_template(question, emotion_task="hate_detection")


def test_the_command_leaves_nothing_else(trained):
    assert {path.name for path in trained.iterdir()} == {
        "chat_template.jinja", "compact.py", "config.json", "configuration_emollm.py", "generation_config.json",
        "model.safetensors", "modeling_emollm.py", "mvp.py", "processor_config.json", "tokenizer.json",
        "tokenizer_config.json", "README.md", "training.json",
    }  # fmt: skip
    assert [path.name for path in trained.parent.iterdir()] == [trained.name]


def test_the_card_says_what_was_trained_and_names_no_local_path(trained, drawn_dataset):
    card = ModelCard.load(trained / "README.md")
    assert card.data.pipeline_tag == "image-text-to-text" and card.data.base_model is None
    assert "upgraded with Multi-perspective Visual Projection" in card.text
    assert "Data: drawn" in card.text and "4 steps of 4 samples" in card.text
    assert str(drawn_dataset.parent) not in str(card)


def test_an_emollm_that_is_loaded_to_be_trained_is_as_it_was_saved(trained, drawn_dataset, tmp_path):
    fields = {"upgrade": False, "trust_remote_code": True, "learning_rate": 0.0, "max_steps": 1}
    before = load_file(trained / "model.safetensors")
    after = train(trained, drawn_dataset, tmp_path, **fields)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    AutoModelForImageTextToText.from_pretrained(tmp_path, trust_remote_code=True)  # it still has its code


def test_an_emollm_is_trained_further_and_its_card_is_not_trls(trained, drawn_dataset, tmp_path):
    fields = {"upgrade": False, "trust_remote_code": True, "save_strategy": "steps", "save_steps": 1}
    before = load_file(trained / "model.safetensors")
    after = train(trained, drawn_dataset, tmp_path, **fields)
    assert any(not torch.equal(before[name], after[name]) for name in before if "multi_perspective" in name)
    assert (tmp_path / "checkpoint-2").is_dir()
    assert "2 steps of 4 samples" in (tmp_path / "README.md").read_text(encoding="utf-8")


@torch.no_grad()
def loss_of(folder: Path, dataset: str) -> float:
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
    processor = attach_emoprompt(AutoProcessor.from_pretrained(folder, trust_remote_code=True))
    return model(
        **EmoBenchCollator(processor, None, 0.5, 0.0, seed=0)(list(load_mixture([dataset], None, "train", 0)))
    ).loss.item()


@pytest.mark.parametrize(
    ("upgrade", "kind"), [(False, "llava"), (True, "idefics3"), (True, "gemma3"), (True, "paddleocr_vl")]
)
def test_training_learns(tiny_foundations, drawn_dataset, tmp_path, upgrade, kind):
    dataset, foundation = f"{drawn_dataset}:hate_detection", tiny_foundations[kind]
    fields = {"max_steps": 12, "per_device_train_batch_size": 16, "learning_rate": 2e-2}
    train(foundation, dataset, tmp_path, upgrade=upgrade, **fields)
    assert loss_of(tmp_path, dataset) < 0.5 * loss_of(foundation, dataset)


def test_compact_mode_is_trained_and_saved_with_its_processor(tiny_foundations, drawn_dataset, tmp_path):
    train(tiny_foundations["llava"], drawn_dataset, tmp_path, visual_tokens_per_image=4)
    assert loss_of(tmp_path, f"{drawn_dataset}:hate_detection") > 0  # the saved processor fits the saved model
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, trust_remote_code=True)
    assert model.config.visual_tokens_per_image == 4


@pytest.mark.parametrize(
    ("words", "perspectives"), [(["relation", "holistic"], ["relation", "holistic"]), (["none"], [])]
)
def test_perspectives_are_chosen_at_the_upgrade(command, tmp_path, words, perspectives):
    command(RECIPE, "--perspectives", *words)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "output", trust_remote_code=True)
    assert model.config.perspectives == perspectives
    assert model.model.multi_perspective_projection.up.weight.any()


@pytest.mark.parametrize("upgrade", [False, True])
def test_the_seed_decides_the_weights(tiny_foundations, drawn_dataset, tmp_path, upgrade):
    first, again, other = (
        train(tiny_foundations["llava"], drawn_dataset, tmp_path / name, upgrade=upgrade, seed=seed)
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


# --- Its errors


def test_a_recipe_with_an_unknown_key_is_refused(command, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.read_text(encoding="utf-8") + "learning_rat: 1.0e-3\n", encoding="utf-8")
    with pytest.raises(ValueError, match="Unknown arguments from config file: .*--learning_rat'"):
        command(recipe)


@pytest.mark.parametrize("argument", ["--learning_rat=1", "--joke=1"])  # argparse would complete the first
def test_an_unknown_argument_is_refused(command, argument):
    with pytest.raises(ValueError, match=f"not used .*{argument}"):
        command(RECIPE, argument)


@pytest.mark.parametrize("name", ["emoprompt_share", "reason_share"])
@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_beyond_all_is_refused(command, name, share):
    with pytest.raises(ValueError, match=f"{name}={share} must be from 0 to 1"):
        command(RECIPE, **{name: share})


def test_reasoning_without_emoprompt_is_refused(command):
    with pytest.raises(ValueError, match="reason_share=0.5 is a share of no rows: raise emoprompt_share"):
        command(RECIPE, emoprompt_share=0.0, reason_share=0.5)


def test_reasoning_without_rationales_is_refused(command):
    with pytest.raises(ValueError, match="no row of .* has a rationale: write them with `python -m evaluation.rat"):
        command(RECIPE, reason_share=0.5)


def test_compact_mode_without_an_upgrade_is_refused(command):
    with pytest.raises(ValueError, match="visual_tokens_per_image=4 is chosen at the upgrade"):
        command(RECIPE, upgrade=False, visual_tokens_per_image=4)


def test_perspectives_without_an_upgrade_are_refused(command):
    with pytest.raises(ValueError, match=r"perspectives=\['none'\] are chosen at the upgrade"):
        command(RECIPE, "--perspectives", "none", upgrade=False)


def test_unknown_perspectives_are_refused(command):
    for words in (["holistic", "olfactory"], ["none", "olfactory"]):
        with pytest.raises(ValueError, match="Unknown perspectives .*'olfactory'.*; choose from .*'holistic'"):
            command(RECIPE, "--perspectives", *words)


def test_what_would_have_no_effect_is_refused(command):
    with pytest.raises(ValueError, match="use_peft would have no effect"):
        command(RECIPE, "--use_peft")


def test_a_missing_model_is_named(command, tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        command(RECIPE, model=tmp_path / "nowhere")


def test_a_missing_dataset_is_named(command, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        command(RECIPE, dataset=tmp_path / "nowhere")


def test_no_model_at_all_is_refused(drawn_dataset, tmp_path):
    with pytest.raises(ValueError, match="model_name_or_path is not set"):
        main(
            EmoLLMArguments(datasets=[str(drawn_dataset)]),
            SFTConfig(str(tmp_path), use_cpu=True, bf16=False),
            ModelConfig(),
        )


def test_an_emollm_is_not_upgraded_twice(command, trained):
    with pytest.raises(ValueError, match="is an EmoLLM already; set upgrade to false"):
        command(RECIPE, "--trust_remote_code", model=trained)


def test_an_answer_that_would_be_cut_stops_the_training(command, tmp_path):
    with pytest.raises(ValueError, match="more than max_length=20, and its answer would be cut"):
        command(RECIPE, max_length=20, dataloader_num_workers=0)
    assert not (tmp_path / "output" / "model.safetensors").exists()


def test_an_estimate_is_printed_and_activations_are_kept_unless_asked_otherwise(command, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    text = RECIPE.read_text(encoding="utf-8")
    recipe.write_text(text.replace("gradient_checkpointing: false\n", ""), encoding="utf-8")
    command(recipe, "--estimate", max_length=512)
    assert "without activation checkpointing" in capsys.readouterr().out
    command(recipe, "--estimate", "--activation_checkpointing", max_length=512)
    assert "with activation checkpointing" in capsys.readouterr().out
    assert not (tmp_path / "output").exists()


def test_all_of_it_together(tiny_foundations, drawn_dataset, captions, tmp_path):
    """As the recipes of real foundations have it: lengths, weights, scores and, beside them, a cache of features."""
    fields = {
        "train": "mvp+lora",
        "dataset_weights": 2.0,
        "train_sampling_strategy": "group_by_length",
        "eval_strategy": "steps",
        "eval_steps": 1,
        "eval_samples": 2,
        "feature_cache": tmp_path / "features",
        "dataloader_num_workers": 2,
        "dataloader_prefetch_factor": 2,
    }
    train(tiny_foundations["llava"], f"{drawn_dataset}:humor_detection,hate_detection", tmp_path / "output", **fields)
    card = (tmp_path / "output" / "README.md").read_text(encoding="utf-8")
    assert "- Trained weights: MVP; LoRA of rank 16 on the language model, merged into it\n" in card
    assert "- Validation: mean macro F1 " in card and "at step 2\n" in card
    assert any((tmp_path / "features").rglob("*.safetensors"))
