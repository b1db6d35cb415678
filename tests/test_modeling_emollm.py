"""EmoLLM as its users meet it: upgraded from a foundation, saved, loaded in a fresh interpreter, looked into."""

import copy
import inspect
import itertools
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PaliGemmaProcessor,
    Pix2StructConfig,
    Pix2StructForConditionalGeneration,
    Pix2StructImageProcessorPil,
    Pix2StructProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2Model,
    SiglipImageProcessorPil,
)

from benchmarks.conformance.__main__ import FAMILIES
from benchmarks.conformance.checks import as_if_trained, make_family
from modeling_emollm import (
    PERSPECTIVES,
    EmoLLMConfig,
    EmoLLMForConditionalGeneration,
    attach_emoprompt,
    compact_processor,
    encode_chats,
)
from modeling_emollm.mvp import MultiPerspectiveVisualProjection, init_mvp_weights


TOKEN = 90  # of an image in the models below that have no processor here
TEXT = dict(
    hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
    vocab_size=99, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip


def qwen2_5_vl():
    """A row with one image of 4 visual tokens, beside one with images of 8 and 4."""
    vision = dict(depth=1, hidden_size=32, intermediate_size=32, num_heads=4, out_hidden_size=32, patch_size=14)
    text = {**TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}
    config = Qwen2_5_VLConfig(vision_config=vision, text_config=text, image_token_id=TOKEN, video_token_id=91)
    grid = torch.tensor([[1, 4, 4], [1, 4, 8], [1, 4, 4]])
    inputs = {"pixel_values": torch.randn(16 + 32 + 16, 3 * 2 * 14 * 14), "image_grid_thw": grid}
    rows = [[0] * 9 + [5] + [TOKEN] * 4 + [6, 7], [5] + [TOKEN] * 8 + [8] + [TOKEN] * 4 + [6, 7]]
    return Qwen2_5_VLForConditionalGeneration(config), rows, inputs


def internvl():
    """One row with two images beside one with a single image."""
    vision = InternVLVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4, image_size=[16, 16],
        patch_size=[4, 4],
    )  # fmt: skip
    config = InternVLConfig(vision_config=vision, text_config=Qwen2Config(**TEXT), image_token_id=TOKEN)
    rows = [[5, *[TOKEN] * 8, 6, 7], [0] * 4 + [5, *[TOKEN] * 4, 6, 7]]
    return InternVLForConditionalGeneration(config), rows, {"pixel_values": torch.randn(3, 3, 16, 16)}


@pytest.fixture(params=["llava", "idefics3", "gemma3", "paddleocr_vl", "qwen2_5_vl", "internvl"])
def foundation_and_inputs(request, tiny_foundations):
    """A foundation model, and a batch of two rows with different numbers of visual tokens."""
    torch.manual_seed(0)
    if request.param in tiny_foundations:
        folder = tiny_foundations[request.param]
        return AutoModelForImageTextToText.from_pretrained(folder), batch(AutoProcessor.from_pretrained(folder), 1, 2)
    model, rows, inputs = {"qwen2_5_vl": qwen2_5_vl, "internvl": internvl}[request.param]()
    input_ids = torch.tensor(rows)
    return model.eval(), {"input_ids": input_ids, "attention_mask": (input_ids != 0).long(), **inputs}


def batch(processor, *pictures: int) -> dict:
    """Inputs of one row for each number of pictures."""
    images = [[Image.linear_gradient("L").rotate(70 * i) for i in range(number)] for number in pictures]
    messages = [
        [{"role": "user", "content": [*[{"type": "image"}] * number, {"type": "text", "text": "How do they feel?"}]}]
        for number in pictures
    ]
    return dict(encode_chats(processor, messages, images))


def upgrade(foundation, **fields) -> EmoLLMForConditionalGeneration:
    torch.manual_seed(1)
    return EmoLLMForConditionalGeneration.from_foundation(foundation, **{"mvp_size": 16, **fields})


