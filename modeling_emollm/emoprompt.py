"""EmoPrompt: guidance in the chat template, and the one way from conversations and pictures to a model's inputs.

The name is the paper's (arXiv 2406.16442); what it says is ours, and rests on the psychology of emotion:

- An emotion is read from what happens to somebody's goals (appraisal: Lazarus 1991, "Emotion and Adaptation", for
  goals reached and blocked, losses, dangers and offences; Scherer 2001, "Appraisal considered as a process of
  multilevel sequential checking", for what is unexpected), from valence and arousal (Russell 1980, "A circumplex
  model of affect"), from the brows, eyes and lips (facial action units: Ekman & Friesen 1978), from posture and
  gestures (de Gelder 2009, "Why bodies?") and gaze (Adams & Kleck 2005), from the relation between people (Fischer &
  Manstead 2008, "Social functions of emotion") and from the scene (Barrett, Mesquita & Gendron 2011, "Context in
  emotion perception") with its colours (Valdez & Mehrabian 1994, "Effects of color on emotions").
- Intent is the goal that makes an act a sensible means (Dennett 1987, "The Intentional Stance"; Baker, Saxe &
  Tenenbaum 2009, "Action understanding as inverse planning").
- Hate is an attack on people for a protected attribute, told from picture and words together (Kiela et al. 2020, "The
  Hateful Memes Challenge"); who quotes an attack may also condemn it (Röttger et al. 2021, "HateCheck").
- Humor is an expectation that is broken and makes sense in another way (Suls 1972), harmlessly (McGraw & Warren 2010,
  "Benign violations").
- Sarcasm says the opposite of what is meant (Grice 1975, "Logic and conversation"), told by words that clash with
  the situation (Riloff et al. 2013) or with the picture (Schifanella et al. 2016).

Template arguments, wherever a chat template is rendered (`apply_chat_template`, pipelines, TRL, servers):

- `emotion_task`: one of [`EMOTION_TASKS`]; without it, the rendering is byte for byte the foundation's.
- `emotion_mode`: `"answer"`, the default, asks for the bare label, `"reason"` for three short steps and a last line
  `Answer: <label>`.
- `emotion_labels`: a list of labels to choose from, or a mapping of label to definition; without it, it names none.
- `emotion_context`: earlier turns of the dialogue that is asked about, a list of `{"speaker": ..., "text": ...}`,
  quoted before the question.

It guides the last turn of the user, around the last text in it, and leaves everything else alone: other turns, system
and tool turns, pictures and the tools. What it can't follow raises a `jinja2.TemplateError` that says why: an unknown
task or mode, labels or context that are no list, a label without its definition, a turn of the context without
speaker or text, a conversation without a user's turn.
"""

import json
import re
from functools import lru_cache
from pathlib import Path

from transformers import AddedToken, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils.chat_template_utils import render_jinja_template


EMOTION_TASKS = (
    "emotion_recognition",
    "intent_understanding",
    "hate_detection",
    "humor_detection",
    "sarcasm_detection",
)
ARGUMENTS = ("emotion_task", "emotion_mode", "emotion_labels", "emotion_context")
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


@lru_cache(maxsize=8)
def _control_tokens(tokenizer: PreTrainedTokenizerBase, size: int, template: str, placeholders: tuple) -> re.Pattern:
    """`size` tells the tokenizer from itself with fewer tokens."""
    bracketed = re.compile(r"[^\w\s].*\w.*[^\w\s]", re.DOTALL)
    try:
        added = tokenizer.added_tokens_decoder.values()
    except NotImplementedError:  # by MistralCommonBackend, which names its special tokens only
        added = [AddedToken(token, special=True) for token in tokenizer.all_special_tokens]
    tokens = [
        token.content
        for token in added
        if len(token.content) > 1
        and (token.special or (token.content in template and bracketed.fullmatch(token.content)))
    ]
    tokens += map(str, filter(None, placeholders))
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")  # which never matches


def control_tokens(processor: ProcessorMixin) -> re.Pattern:
    """
    What a text must not hold to be a text and nothing else: special tokens, others in brackets that the chat template
    writes, such as `<think>`, and what the processor puts pictures and clips in the place of.
    """
    own = (processor.chat_template or "").rpartition(PROLOGUE_END)[2]
    placeholders = tuple(getattr(processor, name, None) for name in ("image_token", "video_token"))
    return _control_tokens(processor.tokenizer, len(processor.tokenizer), own, placeholders)


