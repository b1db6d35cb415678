"""An EmoLLM is a model like any other of transformers, for pipelines, peft, accelerate, quantizers and compilers."""

import contextlib
import copy
import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from PIL import Image
from safetensors.torch import load_file, save_file
from test_modeling_emollm import batch, upgrade
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedModel,
    pipeline,
)  # fmt: skip

from benchmarks.conformance.checks import as_if_trained
from modeling_emollm import EmoLLMForConditionalGeneration, EmoLLMModel


MVP = "multi_perspective_projection"


@pytest.fixture(scope="module", params=["llava", "idefics3", "gemma3"])
def foundation(request, tiny_foundations) -> str:
    return str(tiny_foundations[request.param])


@pytest.fixture(scope="module")
def llava(tiny_foundations) -> str:
    return str(tiny_foundations["llava"])


@pytest.fixture(scope="module")
def inputs(foundation) -> dict:
    return inputs_of(foundation, 1, 2)


@pytest.fixture(scope="module")
def emollm(foundation, tmp_path_factory) -> str:
    """A saved EmoLLM that acts as if trained, so that its answers are not its foundation's."""
    return save(as_if_trained(upgrade(foundation)), tmp_path_factory.mktemp("emollm") / "model", foundation)


def save(model, folder, foundation: str) -> str:
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(foundation).save_pretrained(folder)
    return str(folder)


def load(folder: str, **options) -> EmoLLMForConditionalGeneration:
    return EmoLLMForConditionalGeneration.from_pretrained(folder, **options)


def plain_foundation(folder: str, **options) -> PreTrainedModel:
    return AutoModelForImageTextToText.from_pretrained(folder, **options)


def inputs_of(folder: str, *pictures: int) -> dict:
    return batch(AutoProcessor.from_pretrained(folder), *pictures)


@torch.no_grad()
def logits_of(model, inputs: dict) -> torch.Tensor:
    return model(**inputs).logits


def tokens_of(model, inputs: dict, **options) -> torch.Tensor:
    torch.manual_seed(3)
    return model.generate(**inputs, **{"min_new_tokens": 6, "max_new_tokens": 6, **options})


def mvp_of(model) -> nn.Module:
    return model.get_submodule(f"model.{MVP}")


def dtypes_of(module: nn.Module) -> set[torch.dtype]:
    return {parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()}


def quantized_in(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if type(module).__module__.startswith("bitsandbytes")}


def places_of(foundation: str, offloaded: str, prefix: str = "", **others: str) -> str | dict[str, str]:
    """A device map of the foundation's parts, one of them on the disk; a language model goes with its head, which may
    be tied to it."""
    parts = [f"model.{name}" for name, _ in plain_foundation(foundation).base_model.named_children()] + ["lm_head"]
    ends = ("language_model", "text_model", "lm_head") if offloaded == "language model" else offloaded
    places = {f"{prefix}{name}": "disk" if name.endswith(ends) else "cpu" for name in parts}
    return "auto" if offloaded == "auto" else places | others


def lora() -> LoraConfig:
    """On the language model alone, with MVP trained whole; a bare `q_proj` would reach the eye too."""
    pattern = r".*(language|text)_model.*\.q_proj"
    return LoraConfig(r=4, target_modules=pattern, modules_to_save=[MVP], init_lora_weights=False)