@pytest.fixture(scope="module")
def llava(tiny_foundations):
    folder = tiny_foundations["llava"]
    return as_if_trained(upgrade(str(folder))), attach_emoprompt(AutoProcessor.from_pretrained(folder))


@torch.no_grad()
def test_an_upgrade_starts_as_its_foundation(foundation_and_inputs):
    foundation, inputs = foundation_and_inputs
    options = [{}, {"num_beams": 3}, {"do_sample": True}]

    def generate(model, option):
        torch.manual_seed(3)
        return model.generate(**inputs, **option, min_new_tokens=6, max_new_tokens=6)

    logits = foundation(**inputs).logits
    generated = [generate(foundation, option) for option in options]
    model = upgrade(foundation, probe=inputs)
    assert torch.equal(model(**inputs).logits, logits)
    assert all(torch.equal(generate(model, option), ids) for option, ids in zip(options, generated, strict=True))
    assert not torch.equal(as_if_trained(model)(**inputs).logits, logits)


@torch.no_grad()
def test_embeddings_of_placeholders_stand_for_them(foundation_and_inputs):
    foundation, inputs = foundation_and_inputs
    model = as_if_trained(upgrade(foundation))
    named = model(**inputs, output_perspectives=True).perspectives["image"]
    inputs["inputs_embeds"] = foundation.get_input_embeddings()(inputs.pop("input_ids"))
    seen = model(**inputs, output_perspectives=True).perspectives["image"]
    assert seen.keys() == named.keys() and all(torch.equal(seen[name], named[name]) for name in named)
    with pytest.raises(ValueError, match="needs input_ids or inputs_embeds beside pixels"):
        model(**{**inputs, "inputs_embeds": None})


def test_what_a_user_put_into_a_foundation_stays(tiny_foundations):
    foundation = AutoModelForImageTextToText.from_pretrained(tiny_foundations["llava"])
    foundation.lm_head = torch.nn.Linear(32, foundation.lm_head.out_features, bias=False)
    expected = foundation.lm_head.weight.clone()
    model = upgrade(foundation)
    assert torch.equal(model.get_output_embeddings().weight, expected) and not model.training


def test_model_and_processor_are_of_the_revision_asked_for(tiny_foundations, monkeypatch):
    asked = []
    for auto in (AutoModelForImageTextToText, AutoProcessor):

        def from_pretrained(*args, load=auto.from_pretrained, **kwargs):
            asked.append(kwargs["revision"])
            return load(*args, **kwargs)

        monkeypatch.setattr(auto, "from_pretrained", from_pretrained)
    upgrade(str(tiny_foundations["llava"]), revision="v1.0")
    assert asked == ["v1.0", "v1.0"]


@pytest.mark.parametrize("size", [8, 72, 200])
def test_the_bottleneck_has_any_size_that_configs_allow(tiny_foundations, size):
    upgrade(Path(tiny_foundations["llava"]), mvp_size=size)  # is compared with its foundation on the way


@torch.no_grad()
def test_an_upgrade_that_differs_is_refused(tiny_foundations, monkeypatch):
    folder = str(tiny_foundations["llava"])
    probe = batch(AutoProcessor.from_pretrained(folder), 1)
    upgrade(folder, probe={**probe, "logits_to_keep": 1})  # not all that processors make are tensors
    monkeypatch.setattr(init_mvp_weights.__globals__["init"], "zeros_", torch.nn.init.ones_)  # an `up`, too
    for given in (None, probe):
        with pytest.raises(ValueError, match="upgrade of LlavaForConditionalGeneration differs from it by"):
            upgrade(folder, probe=given)


def test_an_untrained_upgrade_learns_from_the_second_step_on(foundation_and_inputs):
    """The first step is `up`'s alone; then nothing stands between the loss and any other weight."""
    foundation, inputs = foundation_and_inputs
    model = upgrade(foundation)
    mvp = model.model.multi_perspective_projection
    optimizer = torch.optim.AdamW(mvp.parameters(), lr=1e-3)
    learning = []
    for _ in range(2):
        optimizer.zero_grad()
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        learning.append({name for name, parameter in mvp.named_parameters() if parameter.grad.any()})
        optimizer.step()
    assert learning == [{"up.weight"}, {name for name, _ in mvp.named_parameters()}]
    assert mvp.up.weight.any() and not mvp.gates.eq(1).any()


