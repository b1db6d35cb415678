"""A tiny foundation model of one family, and how its processor would lay out pictures and videos."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel


PAD, BOS, EOS = 0, 1, 2
IMAGE, VIDEO, START, END = 90, 91, 92, 93  # placeholders of one visual token, and what may stand around a picture
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


def stacked(height: int, width: int, name: str = "pixel_values") -> Callable[[list[list[int]]], dict]:
    """Layout of processors whose images all have one size and follow one another: `(images, 3, H, W)`."""
    return lambda rows: {name: torch.stack([pixels(i, 3, height, width) for row in rows for i in row])}


def fixed(length: int, token: int = IMAGE, before: tuple[int, ...] = (), after: tuple[int, ...] = ()) -> Callable:
    """As many placeholders for every image."""
    return lambda i: [*before, *[token] * length, *after]
