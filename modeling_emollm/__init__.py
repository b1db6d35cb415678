"""EmoLLM: vision-language models upgraded with Multi-perspective Visual Projection and EmoPrompt."""

from .compact import compact_processor
from .configuration_emollm import PERSPECTIVES, EmoLLMConfig
from .emoprompt import EMOTION_TASKS, answer_token_ids, attach_emoprompt, encode_chats, guide_messages
from .modeling_emollm import EmoLLMForConditionalGeneration, EmoLLMModel
from .mvp import MultiPerspectiveVisualProjection


# With these, `save_pretrained` copies the code beside the weights, for `trust_remote_code=True`.
EmoLLMConfig.register_for_auto_class()
EmoLLMModel.register_for_auto_class("AutoModel")
EmoLLMForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = [
    "EMOTION_TASKS",
    "PERSPECTIVES",
    "EmoLLMConfig",
    "EmoLLMForConditionalGeneration",
    "EmoLLMModel",
    "MultiPerspectiveVisualProjection",
    "answer_token_ids",
    "attach_emoprompt",
    "compact_processor",
    "encode_chats",
    "guide_messages",
]
