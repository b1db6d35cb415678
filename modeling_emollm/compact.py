"""Compact mode: a processor that writes fewer placeholders an image, for a model that makes as few visual tokens."""

import json
import math
import tempfile
from pathlib import Path

from transformers import ProcessorMixin

from .configuration_emollm import EmoLLMConfig


# Processors that keep the number of placeholders of an image (or of a tile) where it can be set, and whose foundations
# have that many visual tokens on a square grid. LLaVA's knows a patch size instead, which it only counts with.
SAVED_NUMBERS = {
    "DeepseekVLHybridProcessor": ("num_image_tokens",),
    "DeepseekVLProcessor": ("num_image_tokens",),
    "Gemma3Processor": ("image_seq_length",),
    "Gemma3nProcessor": ("image_seq_length",),
    "Idefics3Processor": ("image_seq_len",),
    "InternVLProcessor": ("image_seq_length",),
    "JanusProcessor": ("num_image_tokens",),
    "LlavaProcessor": ("patch_size",),
    "PaliGemmaProcessor": ("image_processor", "image_seq_length"),
    "SmolVLMProcessor": ("image_seq_len",),
}


def compact_processor(processor: ProcessorMixin, visual_tokens_per_image: int) -> ProcessorMixin:
    """
    The same processor, but with `visual_tokens_per_image` placeholders an image (or a tile of it), for a model that is
    upgraded with the same number. It stays so when it is saved.

    Raises:
        `ValueError`: if the processor can't be told a number, or not this one.
    """
    kind = type(processor).__name__
    if kind not in SAVED_NUMBERS:
        raise ValueError(
            f"{kind} can't be told to write {visual_tokens_per_image} placeholders an image; leave out "
            f"visual_tokens_per_image, or use a foundation with one of {', '.join(SAVED_NUMBERS)}."
        )
    EmoLLMConfig(visual_tokens_per_image=visual_tokens_per_image)  # which refuses what is no square
    value = visual_tokens_per_image
    if kind == "LlavaProcessor":
        # What does not divide the picture's side evenly is rounded down by the processor.
        eye = processor.image_processor
        size = eye.crop_size if eye.do_center_crop else eye.size
        height, width = (size.get(side) or size["shortest_edge"] for side in ("height", "width"))
        value = height // math.isqrt(visual_tokens_per_image)
        if value == 0 or (height // value) * (width // value) != visual_tokens_per_image:
            raise ValueError(
                f"{kind} can't write {visual_tokens_per_image} placeholders for a picture of {height} x {width} "
                "pixels: no patch size gives so many. Use another square number."
            )
    # Some processors derive more from the number when they are made, so it is changed where they are made from.
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        path = Path(folder) / "processor_config.json"
        saved = json.loads(path.read_text(encoding="utf-8"))
        *parents, name = SAVED_NUMBERS[kind]
        place = saved
        for parent in parents:
            place = place[parent]
        place[name] = value
        path.write_text(json.dumps(saved), encoding="utf-8")
        return type(processor).from_pretrained(folder)


__all__ = ["compact_processor"]