def test_every_part_of_mvp_learns(foundation_and_inputs):
    foundation, inputs = foundation_and_inputs
    model = as_if_trained(upgrade(foundation))
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    for name, parameter in model.model.multi_perspective_projection.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_a_fresh_interpreter_loads_what_was_saved(llava, tmp_path):
    model, processor = llava
    inputs, folder = batch(processor, 1, 2), tmp_path / "model"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    assert not [path.name for path in folder.glob("*.json") if "/foundations" in path.read_text()], "a local path"
    files = {path.name for path in folder.iterdir()}
    assert {path for path in files if path.endswith(".py")} == {
        "compact.py", "configuration_emollm.py", "modeling_emollm.py", "mvp.py",
    }  # fmt: skip
    outputs = {"logits": model(**inputs).logits, "hidden": model.model(**inputs).last_hidden_state}
    save_file({**inputs, **outputs}, tmp_path / "expected.safetensors")
    code = f"""
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor
expected = load_file({str(tmp_path / "expected.safetensors")!r})
logits, hidden = expected.pop("logits"), expected.pop("hidden")
options = dict(trust_remote_code=True)
with torch.no_grad():
    model = AutoModelForImageTextToText.from_pretrained({str(folder)!r}, **options)
    torch.testing.assert_close(model(**expected).logits, logits)
    base = AutoModel.from_pretrained({str(folder)!r}, **options)
    torch.testing.assert_close(base(**expected).last_hidden_state, hidden)
    processor = AutoProcessor.from_pretrained({str(folder)!r}, **options)
    question = [dict(role="user", content="Hateful?")]
    assert "who is targeted" in processor.apply_chat_template(question, emotion_task="hate_detection")
    assert "who is targeted" not in processor.apply_chat_template(question)
    model.save_pretrained({str(tmp_path / "again")!r})
    again = AutoModelForImageTextToText.from_pretrained({str(tmp_path / "again")!r}, **options)
    torch.testing.assert_close(again(**expected).logits, logits)
print(type(model).__module__)
"""
    command = [sys.executable, "-I", "-c", code]  # isolated: no working folder and no PYTHONPATH to import ours from
    result = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.startswith("transformers_modules.")


@torch.no_grad()
def test_a_row_does_not_depend_on_its_neighbours(llava):
    model, processor = llava
    together = batch(processor, 1, 3, 2)
    alone = [batch(processor, number) for number in (1, 3, 2)]
    logits = model(**together).logits[:, -1]
    torch.testing.assert_close(logits, torch.cat([model(**one).logits[:, -1] for one in alone]))


@torch.no_grad()
def test_text_without_pictures_is_the_foundations(llava):
    model, processor = llava
    inputs = batch(processor, 0)
    assert torch.equal(model(**inputs).logits, model.foundation(**inputs).logits)


@torch.no_grad()
def test_perspectives_can_be_looked_at(llava):
    model, processor = llava
    seen = model(**batch(processor, 1, 2), output_perspectives=True).perspectives["image"]
    number, tokens = 3, int(seen["lengths"][0])
    assert seen["sample"].tolist() == [0, 1, 1] and seen["position"].tolist() == [0, 0, 1]
    torch.testing.assert_close(seen["holistic"].sum(-1), torch.ones(number))
    torch.testing.assert_close(seen["content"].sum(-1), torch.ones(number, 8), atol=1e-3, rtol=0)
    assert seen["content"].shape == (number, 8, tokens)
    assert (seen["relation"].diagonal(dim1=1, dim2=2) == 0).all()  # no slot listens to itself
    assert ((seen["relation"] > 0).sum(-1) == 3).all()
    assert (seen["temporal"][0, :, 1:] == 0).all() and (seen["temporal"][1:, :, 0] == 0).all()  # within a sample only
    torch.testing.assert_close(seen["gates"], torch.tensor([0.3, 0.5, 0.7, 0.9]).tanh())


