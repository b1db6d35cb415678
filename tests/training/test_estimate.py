"""What `--estimate` says, beside what real models count and keep on this machine."""

import pytest
import torch
from sft_run import ROOT
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig
from trl import ModelConfig, SFTConfig

from modeling_emollm import EmoLLMForConditionalGeneration
from train_sft import EmoLLMArguments, main
from training.data import load_mixture
from training.estimate import ANSWER, WORDS, count, count_parameters, estimate
from training.model import choose_trainable
from training.trainer import EmoLLMTrainer


LENGTH, ROWS = WORDS + 64, 2
LAYERS = 9  # more than are counted one by one


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> LlavaConfig:
    """A small LLaVA, in a folder that has its config and nothing else."""
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**shape, num_hidden_layers=3, image_size=64, patch_size=16),
        text_config=LlamaConfig(**shape, num_hidden_layers=LAYERS, vocab_size=512, num_key_value_heads=2),
        image_token_index=511,
    )
    config.save_pretrained(tmp_path_factory.mktemp("config"))
    return config


@pytest.fixture
def arguments(config, tmp_path):
    """The three kinds of arguments of a training that is to be estimated."""
    config.save_pretrained(tmp_path)

    def make(train: str = "mvp+lora", number: int | None = None, **fields):
        script_args = EmoLLMArguments(
            datasets=["data"], train=train, upgrade=True, mvp_size=64, visual_tokens_per_image=number, estimate=True
        )
        fields = {"activation_checkpointing": False, "max_length": LENGTH, "bf16": False, **fields}
        fields = {"per_device_train_batch_size": ROWS, "use_cpu": True, "report_to": "none", **fields}
        training_args = SFTConfig(output_dir=str(tmp_path / "output"), remove_unused_columns=False, **fields)
        return script_args, training_args, ModelConfig(model_name_or_path=str(tmp_path))

    return make


def real(config: LlavaConfig, train: str):
    foundation = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa")
    model = EmoLLMForConditionalGeneration.from_foundation(foundation, mvp_size=64)
    return choose_trainable(model, train, ModelConfig()).train(), foundation


