"""Foundations of every kind, in the sizes that one can ask for."""

import sys

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.tiny_foundations import build_foundation, main
from modeling_emollm import EmoLLMForConditionalGeneration, attach_emoprompt
from modeling_emollm.emoprompt import encode_chats


SMALL = {"seed": 0, "hidden_size": 32, "num_layers": 1}


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "coarse", "fine"), [("llava", 16, 64), ("idefics3", 4, 16), ("gemma3", 16, 64), ("paddleocr_vl", 4, 16)]
)
def test_smaller_patches_give_more_visual_tokens(
    tiny_foundations, drawn_dataset, tmp_path, monkeypatch, kind, coarse, fine
):
    command = ["tiny_foundations", "--kind", kind, "--dataset", drawn_dataset, "--output", tmp_path]
    command += ["--hidden-size", 32, "--num-layers", 1, "--image-size", 64, "--patch-size", 8]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    main()
    picture = Image.linear_gradient("L")
    for folder, number in ((tiny_foundations[kind], coarse), (tmp_path, fine)):
        model = EmoLLMForConditionalGeneration.from_foundation(str(folder), mvp_size=16)
        processor = attach_emoprompt(AutoProcessor.from_pretrained(folder))
        pictures = [[picture], [], [picture.rotate(90 * i) for i in range(3)]]
        messages = [
            [{"role": "user", "content": [*[{"type": "image"}] * len(row), {"type": "text", "text": "Hateful?"}]}]
            for row in pictures
        ]
        inputs = encode_chats(processor, messages, pictures)
        assert (inputs["input_ids"] == model.config.image_token_id).sum(-1).tolist() == [number, 0, 3 * number]
        foundation = AutoModelForImageTextToText.from_pretrained(folder)
        logits = foundation(**inputs).logits
        assert torch.equal(model(**inputs).logits, logits)
        inputs["pixel_values"] = -inputs["pixel_values"]
        assert (foundation(**inputs).logits - logits)[0].abs().max() > 1e-3  # it sees


@pytest.mark.parametrize(
    ("kind", "image_size", "patch_size"),
    [
        ("llava", 64, 24),
        ("gemma3", 8, 16),
        ("idefics3", 48, 16),
        ("paddleocr_vl", 40, 8),
        ("llava", 0, 16),
        ("llava", 64, 0),
    ],
)
def test_a_picture_that_is_not_made_of_whole_patches_is_refused(kind, image_size, patch_size):
    with pytest.raises(
        ValueError, match=rf"image_size={image_size} does not fit patch_size={patch_size}: {kind} .*a multiple of"
    ):
        build_foundation(kind, ["Hateful?"], image_size=image_size, patch_size=patch_size, **SMALL)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="Unknown kind 'mistral3': use llava, idefics3, gemma3, paddleocr_vl"):
        build_foundation("mistral3", ["Hateful?"], **SMALL)
