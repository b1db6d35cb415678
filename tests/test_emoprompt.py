"""EmoPrompt as a reader of rendered conversations sees it, and the way from conversations to a model's inputs.

The golden renderings are in tests/golden/emoprompt. After a wanted change of wording:
ACCEPT_GOLDEN=1 python -m pytest tests/test_emoprompt.py -k golden
"""

import itertools
import os
from pathlib import Path

import pytest
import torch
import trl
from datasets import Dataset
from PIL import Image
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
from trl import SFTConfig, SFTTrainer

from dataset_scripts.tasks import TASKS
from modeling_emollm import (
    EMOTION_TASKS,
    EmoLLMForConditionalGeneration,
    answer_token_ids,
    attach_emoprompt,
    encode_chats,
    guide_messages,
)
from modeling_emollm.emoprompt import render_chat


GOLDEN = Path(__file__).parent / "golden" / "emoprompt"
KINDS = ("llava", "idefics3", "gemma3", "paddleocr_vl")
LABELS = ["one label", "another label"]
DEFINITIONS = {"one label": "This is so.", "another label": "It is not."}
CONTEXT = [{"speaker": "Ann", "text": "Look at me."}, {"speaker": "Ben", "text": "I do."}]
GUIDANCE = {"emotion_task": "hate_detection", "emotion_mode": "reason", "emotion_labels": LABELS}


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


@pytest.fixture
def processors(tiny_foundations) -> dict:
    return {kind: AutoProcessor.from_pretrained(tiny_foundations[kind]) for kind in KINDS}


@pytest.fixture
def processor(processors):
    return attach_emoprompt(processors["llava"])


def guide(question: str, **guidance) -> str:
    """The text of a user turn with EmoPrompt around it, by the bare text of the turn."""
    return guide_messages([{"role": "user", "content": question}], **guidance)[0]["content"]


@pytest.mark.parametrize("task", EMOTION_TASKS)
def test_golden_renderings(processor, task):
    closed = {"emotion_labels": LABELS}
    cases = {
        "answer, closed": closed,
        "answer, open": {},
        "reason, closed": {"emotion_mode": "reason", **closed},
        "reason, open": {"emotion_mode": "reason"},
        "answer, definitions, context": {"emotion_labels": DEFINITIONS, "emotion_context": CONTEXT},
    }
    sections = []
    for case, guidance in cases.items():
        text = render_chat(processor, QUESTION, {"emotion_task": task, **guidance}, add_generation_prompt=True)
        sections.append(f"== {case}\n{text}\n")
    file = GOLDEN / f"{task}.txt"
    if os.environ.get("ACCEPT_GOLDEN") == "1":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(sections), encoding="utf-8")
    assert file.read_text(encoding="utf-8") == "\n".join(sections), "if that is wanted: ACCEPT_GOLDEN=1"


def test_there_are_guided_tasks_for_all_of_emobench():
    assert set(EMOTION_TASKS) == set(TASKS)
    assert {file.stem for file in GOLDEN.glob("*.txt")} == set(EMOTION_TASKS)


@pytest.mark.parametrize("messages", [QUESTION, TALK, as_strings(TALK)], ids=["question", "talk", "strings"])
def test_without_a_task_the_rendering_is_the_foundations(processors, messages):
    for processor in processors.values():
        bare = processor.apply_chat_template(messages, add_generation_prompt=True)
        attach_emoprompt(processor)
        assert processor.apply_chat_template(messages, add_generation_prompt=True) == bare
        assert processor.apply_chat_template(messages, add_generation_prompt=True, emotion_task=None) == bare
        assert render_chat(processor, messages, add_generation_prompt=True) == bare


def test_a_task_guides_each_of_the_foundations(processors):
    for processor in processors.values():
        bare = processor.apply_chat_template(QUESTION, add_generation_prompt=True)
        attach_emoprompt(processor)
        guided = processor.apply_chat_template(QUESTION, add_generation_prompt=True, **GUIDANCE)
        assert guided == bare.replace("What is it?", guide("What is it?", **GUIDANCE)) != bare


def test_the_mode_is_answer_unless_another_is_asked_for(processor):
    bare, none, answer, reason = (
        processor.apply_chat_template(QUESTION, emotion_task="hate_detection", **mode)
        for mode in ({}, {"emotion_mode": None}, {"emotion_mode": "answer"}, {"emotion_mode": "reason"})
    )
    assert bare == none == answer != reason


def test_it_works_where_a_processor_tokenizes_itself(processors):
    """The way of servers: `tokenize=True`, with the guidance as template arguments."""
    conversation = [turn("user", "What is it?", pictures=1)]
    conversation[0]["content"][0] = {"type": "image", "image": Image.new("RGB", (64, 64))}
    for processor in processors.values():
        attach_emoprompt(processor)
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
        inputs = processor.apply_chat_template(conversation, **options, **GUIDANCE)
        ours = encode_chats(processor, [QUESTION], [[conversation[0]["content"][0]["image"]]], [GUIDANCE])
        assert inputs.keys() == ours.keys()
        assert all(torch.equal(inputs[name], ours[name]) for name in ours)