def real_step(model, training_args, tiny_foundations, drawn_dataset, config) -> tuple[int, int]:
    """FLOPs of a step of the trainer, and the bytes that autograd keeps for its backward pass."""
    processor = AutoProcessor.from_pretrained(tiny_foundations["llava"])
    rows = load_mixture([f"{drawn_dataset}:hate_detection"], None, "train", 0)
    trainer = EmoLLMTrainer(model=model, args=training_args, train_dataset=rows, processing_class=processor)
    if training_args.activation_checkpointing:  # as Trainer does when it begins
        model.activation_checkpointing_enable()
    ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    ids[:, : LENGTH - WORDS] = config.image_token_id
    labels = torch.full_like(ids, -100)
    labels[:, -ANSWER:] = ids[:, -ANSWER:]
    pixels = torch.rand(ROWS * (LENGTH - WORDS) // 16, 3, 64, 64)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "pixel_values": pixels}
    kept, weights = {}, {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = trainer.compute_loss(model, batch, num_items_in_batch=torch.tensor(ROWS * ANSWER))
        loss.backward()
    return counter.get_total_flops(), sum(kept.values())


@pytest.mark.parametrize("train", ["mvp", "mvp+lora", "mvp+lora+projector", "full"])
def test_the_parameters_are_those_of_the_real_model(config, arguments, train):
    model, foundation = real(config, train)
    counted = count(*arguments(train))
    parts = count_parameters(counted.model, counted.foundation)
    assert parts == count_parameters(model, foundation)
    assert sum(trained for _, trained in parts.values()) == model.num_parameters(only_trainable=True)
    text = foundation.get_decoder().num_parameters() + foundation.get_output_embeddings().weight.numel()
    lora = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    assert parts["language model"] == (text - lora, (text - lora) * (train == "full"))
    assert parts["LoRA"] == (lora, lora) and bool(lora) == ("lora" in train)
    mvp = sum(
        p.numel() for n, p in model.named_parameters() if "projection" in n and "multi_p" in n and p.requires_grad
    )
    assert parts["MVP"] == (mvp, mvp)
    every = sum(p.numel() for n, p in model.named_parameters() if ".original_module." not in n)
    assert sum(number for number, _ in parts.values()) == every


@pytest.mark.parametrize("checkpointed", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("train", ["mvp+lora", "full"])
def test_flops_and_activations_are_those_of_a_real_step(
    config, arguments, tiny_foundations, drawn_dataset, train, checkpointed
):
    given = arguments(train, activation_checkpointing=checkpointed)
    model, _ = real(config, train)
    flops, kept = real_step(model, given[1], tiny_foundations, drawn_dataset, config)
    counted = count(*given)
    assert counted.flops == pytest.approx(flops, rel=0.02)
    # Beside what is kept for it, the backward pass needs room to work in: for all that one layer keeps, where that
    # is computed again.
    assert kept <= counted.activations <= (4 if checkpointed else 1.3) * kept


def test_layers_that_are_not_counted_take_what_the_counted_ones_take(arguments, monkeypatch):
    few = count(*arguments())
    monkeypatch.setattr("training.estimate.DEPTHS", (LAYERS - 1, LAYERS))
    every = count(*arguments())
    assert few.flops == every.flops and few.activations == pytest.approx(every.activations, rel=0.01)


def test_activations_are_near_the_formula_and_grow_with_the_rows(config, arguments):
    """Korthikanti et al. (2022): 34 s b h bytes a layer in 16 bit; SwiGLU and grouped queries are another layer."""
    one, two = (count(*arguments("full", per_device_train_batch_size=rows, bf16=True)) for rows in (1, 2))
    formula = 34 * LENGTH * config.text_config.hidden_size * LAYERS
    assert 0.5 < (two.activations - one.activations) / formula < 2
    assert two.flops == pytest.approx(2 * one.flops, rel=1e-3)


def test_fewer_visual_tokens_leave_room_for_more_pictures(arguments):
    assert (count(*arguments()).tokens, count(*arguments()).pictures) == (16, 4)
    compact = count(*arguments(number=4))
    assert (compact.tokens, compact.pictures) == (4, 16)


def test_the_command_prints_it_and_trains_nothing(arguments, capsys, tmp_path):
    main(*arguments())
    printed = capsys.readouterr().out
    line = {text.split("  ")[0]: text.split() for text in printed.split("\n")}
    assert int(line["together"][1].replace(",", "")) > int(line["together"][2].replace(",", "")) > 0
    assert line["fits 24/40/80/141"][2:] == ["24"] * 4
    assert not (tmp_path / "output").exists() and [path.name for path in tmp_path.iterdir()] == ["config.json"]


def table(text: str) -> dict[str, list[float]]:
    rows = [line for line in text.split("\n") if line.startswith(("weights  ", "gradients", "optimizer", "gathered"))]
    return {line.split("  ")[0]: [float(number) for number in line.split()[-4:]] for line in rows}


def test_states_are_shared_out_where_they_are_sharded(arguments, monkeypatch):
    monkeypatch.setattr("training.estimate.DEPTHS", (1, 2))
    script_args, training_args, model_args = arguments("full", max_length=WORDS + 256, per_device_train_batch_size=1)
    model_args.model_name_or_path = str(ROOT / "tests" / "training" / "foundation_configs" / "gemma3_12b.json")
    rows = table(estimate(script_args, training_args, model_args))
    weights = 12.2 * 4  # billions of parameters, in float32
    assert rows["weights"] == pytest.approx([weights, weights, weights / 8, weights / 16], rel=0.02)
    assert rows["gradients"] == rows["weights"] and rows["optimizer states"] == pytest.approx(
        [2 * number for number in rows["weights"]], abs=0.1
    )
    assert rows["gathered, in buckets"][0] == 0 and rows["gathered, in buckets"][1] == rows["gradients"][0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_length": None}, "max_length is null: give the number of tokens of the longest row"),
        ({"max_length": WORDS + 15}, f"leaves 15 tokens beside {WORDS} of text, but a picture takes 16: raise it to"),
        ({"optim": "adafactor"}, "optim=adafactor: the memory of adamw_torch"),
    ],
)
def test_what_can_not_be_estimated_is_refused(arguments, fields, message):
    with pytest.raises(ValueError, match=message):
        estimate(*arguments(**fields))


def test_no_model_at_all_is_refused(arguments):
    script_args, training_args, _ = arguments()
    with pytest.raises(ValueError, match="model_name_or_path is not set"):
        estimate(script_args, training_args, ModelConfig())
