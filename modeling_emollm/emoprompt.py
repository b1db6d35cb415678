"""EmoPrompt: guidance in the chat template, and the one way from conversations and pictures to a model's inputs.

The name is the paper's (arXiv 2406.16442), the guidance is ours. Its wording follows appraisal theory (Scherer 2001,
"Appraisal considered as a process of multilevel sequential checking"), valence and arousal (Russell 1980, "A
circumplex model of affect"), facial action units (Ekman & Friesen 1978), incongruity for sarcasm (Joshi et al. 2015)
and benign violation for humor (McGraw & Warren 2010).
"""

from pathlib import Path

from transformers import BatchFeature, ProcessorMixin


EMOTION_TASKS = (
    "emotion_recognition",
    "intent_understanding",
    "hate_detection",
    "humor_detection",
    "sarcasm_detection",
)
# With the newline that ends its last comment and that Jinja drops: the foundation's template still begins a line, so
# that not even white space at its beginning is lost.
PROLOGUE = (Path(__file__).parent / "emoprompt.jinja").read_text(encoding="utf-8")
PROLOGUE_END = PROLOGUE.splitlines(keepends=True)[-1]


def attach_emoprompt(processor: ProcessorMixin) -> ProcessorMixin:
    """
    Puts EmoPrompt in front of the processor's own chat template, in place, and in the place of any EmoPrompt there: a
    second call changes nothing.

    Raises:
        `ValueError`: if the processor has no chat template, or several by name.
    """
    if not isinstance(processor.chat_template, str):
        raise ValueError(
            f"{type(processor).__name__} has no single chat template but {type(processor.chat_template).__name__}; "
            "set `processor.chat_template` to the foundation's template first."
        )
    processor.chat_template = PROLOGUE + processor.chat_template.rpartition(PROLOGUE_END)[2]
    return processor


def render_chat(
    processor: ProcessorMixin,
    messages: list[dict],
    *,
    emotion_mode: str | None = None,
    emotion_task: str | None = None,
    emotion_labels: list[str] | None = None,
    add_generation_prompt: bool = False,
) -> str:
    """
    One conversation as text. Without `emotion_mode` it is the foundation's own rendering.

    Raises:
        `ValueError`: if `emotion_mode` is given and EmoPrompt is not in front of the processor's chat template.
    """
    if emotion_mode is None:
        return processor.apply_chat_template(messages, add_generation_prompt=add_generation_prompt)
    if not (processor.chat_template or "").startswith("{#- EmoPrompt"):
        raise ValueError("The processor's chat template has no EmoPrompt; call attach_emoprompt(processor) first.")
    return processor.apply_chat_template(
        messages,
        add_generation_prompt=add_generation_prompt,
        emotion_task=emotion_task,
        emotion_mode=emotion_mode,
        emotion_labels=emotion_labels,
    )


def process_texts(processor: ProcessorMixin, texts: list[str], images: list[list], padding_side: str) -> BatchFeature:
    """Rendered conversations and their pictures (`PIL.Image.Image`, a list a conversation) to padded tensors."""
    bos = processor.tokenizer.bos_token
    return processor(
        text=texts,
        images=[[image.convert("RGB") for image in group] for group in images] if any(images) else None,
        padding=True,
        padding_side=padding_side,
        return_tensors="pt",
        # A template that writes the beginning of the sequence itself must not get a second one.
        add_special_tokens=not (bos and texts[0].startswith(bos)),
    )


def encode_chats(
    processor: ProcessorMixin,
    messages: list[list[dict]],
    images: list[list],
    *,
    emotion_mode: str | None = None,
    emotion_tasks: list[str] | None = None,
    emotion_labels: list[list[str]] | None = None,
) -> BatchFeature:
    """
    Conversations that end with the user's turn, as inputs of `forward` and `generate`.

    Args:
        processor (`ProcessorMixin`): the foundation's own.
        messages (`list[list[dict]]`): B conversations.
        images (`list[list[PIL.Image.Image]]`): their pictures, or frames in the order of time.
        emotion_mode (`str`, *optional*): `"answer"` or `"reason"` for EmoPrompt; none by default.
        emotion_tasks (`list[str]`, *optional*): B of [`EMOTION_TASKS`], with `emotion_mode`.
        emotion_labels (`list[list[str]]`, *optional*): B lists of labels to choose from (empty: open), likewise.

    Returns:
        `BatchFeature`: `input_ids` `(B, T)`, padded on the left, `attention_mask` and the pixels.
    """
    texts = [
        render_chat(
            processor,
            conversation,
            emotion_mode=emotion_mode,
            emotion_task=emotion_tasks[i] if emotion_mode else None,
            emotion_labels=emotion_labels[i] if emotion_mode else None,
            add_generation_prompt=True,
        )
        for i, conversation in enumerate(messages)
    ]
    return process_texts(processor, texts, images, padding_side="left")


def split_answer(processor: ProcessorMixin, prompt: str, full: str) -> list[int]:
    """
    Tokens that a full rendering has after its prompt, both still with one placeholder an image.

    Raises:
        `ValueError`: if the full rendering does not begin with the prompt, in characters or in tokens.
    """
    prompt_ids = processor.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    full_ids = processor.tokenizer(full, add_special_tokens=False)["input_ids"]
    if not full.startswith(prompt) or full_ids[: len(prompt_ids)] != prompt_ids:
        raise ValueError(
            f"The rendered conversation does not begin with its prompt; the prompt ends {prompt[-40:]!r}, there the "
            f"conversation has {full[max(0, len(prompt) - 40) : len(prompt)]!r}. Use a chat template that writes the "
            "same prompt with and without an answer."
        )
    return full_ids[len(prompt_ids) :]


def answer_token_ids(processor: ProcessorMixin, messages: list[dict], answer: str) -> list[int]:
    """Tokens of `answer` as the assistant's next turn after `messages`, without what ends the turn."""
    prompt = render_chat(processor, messages, add_generation_prompt=True)
    turn = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    full = render_chat(processor, [*messages, turn])
    return split_answer(processor, prompt, full[: full.index(answer, len(prompt)) + len(answer)])


__all__ = ["EMOTION_TASKS", "answer_token_ids", "attach_emoprompt", "encode_chats"]
