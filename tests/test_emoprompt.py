"""EmoPrompt as a reader of rendered conversations sees it, and the way from conversations to a model's inputs.

The golden renderings are in tests/golden/emoprompt. After a wanted change of wording:
ACCEPT_GOLDEN=1 python -m pytest tests/test_emoprompt.py -k golden
"""

import itertools
import os
from pathlib import Path

import jinja2
import pytest
import torch
import trl
from PIL import Image
from tokenizers.processors import TemplateProcessing
from transformers import AutoProcessor
from transformers.utils.chat_template_utils import render_jinja_template

from dataset_scripts.tasks import TASKS
from modeling_emollm import EMOTION_TASKS, answer_token_ids, attach_emoprompt, encode_chats
from modeling_emollm.emoprompt import PROLOGUE, render_chat


GOLDEN = Path(__file__).parent / "golden" / "emoprompt"
KINDS = ("llava", "idefics3", "gemma3")
LABELS = ["one label", "another label"]
TRL_TEMPLATES = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
# Jinja would eat the white space that these begin with, if EmoPrompt did not leave it alone.
ODD_TEMPLATES = [
    start + "{% for message in messages %}{{ message['content'] }}{% endfor %}\n"
    for start in ("\n", "  ", " \n ", "{# note #}\n", "\n{# note #}\n  ", "text\n")
]


def turn(role: str, text: str, pictures: int = 0) -> dict:
    return {"role": role, "content": [*[{"type": "image"}] * pictures, {"type": "text", "text": text}]}


QUESTION = [turn("user", "What is it?", pictures=1)]
TALK = [
    turn("system", "Be kind."),
    turn("user", "Who is there?", pictures=1),
    turn("assistant", "A child."),
    turn("user", "How does she feel?", pictures=1),
]


def as_strings(messages: list[dict]) -> list[dict]:
    return [{**message, "content": message["content"][-1]["text"]} for message in messages]


def as_texts(messages: list[dict]) -> list[dict]:
    return [{**message, "content": message["content"][-1:]} for message in messages]


@pytest.fixture
def processors(tiny_foundations) -> dict:
    return {kind: AutoProcessor.from_pretrained(tiny_foundations[kind]) for kind in KINDS}


@pytest.fixture
def processor(processors):
    return attach_emoprompt(processors["llava"])


def guide(question: str, **guidance) -> str:
    """The text of a user turn with EmoPrompt around it, by the bare text of the turn."""
    template = PROLOGUE + "{{ messages[0]['content'] }}"
    messages = [{"role": "user", "content": question}]
    return render_jinja_template(conversations=[messages], chat_template=template, **guidance)[0][0]


@pytest.mark.parametrize("task", EMOTION_TASKS)
def test_golden_renderings(processor, task):
    sections = []
    for mode, (setting, labels) in itertools.product(("answer", "reason"), {"closed": LABELS, "open": []}.items()):
        text = render_chat(
            processor,
            QUESTION,
            emotion_mode=mode,
            emotion_task=task,
            emotion_labels=labels,
            add_generation_prompt=True,
        )
        sections.append(f"== {mode}, {setting}\n{text}\n")
    file = GOLDEN / f"{task}.txt"
    if os.environ.get("ACCEPT_GOLDEN") == "1":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(sections), encoding="utf-8")
    assert file.read_text(encoding="utf-8") == "\n".join(sections), "if that is wanted: ACCEPT_GOLDEN=1"


def test_there_are_guided_tasks_for_all_of_emobench():
    assert set(EMOTION_TASKS) == set(TASKS)
    assert {file.stem for file in GOLDEN.iterdir()} == set(EMOTION_TASKS)


@pytest.mark.parametrize("messages", [QUESTION, TALK, as_strings(TALK)], ids=["question", "talk", "strings"])
def test_without_a_task_the_rendering_is_the_foundations(processors, messages):
    for processor in processors.values():
        bare = processor.apply_chat_template(messages, add_generation_prompt=True)
        attach_emoprompt(processor)
        assert processor.apply_chat_template(messages, add_generation_prompt=True) == bare
        assert processor.apply_chat_template(messages, add_generation_prompt=True, emotion_task=None) == bare
        assert render_chat(processor, messages, add_generation_prompt=True) == bare


def test_a_task_guides_each_of_the_foundations(processors):
    guidance = {"emotion_task": "hate_detection", "emotion_mode": "reason", "emotion_labels": LABELS}
    for processor in processors.values():
        bare = processor.apply_chat_template(QUESTION, add_generation_prompt=True)
        attach_emoprompt(processor)
        guided = processor.apply_chat_template(QUESTION, add_generation_prompt=True, **guidance)
        assert guided == bare.replace("What is it?", guide("What is it?", **guidance)) != bare


def render(template: str, messages: list[dict], **guidance) -> str:
    """As `apply_chat_template` does."""
    return render_jinja_template(
        conversations=[messages],
        chat_template=template,
        add_generation_prompt=True,
        bos_token="<s>",
        eos_token="</s>",
        **guidance,
    )[0][0]