@torch.no_grad()
def test_the_default_device_is_nobodys_concern(llava):
    model, processor = llava
    inputs = batch(processor, 1, 2)
    expected = model.model.encode(inputs["input_ids"], inputs)[0]["mm_encoder_outputs"]["image"].pooler_output
    with torch.device("meta"):  # stands for an accelerator
        encoded, _ = model.model.encode(inputs["input_ids"], inputs)
    for features, same in zip(encoded["mm_encoder_outputs"]["image"].pooler_output, expected, strict=True):
        assert torch.equal(features, same)


def projection(*perspectives: str) -> MultiPerspectiveVisualProjection:
    text = LlamaConfig(**TEXT)
    foundation = {"model_type": "llava", "text_config": text.to_dict(), "vision_config": CLIPVisionConfig().to_dict()}
    module = MultiPerspectiveVisualProjection(
        EmoLLMConfig(foundation_config=foundation, mvp_size=16, perspectives=perspectives)
    )
    torch.manual_seed(0)
    module.apply(init_mvp_weights)
    torch.nn.init.normal_(module.up.weight, std=0.25)  # as if trained
    return module


@torch.no_grad()
def test_the_temporal_perspective_sees_change_and_its_order():
    module = projection("temporal")
    pictures, valid = torch.randn(3, 5, 32), torch.ones(3, 5, dtype=torch.bool)

    def change(features, sample=(0, 0, 0)):
        """What the gates let through."""
        position = torch.arange(3) if sample == (0, 0, 0) else torch.zeros(3, dtype=torch.long)
        inputs = features.flatten(0, 1), torch.arange(15), valid, torch.tensor(sample), position
        closed = copy.deepcopy(module)
        closed.gates.zero_()
        return (module(*inputs)[0] - closed(*inputs)[0]).view_as(features)

    assert torch.equal(change(pictures, (0, 1, 2)), torch.zeros(3, 5, 32))  # one picture a sample: exactly nothing
    torch.testing.assert_close(change(pictures[:1].expand(3, -1, -1)), torch.zeros(3, 5, 32))  # nothing changes
    forward, backward = change(pictures), change(pictures.flip(0)).flip(0)
    assert (forward - backward).abs().max() > 1e-3
    module = projection(*PERSPECTIVES)
    module.gates[:3] = 0
    assert torch.equal(change(pictures, (0, 1, 2)), torch.zeros(3, 5, 32))  # no other perspective has its gate


@torch.no_grad()
def test_what_is_read_back_is_a_mean_of_what_a_memory_holds():
    module, entry = projection("holistic").read_back, torch.randn(1, 1, 16)
    value = module.out((entry @ module.key_value[0])[..., 16:])
    read = module(torch.randn(1, 5, 16), [entry.expand(-1, 3, -1)], torch.ones(1))
    torch.testing.assert_close(read, value.expand(-1, 5, -1))


@torch.no_grad()
def test_what_perspectives_read_of_a_picture():
    module, tokens, valid = projection(*PERSPECTIVES), torch.randn(2, 7, 16), torch.ones(2, 7, dtype=torch.bool)
    module.holistic.mix.weight.zero_()
    memory, weights = module.holistic(tokens, valid)
    spread = tokens.var(1, correction=0).sqrt()
    torch.testing.assert_close(memory, torch.stack([(weights[:, None] @ tokens)[:, 0], tokens.mean(1), spread], dim=1))
    valid[:, 5:] = False
    torch.testing.assert_close(module.holistic(tokens, valid)[0], module.holistic(tokens[:, :5], valid[:, :5])[0])
    # Slots compete: what of a token one takes, the others do not have.
    share = (module.content.key(tokens) @ module.content.slots.T / 16**0.5).softmax(-1).transpose(1, 2)[..., :5]
    _, attention = module.content(tokens, valid)
    torch.testing.assert_close(attention[..., :5], share / share.sum(-1, keepdim=True), atol=1e-5, rtol=1e-4)


