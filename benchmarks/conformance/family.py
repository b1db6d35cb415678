"""A tiny foundation model of one family, and how its processor would lay out pictures and videos."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel


PAD, BOS, EOS = 0, 1, 2
IMAGE, VIDEO, START, END = 90, 91, 92, 93  # placeholders of one visual token, and what may stand around a picture
SEPARATORS = (94, 95, 96, 97)  # what else may stand between them, each family's own
PAIR = {"image_token_id": IMAGE, "video_token_id": VIDEO}
VOCABULARY = 99
# Sizes that text models have in common; two layers, because some features only begin at the second.
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
# Sizes that vision models have in common: 4 x 4 patches.
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
MROPE_TEXT = {**TEXT, "rope_parameters": ROPE}
QWEN3_5_TEXT = {
    **MROPE_TEXT, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "layer_types": ["linear_attention", "full_attention"],
    "rope_parameters": {**ROPE, "partial_rotary_factor": 1.0},
}  # fmt: skip
SIGLIP = {**VISION, "vision_use_head": False}
# SAM's encoder: 8 x 8 patches; its own initializer_range of 1e-10 makes it blind.
SAM = {
    "hidden_size": 32, "output_channels": 8, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
    "patch_size": 4, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 32, "initializer_range": 0.02,
}  # fmt: skip
# The usual 0.02 suits thousands of channels; with 32, little is left of a picture behind some connectors.
WIDE = {"initializer_range": 0.1}
CONVOLUTION = {"layer_types": ["conv", "full_attention"]}
MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
FRAMES = 3  # of a clip, where all have as many


@dataclass(frozen=True)
class Family:
    """
    Args:
        model (`PreTrainedModel`): with random weights.
        image_tokens (`Callable`): the number of an image to the tokens that stand for it in a row.
        image_inputs (`Callable`): the numbers of the images of each row, e.g. `[[0], [], [1, 2]]`, to the tensors of
            pixels. What an image shows and how large it is follows from its number alone.
        video_tokens, video_inputs (`Callable`, *optional*): the same for videos of several frames.
        video_frames (`Callable`, *optional*): the number of a video to its number of frames, 3 and 2 by turns.
        text_inputs (`Callable`, *optional*): `input_ids` to further tensors of their shape, or to others than the
            usual `mm_token_type_ids`.
    """

    model: PreTrainedModel
    image_tokens: Callable[[int], list[int]]
    image_inputs: Callable[[list[list[int]]], dict[str, torch.Tensor]]
    video_tokens: Callable[[int], list[int]] | None = None
    video_inputs: Callable[[list[list[int]]], dict[str, torch.Tensor]] | None = None
    text_inputs: Callable[[torch.Tensor], dict[str, torch.Tensor]] | None = None
    video_frames: Callable[[int], int] = lambda i: 3 - i % 2

    def batch(self, rows: list[list[int]], *, side: str = "left", modality: str = "image") -> dict[str, torch.Tensor]:
        """Inputs of a batch, as the family's processor makes them, padded on the given side."""
        tokens = self.video_tokens if modality == "video" else self.image_tokens
        texts = [[BOS, *(token for i in row for token in [*tokens(i), 10 + i]), 20, 21, 22, 23] for row in rows]
        width = max(map(len, texts))
        gaps = [[PAD] * (width - len(text)) for text in texts]
        padded = [gap + text if side == "left" else text + gap for gap, text in zip(gaps, texts, strict=True)]
        input_ids = torch.tensor(padded)
        batch = {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long()}
        types = (input_ids == self.model.config.image_token_id).long()
        types[input_ids == getattr(self.model.config, "video_token_id", None)] = 2
        accepted = inspect.signature(self.model.forward).parameters
        for name in ("token_type_ids", "mm_token_type_ids"):
            if name in accepted:
                batch[name] = types
        if self.text_inputs is not None:
            batch |= self.text_inputs(input_ids)
        if any(rows):
            batch |= (self.video_inputs if modality == "video" else self.image_inputs)(rows)
        return batch


def build(model_type: str, **config) -> PreTrainedModel:
    """A model of that family with random weights, from the fields of its config."""
    # A copy, because configs add to the dicts they are given, which families share.
    return AutoModelForImageTextToText.from_config(AutoConfig.for_model(model_type, **copy.deepcopy(config)))


def pixels(number: int, *shape: int) -> torch.Tensor:
    """The picture of that number: noise of the given shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(number))


def flat(rows: list[list[int]]) -> list[int]:
    """The numbers of all images of a batch."""
    return [i for row in rows for i in row]


def stacked(height: int, width: int, name: str = "pixel_values") -> Callable[[list[list[int]]], dict]:
    """Layout of processors whose images all have one size and follow one another: `(images, 3, H, W)`."""
    return lambda rows: {name: torch.stack([pixels(i, 3, height, width) for i in flat(rows)])}


def clips(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """Layout of processors whose videos all have one size and length: `(videos, frames, 3, H, W)`."""
    return {"pixel_values_videos": torch.stack([pixels(i, FRAMES, 3, 16, 16) for i in flat(rows)])}


def nested(rows: list[list[int]], image: Callable[[int], torch.Tensor]) -> dict[str, torch.Tensor]:
    """Layout of Idefics: `(rows, tiles, 3, H, W)`, zeros where a row has fewer tiles, and a mask of the pixels."""
    empty = image(0)[:0]
    samples = [torch.cat([empty, *map(image, row)]) for row in rows]
    values = pad_sequence(samples, batch_first=True)
    return {"pixel_values": values, "pixel_attention_mask": (values != 0).any(2)}


def fixed(length: int, token: int = IMAGE, before: tuple[int, ...] = (), after: tuple[int, ...] = ()) -> Callable:
    """As many placeholders for every image."""
    return lambda i: [*before, *[token] * length, *after]


def wrapped(length: int) -> Callable[[int], list[int]]:
    """As many placeholders for every image, between a start and an end."""
    return fixed(length, before=(START,), after=(END,))