@pytest.mark.parametrize(
    "template",
    [*(pytest.param(file.read_text(encoding="utf-8"), id=file.stem) for file in TRL_TEMPLATES), *ODD_TEMPLATES],
)
def test_templates_of_many_families_carry_it(template):
    """Guided, a template renders what it makes of a question that is guided by hand; else what it made before."""
    guidance = {"emotion_task": "sarcasm_detection", "emotion_labels": ["no", "yes"]}
    by_hand = [*TALK[:-1], turn("user", guide("How does she feel?", **guidance))]
    rendered = 0
    for form in (as_strings, as_texts):
        for first in (0, 1):  # with the system turn and without
            messages = form(TALK)[first:]
            try:
                bare = render(template, messages)
            except (TypeError, jinja2.TemplateError):
                continue  # a family without system turns, or with one form of content only
            rendered += 1
            assert render(PROLOGUE + template, messages) == bare
            assert render(PROLOGUE + template, messages, **guidance) == render(template, form(by_hand)[first:])
    assert rendered


@pytest.mark.parametrize("form", [as_strings, as_texts])
def test_only_the_last_user_turn_is_guided(processor, form):
    guidance = {"emotion_task": "emotion_recognition", "emotion_labels": LABELS}
    for end in (4, 3):  # the conversation ends with a user's turn, or with an assistant's
        messages = form(TALK)[:end]
        question = "How does she feel?" if end == 4 else "Who is there?"
        bare = processor.apply_chat_template(messages)
        assert processor.apply_chat_template(messages, **guidance) == bare.replace(
            question, guide(question, **guidance)
        )


def test_words_are_guided_from_their_first_to_their_last():
    """Pictures stay where they are; of several texts the last one is guided."""
    template = PROLOGUE + "{{ messages[0]['content'] | tojson }}"
    parts = ["Before:", None, "After:", None, "Did it change?", None]
    content = [{"type": "text", "text": text} if text else {"type": "image"} for text in parts]
    guidance = {"emotion_task": "humor_detection"}
    expected = [*content[:4], {"type": "text", "text": guide("Did it change?", **guidance)}, content[5]]
    assert render(template, [{"role": "user", "content": content}], **guidance) == render(
        template.removeprefix(PROLOGUE), [{"role": "user", "content": expected}]
    )


def test_a_turn_of_only_pictures_gets_the_guidance_as_text(processor):
    content = [{"type": "image"}, {"type": "image"}]
    guidance = {"emotion_task": "emotion_recognition", "emotion_labels": LABELS}
    text = processor.apply_chat_template([{"role": "user", "content": content}], **guidance)
    assert text == f"<s><|user|><image><image>{guide('', **guidance)}<|end|>"
    assert content == [{"type": "image"}, {"type": "image"}]  # the caller's own is left alone


def test_the_mode_is_answer_unless_another_is_asked_for(processor):
    bare, none, answer, reason = (
        processor.apply_chat_template(QUESTION, emotion_task="hate_detection", **mode)
        for mode in ({}, {"emotion_mode": None}, {"emotion_mode": "answer"}, {"emotion_mode": "reason"})
    )
    assert bare == none == answer != reason


def test_it_works_where_a_processor_tokenizes_itself(processors):
    """The way of `pipeline` and of servers: `tokenize=True`, with the guidance as template arguments."""
    conversation = [turn("user", "What is it?", pictures=1)]
    conversation[0]["content"][0] = {"type": "image", "image": Image.new("RGB", (64, 64))}
    guidance = {"emotion_task": "hate_detection", "emotion_mode": "reason", "emotion_labels": LABELS}
    for processor in processors.values():
        attach_emoprompt(processor)
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
        inputs = processor.apply_chat_template(conversation, **options, **guidance)
        ours = encode_chats(
            processor,
            [QUESTION],
            [[conversation[0]["content"][0]["image"]]],
            emotion_mode="reason",
            emotion_tasks=["hate_detection"],
            emotion_labels=[LABELS],
        )
        assert inputs.keys() == ours.keys()
        assert all(torch.equal(inputs[name], ours[name]) for name in ours)


def test_an_unknown_task_is_refused_with_the_five_names(processor):
    with pytest.raises(jinja2.TemplateError, match="Unknown emotion_task 'joke_detection'") as error:
        processor.apply_chat_template(QUESTION, emotion_task="joke_detection")
    assert all(task in str(error.value) for task in EMOTION_TASKS)


def test_an_unknown_mode_is_refused(processor):
    with pytest.raises(jinja2.TemplateError, match="Unknown emotion_mode 'guess': use answer or reason"):
        processor.apply_chat_template(QUESTION, emotion_task="hate_detection", emotion_mode="guess")


def test_attached_twice_is_attached_once(processor):
    once = processor.chat_template
    assert attach_emoprompt(processor).chat_template == once