def test_a_picture_of_one_token_gives_finite_gradients():
    module, ones = projection(*PERSPECTIVES), torch.ones(2, 1, dtype=torch.bool)
    refined, _ = module(torch.randn(2, 32), torch.arange(2), ones, torch.arange(2), torch.zeros(2))
    refined.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


SUBSETS = [names for number in range(1, 5) for names in itertools.combinations(PERSPECTIVES, number)]


@pytest.mark.parametrize("perspectives", SUBSETS, ids="+".join)
def test_any_perspectives_can_be_left_out_and_have_no_parameters_then(perspectives):
    module = projection(*perspectives)
    features, index, valid = torch.randn(10, 32), torch.arange(10), torch.ones(2, 5, dtype=torch.bool)
    refined, seen = module(features, index, valid, torch.zeros(2, dtype=torch.long), torch.arange(2))
    refined.square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert set(perspectives) | {"gates"} <= set(seen)
    if perspectives != PERSPECTIVES:
        assert number_of_parameters(module) < number_of_parameters(projection(*PERSPECTIVES))


@torch.no_grad()
def test_without_perspectives_mvp_is_a_plain_adapter(foundation_and_inputs, tmp_path):
    foundation, inputs = foundation_and_inputs
    expected = foundation(**inputs).logits
    model = upgrade(foundation, perspectives=[], probe=inputs)
    assert torch.equal(model(**inputs).logits, expected)
    names = {name for name, weight in model.model.multi_perspective_projection.named_parameters() if weight.numel()}
    assert names == {"norm.weight", "norm.bias", "down.weight", "down.bias", "up.weight"}
    outputs = as_if_trained(model)(**inputs, output_perspectives=True)
    assert not torch.equal(outputs.logits, expected)
    assert outputs.perspectives["image"].keys() == {"gates", "lengths", "sample", "position"}
    assert outputs.perspectives["image"]["gates"].shape == (0,)
    generated = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path, trust_remote_code=True)
    assert again.config.perspectives == [] and torch.equal(again(**inputs).logits, outputs.logits)
    assert torch.equal(again.generate(**inputs, max_new_tokens=4, do_sample=False), generated)


@torch.no_grad()
@pytest.mark.parametrize("perspectives", [(), ("holistic",), ("content",), ("relation",)], ids="+".join)
def test_a_token_sees_others_of_its_picture_by_perspectives_alone(perspectives):
    module, features = projection(*perspectives), torch.randn(10, 32)
    valid, sample = torch.ones(2, 5, dtype=torch.bool), torch.arange(2)
    other = features.clone()
    other[3] = torch.randn(32)
    before, after = (module(one, torch.arange(10), valid, sample, torch.zeros(2))[0] for one in (features, other))
    changed = (before != after).any(-1).tolist()
    assert changed == [bool(perspectives)] * 3 + [True] + [bool(perspectives)] + [False] * 5


def test_weights_that_are_loaded_are_not_initialised_again(llava, tmp_path):
    """Neither by this code nor by that beside the weights, although `up` and the gates begin as constants."""
    model, _ = llava
    model.save_pretrained(tmp_path)
    expected = model.model.multi_perspective_projection.state_dict()
    for kind, options in [
        (EmoLLMForConditionalGeneration, {}),
        (AutoModelForImageTextToText, {"trust_remote_code": True}),
    ]:
        actual = kind.from_pretrained(tmp_path, **options).model.multi_perspective_projection.state_dict()
        assert actual.keys() == expected.keys()
        assert all(torch.equal(actual[name], weight) for name, weight in expected.items())


def number_of_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_mvp_adds_a_few_per_cent_to_a_small_foundation():
    # The text model of a foundation of half a billion parameters; its eye is not even counted.
    text = Qwen2Config(
        hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2
    )
    config = EmoLLMConfig(foundation_config=LlavaConfig(text_config=text, vision_config=CLIPVisionConfig()))
    with torch.device("meta"):
        share = number_of_parameters(MultiPerspectiveVisualProjection(config)) / number_of_parameters(Qwen2Model(text))
    assert 0 < share < 0.01