def as_words(value, control: re.Pattern):
    """A text, or a list or dict of texts, whose control tokens are broken by a space behind their first character."""
    if isinstance(value, str):
        return control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", value)
    if isinstance(value, dict):
        return {as_words(key, control): as_words(item, control) for key, item in value.items()}
    return [as_words(item, control) for item in value] if isinstance(value, list | tuple) else value


def _turn_as_words(turn: dict, control: re.Pattern) -> dict:
    """Templates write texts side by side: those that are a control token only together become one, line by line."""
    turn = as_words(turn, control)
    content = turn.get("content") or []
    texts = [item for item in content if isinstance(item, dict) and isinstance(item.get("text"), str)]
    if not control.search("".join(item["text"].strip() for item in texts)):
        return turn
    one = {**texts[-1], "text": "\n".join(item["text"] for item in texts)}
    return {**turn, "content": [item for item in content if item not in texts] + [one]}


def render_chat(
    processor: ProcessorMixin,
    messages: list[dict],
    guidance: dict | None = None,
    *,
    add_generation_prompt: bool = False,
) -> str:
    """
    One conversation as text. Without `guidance`, EmoPrompt's template arguments, it is the foundation's own rendering,
    but for control tokens in what others than the assistant say: a caption can't end a turn, or bring in a picture.

    Raises:
        `ValueError`: if there is `guidance`, and no EmoPrompt in front of the processor's chat template.
    """
    if guidance and PROLOGUE_END not in (processor.chat_template or ""):
        raise ValueError("The processor's chat template has no EmoPrompt; call attach_emoprompt(processor) first.")
    control = control_tokens(processor)
    messages = [turn if turn["role"] == "assistant" else _turn_as_words(turn, control) for turn in messages]
    guidance = as_words(guidance or {}, control)
    return processor.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, **guidance)


def guide_messages(
    messages: list[dict],
    *,
    emotion_task: str,
    emotion_mode: str | None = None,
    emotion_labels: list[str] | dict[str, str] | None = None,
    emotion_context: list[dict] | None = None,
) -> list[dict]:
    """
    The conversation with EmoPrompt written into it, for a model whose chat template is out of reach, as behind an API.

    Args:
        messages (`list[dict]`): roles and contents that JSON can hold.
        emotion_task, emotion_mode, emotion_labels, emotion_context: EmoPrompt's template arguments.

    Raises:
        `jinja2.TemplateError`: for arguments that EmoPrompt refuses.
        `TypeError`: for messages that JSON can't hold.
    """
    json.dumps(messages)  # raises where transformers would write "<Image>" for a picture
    template = PROLOGUE + "{{ messages | tojson }}"
    rendered = render_jinja_template(
        conversations=[messages],
        chat_template=template,
        emotion_task=emotion_task,
        emotion_mode=emotion_mode,
        emotion_labels=emotion_labels,
        emotion_context=emotion_context,
    )
    return json.loads(rendered[0][0])


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
    guidance: list[dict] | None = None,
) -> BatchFeature:
    """
    Conversations that end with the user's turn, as inputs of `forward` and `generate`.

    Args:
        processor (`ProcessorMixin`): the foundation's own, with EmoPrompt attached if there is `guidance`.
        messages (`list[list[dict]]`): B conversations.
        images (`list[list[PIL.Image.Image]]`): their pictures, or frames in the order of time.
        guidance (`list[dict]`, *optional*): B sets of EmoPrompt's template arguments, such as
            `{"emotion_task": "hate_detection", "emotion_mode": "reason"}`; none by default.

    Returns:
        `BatchFeature`: `input_ids` `(B, T)`, padded on the left, `attention_mask` and the pixels.
    """
    texts = [
        render_chat(processor, conversation, arguments, add_generation_prompt=True)
        for conversation, arguments in zip(messages, guidance or [None] * len(messages), strict=True)
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


__all__ = ["EMOTION_TASKS", "answer_token_ids", "attach_emoprompt", "encode_chats", "guide_messages"]