def train(model: nn.Module, inputs: dict) -> set[str]:
    """The names of the parameters that one step of AdamW changes."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    optimizer.step()
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


def test_a_pipeline_answers_what_generate_does(emollm):
    picture = {"type": "image", "image": Image.linear_gradient("L")}
    chat = [{"role": "user", "content": [picture, {"type": "text", "text": "How do they feel?"}]}]
    pipe = pipeline("image-text-to-text", model=emollm, trust_remote_code=True)
    # Words: tied to its embeddings, the tiny Gemma would say its last token, <|assistant|>, again and again.
    options = {"suppress_tokens": list(pipe.tokenizer.added_tokens_decoder), "max_new_tokens": 6}
    answers = pipe(text=chat, generate_kwargs=options, return_full_text=False)
    inputs = inputs_of(emollm, 1)
    tokens = load(emollm).generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
    expected = AutoProcessor.from_pretrained(emollm).batch_decode(tokens, skip_special_tokens=True)
    assert [answer["generated_text"] for answer in answers] == expected and expected[0]


def test_lora_beside_mvp(emollm, inputs, tmp_path):
    torch.manual_seed(0)
    model = get_peft_model(load(emollm), lora())
    changed = train(model, inputs)
    ours = {name for name, _ in model.named_parameters() if f"{MVP}.modules_to_save" in name}
    adapters = {name for name, _ in model.named_parameters() if "lora_" in name}
    assert changed == ours | adapters and ours and adapters
    model.save_pretrained(tmp_path / "adapter")
    expected = logits_of(model.eval(), inputs)
    assert not torch.equal(expected, logits_of(load(emollm), inputs))
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "adapter", trust_remote_code=True)
    assert torch.equal(logits_of(again, inputs), expected)
    merged = PeftModel.from_pretrained(load(emollm), tmp_path / "adapter").merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    for whole in (merged, load(tmp_path / "merged")):
        torch.testing.assert_close(logits_of(whole, inputs), expected)


STATIC, UNCACHED = {"cache_implementation": "static"}, {"use_cache": False}
SAMPLES, BEAMS = {"do_sample": True, "num_return_sequences": 3}, {"num_beams": 2, "num_return_sequences": 2}


@pytest.mark.parametrize("options", [STATIC, UNCACHED, SAMPLES, BEAMS], ids=str)
def test_generation_as_the_foundation_does(foundation, inputs, options):
    model = upgrade(foundation)
    expected = tokens_of(plain_foundation(foundation), inputs, **options)
    assert torch.equal(tokens_of(model, inputs, **options), expected)
    model.generation_config.update(**options)
    assert torch.equal(tokens_of(model, inputs), expected)


def test_generation_refines_what_is_seen(foundation, emollm, inputs):
    model, plain = load(emollm), plain_foundation(foundation)
    outputs = tokens_of(model, inputs, output_logits=True, return_dict_in_generate=True)
    torch.testing.assert_close(outputs.logits[0], logits_of(model, inputs)[:, -1])
    assert not torch.allclose(outputs.logits[0], logits_of(plain, inputs)[:, -1])
    for options in (STATIC, UNCACHED):
        assert torch.equal(tokens_of(model, inputs, **options), outputs.sequences)


@pytest.mark.parametrize("helper", ["emollm", "foundation"])
def test_assisted_generation(foundation, emollm, helper):
    inputs = inputs_of(foundation, 1)
    assistant = load(emollm) if helper == "emollm" else plain_foundation(foundation)
    for model in (upgrade(foundation), load(emollm)):
        assert torch.equal(tokens_of(model, inputs, assistant_model=assistant), tokens_of(model, inputs))


@pytest.mark.parametrize("pictures", [0, 1])
def test_a_conversation_goes_on_from_its_cache(foundation, pictures):
    processor = AutoProcessor.from_pretrained(foundation)

    def converse(model):
        inputs = batch(processor, 1)
        first = tokens_of(model, inputs, return_dict_in_generate=True)
        turn = batch(processor, pictures)
        turn["input_ids"] = torch.cat([first.sequences, turn["input_ids"]], dim=1)
        turn["attention_mask"] = torch.ones_like(turn["input_ids"])
        turn.pop("token_type_ids", None)
        return tokens_of(model, turn, past_key_values=first.past_key_values)

    assert torch.equal(converse(upgrade(foundation)), converse(plain_foundation(foundation)))


@pytest.mark.parametrize("part", ["auto", MVP, "language model"])
def test_a_device_map_places_and_offloads(foundation, emollm, inputs, part, tmp_path):
    mvp = {f"model.{MVP}": "disk" if part == MVP else "cpu"}
    places = places_of(foundation, part, "model.foundation.", **mvp)
    model, plain = load(emollm, device_map=places, offload_folder=tmp_path), load(emollm)
    assert {p.device.type for p in model.parameters()} == ({"cpu"} if part == "auto" else {"cpu", "meta"})
    assert torch.equal(logits_of(model, inputs), logits_of(plain, inputs))
    assert torch.equal(tokens_of(model, inputs), tokens_of(plain, inputs))


@pytest.mark.parametrize("part", ["auto", "vision_tower", "language model"])
def test_an_offloaded_foundation_is_upgraded(llava, part, tmp_path):
    inputs = inputs_of(llava, 1, 2)
    model = upgrade(llava, device_map=places_of(llava, part))
    assert torch.equal(logits_of(model, inputs), logits_of(plain_foundation(llava), inputs))
    expected = logits_of(as_if_trained(model), inputs)
    assert torch.equal(logits_of(load(save(model, tmp_path, llava)), inputs), expected)


def test_low_precision(foundation, emollm, inputs):
    plain = plain_foundation(foundation, dtype=torch.bfloat16)
    upgraded = upgrade(foundation, dtype=torch.bfloat16)
    loaded = load(emollm, dtype=torch.bfloat16)
    assert dtypes_of(upgraded) == dtypes_of(loaded) == {torch.bfloat16}
    assert torch.equal(logits_of(upgraded, inputs), logits_of(plain, inputs))
    expected = logits_of(load(emollm), inputs)
    # bfloat16 keeps eight bits, so a hundredth of the largest value, a few times over.
    tolerance = dict(atol=0.04 * expected.abs().max().item(), rtol=0)
    torch.testing.assert_close(logits_of(loaded, inputs).float(), expected, **tolerance)
    for model in (upgraded, loaded):
        mvp_of(model).float()
        assert dtypes_of(mvp_of(model)) == {torch.float32} and dtypes_of(model.foundation) == {torch.bfloat16}
        encoded, _ = model.model.encode(inputs["input_ids"], inputs)
        assert {features.dtype for features in encoded["mm_encoder_outputs"]["image"].pooler_output} == {
            torch.bfloat16
        }
    assert torch.equal(logits_of(upgraded, inputs), logits_of(plain, inputs))
    torch.testing.assert_close(logits_of(loaded, inputs).float(), expected, **tolerance)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_foundation_beside_mvp_as_it_is(foundation, inputs, bits, tmp_path, monkeypatch):
    # On CPUs with bf16, bitsandbytes packs 4-bit weights anew, which rounds their scales and fails below 64 channels.
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    quantized = {"quantization_config": BitsAndBytesConfig(**{f"load_in_{bits}bit": True})}
    plain, model = plain_foundation(foundation, **quantized), upgrade(foundation, **quantized)
    names = {f"model.foundation.{name}" for name in quantized_in(plain)}
    assert quantized_in(model) == names and names
    assert torch.equal(logits_of(model, inputs), logits_of(plain, inputs))
    expected = logits_of(as_if_trained(model), inputs)
    again = load(save(model, tmp_path, foundation))
    assert quantized_in(again) == names and torch.equal(logits_of(again, inputs), expected)
    base = EmoLLMModel.from_pretrained(tmp_path)
    assert {f"model.{name}" for name in quantized_in(base)} == names


def test_a_saved_model_is_quantized_but_for_mvp(foundation, emollm, inputs):
    quantized = {"quantization_config": BitsAndBytesConfig(load_in_4bit=True)}
    plain, model = plain_foundation(foundation, **quantized), load(emollm, **quantized)
    assert quantized_in(model) == {f"model.foundation.{name}" for name in quantized_in(plain)}
    assert dtypes_of(mvp_of(model)) == {torch.float32}
    assert torch.equal(mvp_of(model).down.weight, mvp_of(load(emollm)).down.weight)
    trained = get_peft_model(prepare_model_for_kbit_training(model), lora())
    assert train(trained, inputs) == {name for name, p in trained.named_parameters() if p.requires_grad}


def test_modules_that_a_quantizer_shall_skip(llava, tmp_path):
    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["model.vision_tower", "lm_head"])
    model = upgrade(llava, quantization_config=config)
    assert quantized_in(model) and not [n for n in quantized_in(model) if "vision_tower" in n or "lm_head" in n]
    assert quantized_in(load(save(model, tmp_path, llava))) == quantized_in(model)


def test_tokens_can_be_added(foundation, emollm, inputs, tmp_path):
    model = load(emollm)
    before = logits_of(model, inputs)
    width = before.shape[-1]
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied == ("gemma3" in foundation)
    model.resize_token_embeddings(width + 3)
    after = logits_of(model, inputs)
    assert after.shape[-1] == width + 3 and torch.equal(after[..., :width], before)
    assert model(**inputs, labels=inputs["input_ids"]).loss.isfinite()
    again = load(save(model, tmp_path, foundation))
    assert again.config.get_text_config().vocab_size == width + 3
    assert torch.equal(logits_of(again, inputs), after)
    for one in (model, again):
        assert (one.get_input_embeddings().weight is one.get_output_embeddings().weight) == tied


@pytest.mark.parametrize("damage", ["missing", "unexpected", "mismatched"])
def test_damaged_weights_are_refused(llava, tmp_path, damage):
    def break_weights(source, folder: Path, end: str) -> Path:
        shutil.copytree(source, folder)
        weights = load_file(folder / "model.safetensors")
        (name,) = [name for name in weights if name.endswith(end)]
        weights[f"{name}_too" if damage == "unexpected" else name] = torch.ones(7)
        if damage == "missing":
            del weights[name]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    save(upgrade(llava), tmp_path / "emollm", llava)
    for end in (f"{MVP}.up.weight", "multi_modal_projector.linear_1.weight"):
        folder = break_weights(tmp_path / "emollm", tmp_path / end, end)
        for auto in (AutoModelForImageTextToText, AutoModel):
            with pytest.raises(ValueError, match=rf"{damage}: .*{re.escape(end)}"):
                auto.from_pretrained(folder, trust_remote_code=True)
    folder = break_weights(llava, tmp_path / "foundation", "multi_modal_projector.linear_1.weight")
    # What a foundation does not use is its own affair.
    refused = pytest.raises(ValueError, match=rf"{damage}: .*linear_1\.weight")
    with contextlib.nullcontext() if damage == "unexpected" else refused:
        upgrade(str(folder))


def test_the_kind_of_attention_is_the_foundations(foundation, emollm, inputs):
    def kinds(model):
        return {part.config._attn_implementation for part in model.modules() if isinstance(part, PreTrainedModel)}

    seen = inputs["attention_mask"].bool()  # what is padding is anybody's guess
    expected = logits_of(load(emollm), inputs)[seen]
    switched = load(emollm)
    switched.set_attn_implementation("eager")
    for kind in ("eager", "sdpa"):
        for model in (load(emollm, attn_implementation=kind), switched if kind == "eager" else load(emollm)):
            assert kinds(model) == {kind}
            torch.testing.assert_close(logits_of(model, inputs)[seen], expected)
            attentions = model(**inputs, output_attentions=True).attentions
            assert any(a is not None for a in attentions) == (kind == "eager")
        assert kinds(upgrade(plain_foundation(foundation, attn_implementation=kind))) == {kind}
    mixed = plain_foundation(foundation, attn_implementation={"vision_config": "eager", "text_config": "sdpa"})
    upgraded = upgrade(mixed)
    assert kinds(mixed) == {"eager", "sdpa"} and upgraded.config.foundation_config is mixed.config


@pytest.mark.parametrize("trainable", ["everything", "MVP"])
def test_activation_checkpointing(emollm, inputs, trainable):
    def backward(model) -> tuple[torch.Tensor, dict, int]:
        calls = []
        mvp_of(model).norm.register_forward_hook(lambda *_: calls.append(1))
        model.zero_grad()
        loss = model(**inputs, labels=inputs["input_ids"]).loss
        loss.backward()
        return loss, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, len(calls)

    def prepare():
        model = load(emollm).train()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trainable == "everything" or MVP in name)
        return model

    loss, gradients, calls = backward(prepare())
    assert calls == 1 and any(MVP in name for name in gradients)
    for enable in ("gradient_checkpointing_enable", "activation_checkpointing_enable"):
        model = prepare()
        getattr(model, enable)()
        again, same, calls = backward(model)
        assert calls == 2  # once more on the way back
        assert torch.equal(again, loss) and same.keys() == gradients.keys()
        assert all(torch.equal(same[name], gradients[name]) for name in gradients)


@torch.no_grad()
@pytest.mark.parametrize(("compact", "batches"), [(None, ([3, 9], [5, 5, 12])), (4, ([16, 16], [16, 16, 16]))])
def test_mvp_compiles_whole_and_once(llava, compact, batches):
    mvp = mvp_of(as_if_trained(upgrade(llava, visual_tokens_per_image=compact)))
    # Without a graph break; a backend that compiles for real takes longer than all other tests together.
    compiled = torch.compile(mvp, fullgraph=True, dynamic=True, backend="eager")
    for lengths, stance in zip(batches, ("default", "fail_on_recompile"), strict=True):
        valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        index, images = valid.flatten().nonzero().squeeze(-1), torch.arange(len(lengths))
        given = torch.randn(sum(lengths), 32), index, valid, images // 2, images % 2
        with torch.compiler.set_stance(stance):
            torch.testing.assert_close(compiled(*given), mvp(*given))


def test_embeddings_and_sizes_are_the_whole_models(foundation, emollm):
    model = load(emollm)
    plain = plain_foundation(foundation)
    assert model.get_input_embeddings() is model.foundation.get_input_embeddings()
    assert model.model.get_input_embeddings() is model.get_input_embeddings()
    assert model.get_output_embeddings() is model.foundation.lm_head
    assert model.num_parameters() == plain.num_parameters() + sum(p.numel() for p in mvp_of(model).parameters())
    embeddings, head = copy.deepcopy(model.get_input_embeddings()), copy.deepcopy(model.get_output_embeddings())
    model.set_input_embeddings(embeddings)
    model.set_output_embeddings(head)
    assert model.foundation.get_input_embeddings() is embeddings and model.foundation.lm_head is head


def test_every_key_of_a_saved_config_is_declared(emollm):
    saved = json.loads((Path(emollm) / "config.json").read_text())
    declared = {field.name for field in dataclasses.fields(load(emollm).config)}
    # transformers writes these into every config.
    assert set(saved) <= declared | {"auto_map", "model_type", "transformers_version"}