@torch.no_grad()
def test_padding_of_images_of_different_sizes_changes_nothing():
    module = projection(*PERSPECTIVES)
    short, long = torch.randn(3, 32), torch.randn(7, 32)
    valid = torch.arange(7) < torch.tensor([[3], [7]])
    index = valid.flatten().nonzero().squeeze(-1)
    sample, position = torch.tensor([0, 1]), torch.tensor([0, 0])
    together, seen = module(torch.cat([short, long]), index, valid, sample, position)
    for image, number, refined in zip((short, long), (3, 7), together.split([3, 7]), strict=True):
        ones = torch.ones(1, number, dtype=torch.bool)
        alone, _ = module(image, torch.arange(number), ones, sample[:1], position[:1])
        torch.testing.assert_close(refined, alone)
    assert (seen["holistic"][0, 3:] == 0).all() and (seen["content"][0, :, 3:] == 0).all()


@torch.no_grad()
def test_a_video_is_seen_frame_by_frame():
    model = as_if_trained(upgrade(qwen2_5_vl()[0]))
    rows = torch.tensor([[0] * 8 + [5] + [91] * 4 + [6], [5, *[91] * 8, 8, *[91] * 3, 6]])
    grid = torch.tensor([[1, 4, 4], [2, 4, 4], [3, 2, 2]])  # frames, and their height and width in patches
    inputs = {"pixel_values_videos": torch.randn(16 + 32 + 12, 3 * 2 * 14 * 14), "video_grid_thw": grid}
    types = {"mm_token_type_ids": 2 * (rows == 91).long(), "attention_mask": (rows != 0).long()}
    seen = model(input_ids=rows, **inputs, **types, output_perspectives=True).perspectives["video"]
    assert seen["lengths"].tolist() == [4, 4, 4, 1, 1, 1]
    assert seen["sample"].tolist() == [0, 1, 1, 1, 1, 1] and seen["position"].tolist() == [0, 0, 1, 2, 3, 4]


@torch.no_grad()
@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl", "glm5_next", "video_llama_3"])
def test_images_and_videos_together(name):
    family = make_family(FAMILIES[name])
    images, videos = family.batch([[0], [], [1, 2]]), family.batch([[0], [1], []], modality="video")
    text = {key: torch.cat([videos[key], images[key]], dim=1) for key in images.keys() & videos.keys()}
    inputs = {**images, **videos, **text}
    expected = family.model(**inputs).logits
    model = upgrade(family.model)
    assert torch.equal(model(**inputs).logits, expected)
    seen = model(**inputs, output_perspectives=True).perspectives
    assert seen["image"]["sample"].tolist() == [0, 2, 2] and seen["image"]["position"].tolist() == [0, 0, 1]
    frames = [family.video_frames(i) for i in (0, 1)]
    assert seen["video"]["sample"].tolist() == [0] * frames[0] + [1] * frames[1]


@torch.no_grad()
@pytest.mark.parametrize("name", ["llava", "gemma3", "idefics3", "llava_next", "minicpmv4_7", "qwen3_vl"])
def test_encoded_pictures_are_refined_as_pixels_are(name):
    family = make_family(FAMILIES[name])
    batch, encode = family.batch([[0], [], [1, 2]]), family.model.base_model.get_image_features
    pixels = {key: value for key, value in batch.items() if key in inspect.signature(encode).parameters}
    outputs = {"image": encode(**pixels, return_dict=True)}
    first = next(iter(inspect.signature(encode).parameters))
    encoded = {key: value for key, value in batch.items() if key != first} | {"mm_encoder_outputs": outputs}
    expected = family.model(**batch).logits
    assert torch.equal(upgrade(family.model)(**encoded).logits, expected)
    model = as_if_trained(upgrade(family.model))
    for _ in range(2):  # what was given is not refined in place
        assert torch.equal(model(**encoded).logits, model(**batch).logits)
    assert (model(**encoded).logits - expected).abs().max() > 1e-4
    assert torch.equal(model.model(**encoded).last_hidden_state, model.model(**batch).last_hidden_state)
    generated = [model.generate(**inputs, max_new_tokens=4, do_sample=False) for inputs in (encoded, batch)]
    assert torch.equal(*generated)
    with pytest.raises(ValueError, match=f"Give either {first} or mm_encoder_outputs"):
        model(**batch, mm_encoder_outputs=outputs)


