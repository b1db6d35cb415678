"""Configuration of EmoLLM: a foundation vision-language model and the dials of Multi-perspective Visual Projection."""

import math

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


AUTO_MAP = {
    "AutoConfig": "configuration_emollm.EmoLLMConfig",
    "AutoModel": "modeling_emollm.EmoLLMModel",
    "AutoModelForImageTextToText": "modeling_emollm.EmoLLMForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_emollm.EmoLLMForConditionalGeneration",
}
PERSPECTIVES = ("holistic", "content", "relation", "temporal")


@strict
class EmoLLMConfig(PreTrainedConfig):
    r"""
    Args:
        foundation_config (`PreTrainedConfig` or `dict`, *optional*, defaults to a LLaVA-1.5 config):
            The config of the vision-language model that is upgraded. A `dict` needs its `model_type`.
        mvp_size (`int`, *optional*, defaults to 256):
            Width `d` of the bottleneck in which Multi-perspective Visual Projection (MVP) works; a multiple of 8.
        perspectives (`list[str]`, *optional*, defaults to `["holistic", "content", "relation", "temporal"]`):
            The perspectives that visual tokens read back from. One that is left out has no parameters; without any,
            MVP is a plain bottleneck adapter, for comparisons.
        visual_tokens_per_image (`int`, *optional*):
            Compact mode: the language model gets so many visual tokens an image, a square number, instead of all.
            The processor must write as many placeholders, see [`compact_processor`].

    Raises:
        `ValueError`: for an unknown or repeated perspective, an `mvp_size` that is no multiple of 8, or a
            `visual_tokens_per_image` that is no square.
    """

    model_type = "emollm"
    sub_configs_defaults = {"foundation_config": SubConfigSpec(config_class=AutoConfig, model_type="llava")}

    foundation_config: dict | PreTrainedConfig | None = None
    mvp_size: int = 256
    perspectives: list[str] | tuple[str, ...] = PERSPECTIVES
    visual_tokens_per_image: int | None = None

    def __post_init__(self, **kwargs):
        # Whole, because saving a model records only the one auto class that it was registered for.
        super().__post_init__(**{"auto_map": dict(AUTO_MAP), **kwargs})
        if unknown := [name for name in self.perspectives if name not in PERSPECTIVES]:
            raise ValueError(f"Unknown perspectives {unknown}; choose from {list(PERSPECTIVES)}.")
        if len(set(self.perspectives)) != len(self.perspectives):
            raise ValueError(f"perspectives={list(self.perspectives)} must name each once.")
        if self.mvp_size <= 0 or self.mvp_size % 8:
            raise ValueError(f"mvp_size={self.mvp_size} must be a positive multiple of 8, e.g. 256.")
        number = self.visual_tokens_per_image
        if number is not None and (number <= 0 or math.isqrt(number) ** 2 != number):
            raise ValueError(f"visual_tokens_per_image={number} must be a square, e.g. 64: the tokens form a grid.")
        # JSON knows no tuples; one type before saving and after loading keeps configs comparable.
        self.perspectives = list(self.perspectives)

    def get_text_config(self, decoder=None, encoder=None) -> PreTrainedConfig:
        return self.foundation_config.get_text_config(decoder=decoder, encoder=encoder)

    @property
    def tie_word_embeddings(self) -> bool:
        return getattr(self.foundation_config, "tie_word_embeddings", False)

    @tie_word_embeddings.setter
    def tie_word_embeddings(self, value: bool):
        self.foundation_config.tie_word_embeddings = value  # the embeddings are the foundation's

    @property
    def image_token_id(self) -> int | None:
        return getattr(self.foundation_config, "image_token_id", None)

    @property
    def video_token_id(self) -> int | None:
        return getattr(self.foundation_config, "video_token_id", None)


__all__ = ["PERSPECTIVES", "EmoLLMConfig"]