def test_an_earlier_emoprompt_is_replaced(processor):
    today = processor.chat_template
    processor.chat_template = today.replace("whom it targets", "whom it is aimed at")
    assert processor.chat_template != today
    assert attach_emoprompt(processor).chat_template == today


def test_a_saved_processor_keeps_it(processors, tmp_path):
    for kind, processor in processors.items():
        attach_emoprompt(processor).save_pretrained(tmp_path / kind)
        loaded = AutoProcessor.from_pretrained(tmp_path / kind)
        assert loaded.chat_template == processor.chat_template
        assert attach_emoprompt(loaded).chat_template == processor.chat_template


@pytest.mark.parametrize(("template", "found"), [(None, "NoneType"), ({"default": "{{ 1 }}"}, "dict")])
def test_a_processor_without_one_chat_template_is_refused(processor, template, found):
    processor.chat_template = template
    with pytest.raises(ValueError, match=f"LlavaProcessor has no single chat template but {found}"):
        attach_emoprompt(processor)


def test_guidance_without_emoprompt_is_refused(processors):
    with pytest.raises(ValueError, match="call attach_emoprompt"):
        encode_chats(
            processors["llava"],
            [QUESTION],
            [[Image.new("RGB", (64, 64))]],
            emotion_mode="answer",
            emotion_tasks=["hate_detection"],
            emotion_labels=[[]],
        )


def test_rows_are_guided_each_by_its_own_task(processor):
    tasks, labels = ["hate_detection", "emotion_recognition"], [["no", "yes"], []]
    questions = [[turn("user", text)] for text in ("Hateful?", "Which feeling?")]
    inputs = encode_chats(
        processor, questions, [[], []], emotion_mode="answer", emotion_tasks=tasks, emotion_labels=labels
    )
    texts = [text.replace("<pad>", "") for text in processor.tokenizer.batch_decode(inputs["input_ids"])]
    for text, question, task, choices in zip(texts, ("Hateful?", "Which feeling?"), tasks, labels, strict=True):
        guided = guide(question, emotion_task=task, emotion_labels=choices)
        assert text == f"<s><|user|>{guided}<|end|><|assistant|>"


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_padded_on_the_left_with_pictures_or_without(processors, kind):
    processor, picture = processors[kind], Image.linear_gradient("L")
    numbers = [0, 2, 1]
    messages = [[turn("user", "What is it?", pictures=number)] for number in numbers]
    images = [[picture.rotate(90 * i) for i in range(number)] for number in numbers]
    inputs = encode_chats(processor, messages, images)
    for i in range(3):
        alone = encode_chats(processor, messages[i : i + 1], images[i : i + 1])
        length = alone["input_ids"].shape[1]
        assert inputs["attention_mask"][i].tolist() == [0] * (inputs["input_ids"].shape[1] - length) + [1] * length
        assert torch.equal(inputs["input_ids"][i, -length:], alone["input_ids"][0])
    assert "pixel_values" not in encode_chats(processor, messages[:1], [[]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("written", [True, False], ids=["by the template", "by the tokenizer"])
def test_a_conversation_begins_once(processors, kind, written):
    processor = processors[kind]
    tokenizer = processor.tokenizer
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    if not written:
        processor.chat_template = processor.chat_template.replace("{{- bos_token -}}", "")
    inputs = encode_chats(processor, [QUESTION], [[Image.new("RGB", (64, 64))]])
    assert inputs["input_ids"][0, 0] == tokenizer.bos_token_id
    assert (inputs["input_ids"] == tokenizer.bos_token_id).sum() == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA", "CMYK", "1"])
def test_pictures_of_any_mode_become_rgb(processors, kind, mode):
    processors[kind].image_processor.do_convert_rgb = False  # as those of some families
    picture = Image.merge("RGB", [Image.linear_gradient("L").rotate(90 * i) for i in range(3)]).convert(mode)
    inputs = encode_chats(processors[kind], [QUESTION], [[picture]])
    expected = encode_chats(processors[kind], [QUESTION], [[picture.convert("RGB")]])
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])


# "end" is a part of the mark that ends a turn, "is" of the question, and the last has two words in another script.
@pytest.mark.parametrize("answer", ["yes", "end", "is", "very happy", "開心 😀"])
def test_tokens_of_an_answer_are_what_follows_the_prompt(processors, answer):
    for kind in KINDS:
        tokenizer = processors[kind].tokenizer
        ids = answer_token_ids(processors[kind], QUESTION, answer)
        assert tokenizer.decode(ids) == answer
        assert ids == tokenizer(answer, add_special_tokens=False)["input_ids"]


def test_a_template_whose_prompt_depends_on_the_answer_is_refused(processor):
    processor.chat_template = "{{ messages | length }}" + processor.chat_template
    with pytest.raises(ValueError, match="does not begin with its prompt"):
        answer_token_ids(processor, QUESTION, "yes")