@torch.no_grad()
def test_encoded_videos_need_their_frames():
    for name, grid in (("qwen2_5_vl", True), ("llava_onevision", False)):
        family = make_family(FAMILIES[name])
        batch = family.batch([[0], [1]], modality="video")
        encode = family.model.base_model.get_video_features
        videos = {key: batch[key] for key in inspect.signature(encode).parameters if key in batch}
        outputs = {"video": encode(**videos, return_dict=True)}
        encoded = {key: value for key, value in batch.items() if key != "pixel_values_videos"}
        model = as_if_trained(upgrade(family.model))
        if grid:
            assert torch.equal(model(**encoded, mm_encoder_outputs=outputs).logits, model(**batch).logits)
        else:
            with pytest.raises(ValueError, match="LlavaOnevision.* don't tell their frames; give their pixels"):
                model(**encoded, mm_encoder_outputs=outputs)


@torch.no_grad()
def test_a_conversation_goes_on_with_a_video_whose_placeholders_are_images():
    family = make_family(FAMILIES["glm5_next"])

    def converse(model):
        inputs, turn = (family.batch([[i]], modality="video") for i in (0, 1))
        first = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, return_dict_in_generate=True)
        answer = torch.zeros(1, 3, dtype=torch.long)
        types = [inputs["mm_token_type_ids"], answer, turn["mm_token_type_ids"]]
        turn |= {"input_ids": torch.cat([first.sequences, turn["input_ids"]], dim=1)}
        turn |= {"mm_token_type_ids": torch.cat(types, dim=1), "attention_mask": torch.ones_like(turn["input_ids"])}
        return model.generate(**turn, max_new_tokens=3, min_new_tokens=3, past_key_values=first.past_key_values)

    expected = converse(family.model)
    assert torch.equal(converse(upgrade(family.model)), expected)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "number", "placeholders"), [("llava", 4, 16), ("gemma3", 4, 16), ("idefics3", 1, 4)])