def upgraded(foundation: Path) -> EmoLLMForConditionalGeneration:
    return EmoLLMForConditionalGeneration.from_foundation(str(foundation), mvp_size=8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("load", [AutoModelForImageTextToText.from_pretrained, upgraded], ids=["foundation", "emollm"])
def test_a_pipeline_takes_the_arguments_in_its_call(tiny_foundations, processors, kind, load):
    picture = Image.new("RGB", (64, 64))
    chat = [{"role": "user", "content": [{"type": "image", "image": picture}, QUESTION[0]["content"][1]]}]
    processor = attach_emoprompt(processors[kind])
    pipe = pipeline("image-text-to-text", model=load(tiny_foundations[kind]), processor=processor)
    for guidance in ({}, GUIDANCE):
        expected = encode_chats(processor, [QUESTION], [[picture]], [guidance])["input_ids"][0].tolist()
        for chats in (chat, [chat, chat]):
            answers = pipe(text=chats, max_new_tokens=1, return_tensors=True, **guidance)
            for answer in answers if chats is chat else itertools.chain(*answers):
                assert answer["generated_token_ids"][:-1].tolist() == expected


def trl_batch(foundation: Path, rows: list[dict], **options) -> dict:
    """What TRL's own trainer learns from: the first batch, its tokens and its labels as text."""
    processor = attach_emoprompt(AutoProcessor.from_pretrained(foundation))
    trainer = SFTTrainer(
        model=AutoModelForImageTextToText.from_pretrained(foundation),
        args=SFTConfig(
            output_dir=str(foundation.parent / "trl"), report_to=[], use_cpu=True, max_length=None, **options
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=processor,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    labels = batch["labels"][0]
    decode = processor.tokenizer.decode
    return {"text": decode(batch["input_ids"][0]), "learned": decode(labels[labels != -100]), "batch": batch}


ANSWER = [turn("assistant", "one label")]
GUIDED = guide_messages(QUESTION, **GUIDANCE)[0]["content"][1]["text"]


@pytest.mark.parametrize("kind", KINDS)
def test_trl_guides_prompts_by_their_column(tiny_foundations, kind):
    """With pictures, TRL keeps the column only with `remove_unused_columns=False`."""
    row = {"images": [Image.new("RGB", (64, 64))], "prompt": QUESTION, "completion": ANSWER}
    rows = [row | {"chat_template_kwargs": GUIDANCE}] * 2
    seen = trl_batch(tiny_foundations[kind], rows, remove_unused_columns=False)
    assert GUIDED in seen["text"] and GUIDED not in seen["learned"]
    assert seen["learned"].startswith("one label") and "pixel_values" in seen["batch"]
    assert GUIDED not in trl_batch(tiny_foundations[kind], rows)["text"]


def test_trl_guides_texts_by_their_column(tiny_foundations):
    rows = [{"messages": [turn("user", "What is it?"), *ANSWER], "chat_template_kwargs": GUIDANCE}] * 2
    assert GUIDED in trl_batch(tiny_foundations["llava"], rows)["text"]


def test_trl_needs_guided_messages_for_whole_conversations_with_pictures(tiny_foundations):
    """TRL's collator renders `messages` with pictures without the column's arguments: `guide_messages` writes them."""
    row = {"images": [Image.new("RGB", (64, 64))], "chat_template_kwargs": GUIDANCE}
    for messages, there in ((QUESTION, False), (guide_messages(QUESTION, **GUIDANCE), True)):
        rows = [row | {"messages": [*messages, *ANSWER]}] * 2
        seen = trl_batch(tiny_foundations["llava"], rows, remove_unused_columns=False)
        assert (GUIDED in seen["text"]) == there


@pytest.mark.parametrize("kind", ["llava", "gemma3"])  # transformers cannot do it for idefics3
def test_quoted_control_tokens_are_words_where_that_is_asked_for(processors, kind):
    """What speakers and users write can then neither bring a picture nor end a turn."""
    processor = attach_emoprompt(processors[kind])
    chat = [{"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (64, 64))}]}]
    options = {"tokenize": True, "return_dict": True, "sanitize_control_tokens": True, **GUIDANCE}
    control = processor.tokenizer.convert_tokens_to_ids([processor.image_token, "<|end|>"])
    counts = []
    for text in ("I do.", f"{processor.image_token}<|end|>"):
        context = [{"speaker": "Ben", "text": text}]
        ids = processor.apply_chat_template(chat, **options, emotion_context=context)["input_ids"][0]
        counts.append([ids.count(token) for token in control])
    assert counts[0] == counts[1] and all(counts[0])


def test_the_mask_of_the_assistants_tokens_is_that_of_guided_messages(processors):
    template = Path(trl.__file__).parent / "chat_templates" / "gemma3_training.jinja"
    options = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    messages = [turn("user", "Who is there?"), turn("assistant", "A child."), turn("user", "How does she feel?")]
    for processor in processors.values():
        processor.chat_template = template.read_text(encoding="utf-8")
        expected = processor.apply_chat_template(guide_messages(messages, **GUIDANCE), **options)
        found = attach_emoprompt(processor).apply_chat_template(messages, **options, **GUIDANCE)
        assert found["assistant_masks"] == expected["assistant_masks"] and found["input_ids"] == expected["input_ids"]
        tokens = [i for i, mask in zip(found["input_ids"][0], found["assistant_masks"][0], strict=True) if mask]
        assert processor.tokenizer.decode(tokens).startswith("A child.")


def test_attached_twice_is_attached_once(processor):
    once = processor.chat_template
    assert attach_emoprompt(processor).chat_template == once


def test_an_earlier_emoprompt_is_replaced(processor):
    today = processor.chat_template
    processor.chat_template = today.replace("EmoPrompt 0.2", "EmoPrompt 0.1").replace("Judge", "Guess")
    assert processor.chat_template.count("Guess") >= len(EMOTION_TASKS)
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
            [{"emotion_task": "hate_detection"}],
        )


def test_rows_are_guided_each_by_its_own_task(processor):
    tasks, labels = ["hate_detection", "emotion_recognition"], [["no", "yes"], []]
    questions = [[turn("user", text)] for text in ("Hateful?", "Which feeling?")]
    guidance = [{"emotion_task": task, "emotion_labels": choices} for task, choices in zip(tasks, labels, strict=True)]
    inputs = encode_chats(processor, questions, [[], []], guidance)
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
