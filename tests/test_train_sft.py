"""Training as its users meet it: what is learned from a row, the command, its errors, and what it leaves behind."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from datasets import load_dataset
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import ModelConfig, SFTConfig, TrlParser

from benchmarks.captions import main as draw_captions
from modeling_emollm import EmoLLMForConditionalGeneration, answer_token_ids, attach_emoprompt
from train_sft import EmoBenchCollator, EmoLLMArguments, EmoLLMTrainer, load_rows, main, token_lengths


ROOT = Path(__file__).parents[1]
KINDS = ("llava", "idefics3", "gemma3")
RECIPE = ROOT / "recipes" / "demo_emollm.yaml"


@pytest.fixture
def processors(tiny_foundations) -> dict:
    return {kind: attach_emoprompt(AutoProcessor.from_pretrained(tiny_foundations[kind])) for kind in KINDS}


@pytest.fixture(scope="module")
def rows(drawn_dataset) -> list[dict]:
    """Two rows of each task: with one picture and with several, closed and open."""
    table = load_rows([str(drawn_dataset)], "train")
    chosen = {}
    for i, (task, row_id) in enumerate(zip(table["task"], table["id"], strict=True)):
        chosen.setdefault((task, row_id.partition("#")[2]), []).append(i)
    return [table[i] for places in chosen.values() for i in places[:2]]


@pytest.fixture(scope="module")
def captions(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("captions") / "captions"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["captions.py", "--output", str(folder), "--size", "8"])
        draw_captions()
    return folder


def words(i: int, answer: str = "yes") -> dict:
    """A row without a picture."""
    messages = [
        {"role": "user", "content": [{"type": "text", "text": f"Is number {i} hateful?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    row = {"id": f"words/train/{i}", "task": "hate_detection", "images": [], "rationale": None}
    return {**row, "messages": messages}


# --- What is learned from a row


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 1.0], ids=["plain", "guided"])
def test_the_answer_and_the_end_of_its_turn_are_learned_and_nothing_else(processors, rows, kind, share):
    processor = processors[kind]
    tokenizer = processor.tokenizer
    batch = EmoBenchCollator(processor, None, share, reason_share=0.0, seed=0)(rows)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    for row, ids, labels, mask in zip(rows, batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        learned = labels != -100
        answer = row["messages"][-1]["content"][0]["text"]
        assert tokenizer.decode(labels[learned]) == answer + "<|end|>"
        assert labels[learned].tolist() == [
            *answer_token_ids(processor, row["messages"][:-1], answer),
            tokenizer.eos_token_id,
        ]
        assert torch.equal(ids[learned], labels[learned])
        assert mask[learned].all() and not mask[learned.nonzero().max() + 1 :].any()  # the last of the row
        text = tokenizer.decode(ids[mask.bool()])
        assert ("\nGive the answer alone." in text) == bool(share)
    pictures = batch["input_ids"] == tokenizer.image_token_id
    assert pictures.any() and (batch["labels"][pictures] == -100).all()
    assert not (batch["labels"] == tokenizer.pad_token_id).any()


def guided(processor, rows: list[dict], share: float, seed: int) -> set[str]:
    batch = EmoBenchCollator(processor, None, share, 0.0, seed)(rows)
    texts = processor.tokenizer.batch_decode(batch["input_ids"])
    return {row["id"] for row, text in zip(rows, texts, strict=True) if "\nGive the answer alone." in text}


def test_which_rows_are_guided_depends_on_their_id_and_the_seed_alone(processors):
    processor, rows = processors["llava"], [words(i) for i in range(400)]
    half = guided(processor, rows, 0.5, seed=0)
    assert 160 < len(half) < 240  # 4 standard deviations
    assert guided(processor, rows[::-1], 0.5, seed=0) == half
    assert guided(processor, rows[100:150], 0.5, seed=0) == half & {row["id"] for row in rows[100:150]}
    assert 160 < len(guided(processor, rows, 0.5, seed=1) ^ half) < 240  # another half
    assert guided(processor, rows, 0.1, seed=0) < half
    assert guided(processor, rows, 0.0, seed=0) == set()
    assert guided(processor, rows, 1.0, seed=0) == {row["id"] for row in rows}


@pytest.mark.parametrize("kind", KINDS)
def test_reasons_are_learned_before_the_answer(processors, rows, kind):
    processor, tokenizer = processors[kind], processors[kind].tokenizer
    rows = [{**row, "rationale": f"1. Cue {i}.\n2. More."} for i, row in enumerate(rows)]
    rows[0]["rationale"] = None  # answers all the same
    batch = EmoBenchCollator(processor, None, 1.0, 1.0, seed=0)(rows)
    for row, ids, labels in zip(rows, batch["input_ids"], batch["labels"], strict=True):
        answer = row["messages"][-1]["content"][0]["text"]
        target = f"{row['rationale']}\nAnswer: {answer}" if row["rationale"] else answer
        assert tokenizer.decode(labels[labels != -100]) == target + "<|end|>"
        asked = tokenizer.decode(ids[labels == -100])
        assert ("Reason in a short sentence for each step" in asked) == bool(row["rationale"])
        assert row["messages"][-1]["content"][0]["text"] == answer  # the caller's own is left alone


def test_which_guided_rows_reason_depends_on_their_id_and_the_seed_alone(processors):
    rows = [words(i) | {"rationale": "1. Cues."} for i in range(400)]

    def reasoned(share, emoprompt_share=1.0, seed=0):
        batch = EmoBenchCollator(processors["llava"], None, emoprompt_share, share, seed)(rows)
        texts = processors["llava"].tokenizer.batch_decode(batch["input_ids"])
        return {i for i, text in enumerate(texts) if "1. Cues.\nAnswer: yes<|end|>" in text}

    half = reasoned(0.5)
    assert 160 < len(half) < 240  # 4 standard deviations
    assert reasoned(0.1) < half and reasoned(0.0) == set() and reasoned(1.0) == set(range(400))
    assert 160 < len(reasoned(0.5, seed=1) ^ half) < 240
    assert 65 < len(reasoned(0.5, emoprompt_share=0.5)) < 135  # of the guided ones, independently
    assert reasoned(0.5, emoprompt_share=0.5) < half
    assert reasoned(1.0, emoprompt_share=0.0) == set()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_is_too_long_is_refused(processors, rows, kind):
    processor = processors[kind]
    lengths = EmoBenchCollator(processor, None, 0.5, 0.0, seed=0)(rows)["attention_mask"].sum(-1).tolist()
    longest = max(lengths)
    EmoBenchCollator(processor, longest, 0.5, 0.0, seed=0)(rows)
    with pytest.raises(ValueError, match="answer would be cut") as error:
        EmoBenchCollator(processor, longest - 1, 0.5, 0.0, seed=0)(rows)
    assert rows[lengths.index(longest)]["id"] in str(error.value)
    assert f"{longest} tokens, more than max_length={longest - 1}" in str(error.value)


@pytest.mark.parametrize("answer", ["", " \n"])
def test_a_row_without_an_answer_is_refused(processors, answer):
    with pytest.raises(ValueError, match="Row words/train/1 has no answer to learn"):
        EmoBenchCollator(processors["llava"], None, 0.5, 0.0, seed=0)([words(0), words(1, answer)])


def test_a_clip_without_frames_is_refused(processors, rows):
    clip = json.loads(json.dumps({**rows[0], "images": []}))
    clip["messages"][0]["content"][0] = {"type": "video"}
    with pytest.raises(ValueError, match=f"Row {clip['id']} is a clip without frames: build it again with --video"):
        EmoBenchCollator(processors["llava"], None, 0.5, 0.0, seed=0)([clip])


def test_plain_captions_are_learned_unguided(processors, captions):
    rows = list(load_rows([str(captions)], "train"))
    batch = EmoBenchCollator(processors["llava"], None, 1.0, 0.0, seed=0)(rows)
    assert guided(processors["llava"], rows, 1.0, seed=0) == set()
    for row, labels in zip(rows, batch["labels"], strict=True):
        learned = processors["llava"].tokenizer.decode(labels[labels != -100])
        assert learned == row["messages"][-1]["content"][0]["text"] + "<|end|>"


# --- Which rows are read


def test_datasets_are_mixed(drawn_dataset, captions):
    rows = load_rows([f"{drawn_dataset}:humor_detection,hate_detection", str(captions)], "train")
    assert rows["task"] == ["humor_detection"] * 16 + ["hate_detection"] * 16 + ["captioning"] * 8
    assert {len(images) for images in rows["images"]} == {1, 3}
    assert isinstance(rows[0]["images"][0], Image.Image) and isinstance(rows[-1]["images"][0], Image.Image)
    assert len(load_rows([str(drawn_dataset)], "train")) == 6 * 16  # emotions are asked for twice, closed and open


def test_an_unknown_config_is_refused(drawn_dataset):
    with pytest.raises(ValueError, match="has no config joke_detection; it has .*humor_detection"):
        load_rows([f"{drawn_dataset}:hate_detection,joke_detection"], "train")


def test_a_dataset_without_emobenchs_columns_is_refused(drawn_dataset, tmp_path):
    rows = load_dataset(str(drawn_dataset), "hate_detection", split="validation").select(range(2))
    rows.remove_columns(["rationale", "messages"]).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="has no column messages, rationale; build it with dataset_scripts"):
        load_rows([str(tmp_path)], "train")


# --- The command


def options(model: Path, dataset: Path | str, output: Path, **fields) -> list[str]:
    """Of a run of a few seconds on small batches."""
    fields = {"max_steps": 2, "per_device_train_batch_size": 4, "warmup_steps": 0, **fields}
    arguments = ["--model_name_or_path", model, "--datasets", dataset, "--output_dir", output, "--use_cpu"]
    return [str(part) for part in arguments] + [f"--{key}={value}" for key, value in fields.items()]


def train(model: Path, dataset: Path | str, output: Path, **fields) -> dict[str, torch.Tensor]:
    """Trains in this process and gives the saved weights."""
    parser = TrlParser((EmoLLMArguments, SFTConfig, ModelConfig))
    arguments = ["--config", str(RECIPE), *options(model, dataset, output, **fields)]
    main(*parser.parse_args_and_config(arguments))
    return load_file(output / "model.safetensors")


@pytest.fixture(scope="module")
def trained(tiny_foundations, drawn_dataset, tmp_path_factory) -> Path:
    """The folder of an EmoLLM that the command of the README's kind has trained for four steps."""
    folder = tmp_path_factory.mktemp("trained") / "emollm"
    command = [Path(sys.executable).with_name("accelerate"), "launch", "--cpu", ROOT / "train_sft.py"]
    command += ["--config", RECIPE, *options(tiny_foundations["llava"], drawn_dataset, folder, max_steps=4)]
    result = subprocess.run(
        command, cwd=folder.parent, env=os.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert f"Model saved to {folder}." in result.stdout
    return folder


def test_the_command_leaves_a_model_that_loads(trained):
    mvp_size = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["mvp_size"]
    model = AutoModelForImageTextToText.from_pretrained(trained, trust_remote_code=True)
    assert model.config.model_type == "emollm" and model.config.mvp_size == mvp_size
    gates = model.model.multi_perspective_projection.gates
    assert gates.numel() == 4 and (gates != 0).all()
    processor = AutoProcessor.from_pretrained(trained, trust_remote_code=True)
    question = [{"role": "user", "content": "Hateful?"}]
    assert "who is targeted" in processor.apply_chat_template(question, emotion_task="hate_detection")


def test_the_command_leaves_nothing_else(trained):
    assert {path.name for path in trained.iterdir()} == {
        "chat_template.jinja", "compact.py", "config.json", "configuration_emollm.py", "generation_config.json",
        "model.safetensors", "modeling_emollm.py", "mvp.py", "processor_config.json", "tokenizer.json",
        "tokenizer_config.json", "README.md",
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
        **EmoBenchCollator(processor, None, 0.5, 0.0, seed=0)(list(load_rows([dataset], "train")))
    ).loss.item()


@pytest.mark.parametrize(("upgrade", "kind"), [(False, "llava"), (True, "idefics3"), (True, "gemma3")])
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


@pytest.mark.parametrize("upgrade", [False, True])
def test_the_seed_decides_the_weights(tiny_foundations, drawn_dataset, tmp_path, upgrade):
    first, again, other = (
        train(tiny_foundations["llava"], drawn_dataset, tmp_path / name, upgrade=upgrade, seed=seed)
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


# --- Its errors


@pytest.fixture
def command(monkeypatch, tiny_foundations, drawn_dataset, tmp_path):
    """Runs `train_sft.py` as a command, but in this process."""

    def run(recipe: Path, *arguments: str, **fields):
        given = {"model": tiny_foundations["llava"], "dataset": drawn_dataset, "output": tmp_path / "output", **fields}
        monkeypatch.setattr(sys, "argv", ["train_sft.py", "--config", str(recipe), *options(**given), *arguments])
        runpy.run_path(str(ROOT / "train_sft.py"), run_name="__main__")

    return run


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


def test_what_would_have_no_effect_is_refused(command):
    with pytest.raises(ValueError, match="use_peft, lora_r would have no effect"):
        command(RECIPE, "--use_peft", "--lora_r=4")


def test_a_missing_model_is_named(command, tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        command(RECIPE, model=tmp_path / "nowhere")


def test_a_missing_dataset_is_named(command, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        command(RECIPE, dataset=tmp_path / "nowhere")


def test_no_model_at_all_is_refused(drawn_dataset):
    with pytest.raises(ValueError, match="model_name_or_path is not set"):
        main(EmoLLMArguments(datasets=[str(drawn_dataset)]), SFTConfig(use_cpu=True, bf16=False), ModelConfig())


def test_an_emollm_is_not_upgraded_twice(command, trained):
    with pytest.raises(ValueError, match="is an EmoLLM already; set upgrade to false"):
        command(RECIPE, "--trust_remote_code", model=trained)


def test_an_answer_that_would_be_cut_stops_the_training(command, tmp_path):
    with pytest.raises(ValueError, match="more than max_length=20, and its answer would be cut"):
        command(RECIPE, max_length=20, dataloader_num_workers=0)
    assert not (tmp_path / "output" / "model.safetensors").exists()


def test_the_loss_and_its_gradients_are_trls(tiny_foundations, drawn_dataset, tmp_path):
    """Ours computes fewer logits, not another loss."""
    folder = str(tiny_foundations["llava"])
    model = EmoLLMForConditionalGeneration.from_foundation(folder, mvp_size=16).train()
    processor = attach_emoprompt(AutoProcessor.from_pretrained(folder))
    rows = load_rows([str(drawn_dataset)], "train")
    trainer = EmoLLMTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(tmp_path), remove_unused_columns=False, use_cpu=True, bf16=False, report_to="none"
        ),
        data_collator=EmoBenchCollator(processor, None, 0.5, 0.0, 0),
        train_dataset=rows,
        processing_class=processor,
        datasets=[],
    )
    batch = trainer.data_collator([rows[i] for i in range(0, len(rows), 12)])

    def loss_and_gradients(compute_loss):
        model.zero_grad()
        loss = compute_loss(model, dict(batch), num_items_in_batch=torch.tensor(7))
        loss.backward()
        return loss.detach(), [
            parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None
        ]

    ours = loss_and_gradients(trainer.compute_loss)
    torch.testing.assert_close(ours, loss_and_gradients(super(EmoLLMTrainer, trainer).compute_loss))


def test_rows_of_like_length_can_be_batched_together(tiny_foundations, drawn_dataset):
    processor = attach_emoprompt(AutoProcessor.from_pretrained(tiny_foundations["llava"]))
    rows = load_rows([str(drawn_dataset)], "train")
    lengths = token_lengths(rows, processor)
    clips = [length for length, task in zip(lengths, rows["task"], strict=True) if task == "humor_detection"]
    pictures = [length for length, task in zip(lengths, rows["task"], strict=True) if task == "sarcasm_detection"]
    batch = EmoBenchCollator(processor, None, 0.0, 0.0, 0)([rows[0], rows[1]])
    assert min(clips) > max(pictures)  # three frames a clip, one picture otherwise
    assert abs(batch["attention_mask"][0].sum() - lengths[0]) < 8  # but for what opens and ends the turns