def test_compact_mode_hands_over_fewer_visual_tokens(tiny_foundations, tmp_path, kind, number, placeholders):
    folder = str(tiny_foundations[kind])
    model, processor = upgrade(folder, visual_tokens_per_image=number), AutoProcessor.from_pretrained(folder)
    compact_processor(processor, number).save_pretrained(tmp_path)
    full, compact = batch(processor, 1, 2), batch(AutoProcessor.from_pretrained(tmp_path), 1, 2)
    images = [(inputs["input_ids"] == model.config.image_token_id).sum() for inputs in (full, compact)]
    assert images == [3 * placeholders, 3 * number]
    # Untrained: the foundation with the averages over a coarser grid.
    features = torch.cat(list(model.foundation.model.get_image_features(compact["pixel_values"]).pooler_output))
    side, coarse = math.isqrt(placeholders), math.isqrt(number)
    blocks = features.view(3, coarse, side // coarse, coarse, side // coarse, -1).mean((2, 4)).flatten(0, 2)
    encoded, seen = model.model.encode(compact["input_ids"], compact)
    torch.testing.assert_close(torch.cat(list(encoded["mm_encoder_outputs"]["image"].pooler_output)), blocks)
    assert seen["image"]["lengths"].tolist() == [placeholders] * 3  # the perspectives see all of it
    assert not torch.equal(as_if_trained(model)(**compact).logits, model.foundation(**encoded).logits)
    with pytest.raises(ValueError, match=f"{3 * placeholders} placeholders .* but {3 * number} visual tokens"):
        model(**full)
    everything = as_if_trained(upgrade(folder, visual_tokens_per_image=placeholders))
    torch.testing.assert_close(everything(**full).logits, as_if_trained(upgrade(folder))(**full).logits)


def test_compact_mode_needs_a_grid_and_a_processor_that_can_be_told(tiny_foundations, tmp_path):
    processor = AutoProcessor.from_pretrained(tiny_foundations["llava"])
    with pytest.raises(ValueError, match="can't write 1681 placeholders for a picture of 64 x 64 pixels"):
        compact_processor(processor, 41**2)
    for number in (-4, 0, 60):
        with pytest.raises(ValueError, match=f"visual_tokens_per_image={number} must be a square"):
            compact_processor(processor, number)
    with pytest.raises(ValueError, match="Pix2StructProcessor can't be told to write 4 placeholders"):
        compact_processor(Pix2StructProcessor(Pix2StructImageProcessorPil(), processor.tokenizer), 4)
    eye = SiglipImageProcessorPil(size={"height": 64, "width": 64}, image_seq_length=16)
    compact_processor(PaliGemmaProcessor(eye, processor.tokenizer), 4).save_pretrained(tmp_path)
    assert PaliGemmaProcessor.from_pretrained(tmp_path).image_seq_length == 4  # which it keeps within its eye
    foundation, rows, inputs = qwen2_5_vl()
    with pytest.raises(ValueError, match=r"visual_tokens_per_image=4 needs a square grid .* gave \[4, 8\]"):
        upgrade(foundation, visual_tokens_per_image=4)(input_ids=torch.tensor(rows), **inputs)
    family = make_family(FAMILIES["qwen3_vl"])
    with pytest.raises(ValueError, match="does not fit Qwen3VLForConditionalGeneration, .*DeepStack"):
        upgrade(family.model, visual_tokens_per_image=4)(**family.batch([[0], [0]]))
    with pytest.raises(ValueError, match=r"visual_tokens_per_image=25 needs a square grid of no fewer .* gave \[16\]"):
        upgrade(str(tiny_foundations["llava"]), visual_tokens_per_image=25)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"perspectives": ["holistic", "olfactory"]}, "olfactory"),
        ({"perspectives": ["content", "content"]}, "each once"),
        ({"mvp_size": 12}, "mvp_size=12"),
        ({"visual_tokens_per_image": 60}, "visual_tokens_per_image=60 must be a square"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        EmoLLMConfig(**fields)


def test_a_model_without_the_contract_is_refused():
    small = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Pix2StructForConditionalGeneration(Pix2StructConfig(text_config=small, vision_config=small))
    with pytest.raises(ValueError, match="Pix2StructForConditionalGeneration.forward does not take"):
        EmoLLMForConditionalGeneration.from_foundation(model)


def test_a_folder_of_another_kind_is_refused(llava, tmp_path):
    llava[0].config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="of type emollm can't be upgraded"):
        upgrade(str(tmp_path))
    LlamaConfig(**TEXT).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="of type llama can't be upgraded"):
        upgrade(tmp_path)


def test_custom_code_is_refused(tiny_foundations):
    class MyLlava(LlavaForConditionalGeneration):
        pass

    model = MyLlava.from_pretrained(tiny_foundations["llava"])
    with pytest.raises(ValueError, match="MyLlava is custom code"):
        EmoLLMForConditionalGeneration.from_foundation(model)


def test_placeholders_and_features_must_agree(llava):
    model, processor = llava
    inputs = batch(processor, 1)
    inputs["input_ids"][inputs["input_ids"] == model.config.image_token_id] = 5
    with pytest.raises(ValueError, match="0 placeholders for visual tokens in input_ids, but 16 visual tokens"):
        model(**inputs)
    family = make_family(FAMILIES["inkling_mm_model"])  # whose features do not tell which image they are of
    inputs = family.batch([[0], [1]])
    number = int((inputs["input_ids"] == family.model.config.image_token_id).sum())
    for placeholders in (number - 1, 0):
        ids = inputs["input_ids"].flatten()
        ids[(ids == family.model.config.image_token_id).nonzero()[placeholders:]] = 5
        with pytest.raises(ValueError, match=f"{placeholders} placeholders for .* but {number} visual tokens"):
            upgrade(family.model)(**inputs)
