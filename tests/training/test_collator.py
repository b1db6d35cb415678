"""What is learned from a row."""

import io
import json
import shutil

import pytest
import torch
from datasets import Dataset
from PIL import ExifTags, Image
from sft_run import KINDS, words
from tokenizers.processors import TemplateProcessing
from torch.utils.data import DataLoader
from transformers import AutoProcessor

from evaluation.pictures import decode_picture
from modeling_emollm import answer_token_ids, attach_emoprompt
from modeling_emollm.emoprompt import process_texts
from training.collator import EmoBenchCollator, token_lengths
from training.data import GREY, ROW, load_mixture


# --- What is learned from a row


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 1.0], ids=["plain", "guided"])
def test_the_answer_and_the_end_of_its_turn_are_learned_and_nothing_else(processors, rows, kind, share):
    processor = processors[kind]
    tokenizer = processor.tokenizer
    batch = EmoBenchCollator(processor, None, share, reason_share=0.0, seed=0)(rows)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    for row, ids, labels, mask in zip(rows, batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        learned = labels != -100
        answer = row["messages"][-1]["content"][0]["text"]
        assert tokenizer.decode(labels[learned]) == answer + "<|end|>"
        assert labels[learned].tolist() == [
            *answer_token_ids(processor, row["messages"][:-1], answer),
            tokenizer.eos_token_id,
        ]
        assert torch.equal(ids[learned], labels[learned])
        assert mask[learned].all() and not mask[learned.nonzero().max() + 1 :].any()  # the last of the row
        text = tokenizer.decode(ids[mask.bool()])
        assert ("\nGive the answer alone." in text) == bool(share)
    pictures = batch["input_ids"] == tokenizer.image_token_id
    assert pictures.any() and (batch["labels"][pictures] == -100).all()
    assert not (batch["labels"] == tokenizer.pad_token_id).any()


def texts(processor, rows: list[dict], share: float, reasons: float = 0.0, seed: int = 0) -> list[str]:
    collator = EmoBenchCollator(processor, None, share, reasons, seed)
    return [collator.conversation(row)[0] for row in rows]


def guided(processor, rows: list[dict], share: float, seed: int) -> set[str]:
    rendered = texts(processor, rows, share, seed=seed)
    return {row["id"] for row, text in zip(rows, rendered, strict=True) if "\nGive the answer alone." in text}


def test_which_rows_are_guided_depends_on_their_id_and_the_seed_alone(processors):
    processor, rows = processors["llava"], [words(i) for i in range(400)]
    half = guided(processor, rows, 0.5, seed=0)
    assert 160 < len(half) < 240  # 4 standard deviations
    assert guided(processor, rows[::-1], 0.5, seed=0) == half
    assert guided(processor, rows[100:150], 0.5, seed=0) == half & {row["id"] for row in rows[100:150]}
    assert 160 < len(guided(processor, rows, 0.5, seed=1) ^ half) < 240  # another half
    assert guided(processor, rows, 0.1, seed=0) < half
    assert guided(processor, rows, 0.0, seed=0) == set()
    assert guided(processor, rows, 1.0, seed=0) == {row["id"] for row in rows}


@pytest.mark.parametrize("kind", KINDS)
def test_reasons_are_learned_before_the_answer(processors, rows, kind):
    processor, tokenizer = processors[kind], processors[kind].tokenizer
    rows = [{**row, "rationale": f"1. Cue {i}.\n2. More."} for i, row in enumerate(rows)]
    rows[0]["rationale"] = None  # answers all the same
    batch = EmoBenchCollator(processor, None, 1.0, 1.0, seed=0)(rows)
    for row, ids, labels in zip(rows, batch["input_ids"], batch["labels"], strict=True):
        answer = row["messages"][-1]["content"][0]["text"]
        target = f"{row['rationale']}\nAnswer: {answer}" if row["rationale"] else answer
        assert tokenizer.decode(labels[labels != -100]) == target + "<|end|>"
        asked = tokenizer.decode(ids[labels == -100])
        assert ("Reason in a short sentence for each step" in asked) == bool(row["rationale"])
        assert row["messages"][-1]["content"][0]["text"] == answer  # the caller's own is left alone


def test_which_guided_rows_reason_depends_on_their_id_and_the_seed_alone(processors):
    rows = [words(i) | {"rationale": "1. Cues."} for i in range(400)]

    def reasoned(share, emoprompt_share=1.0, seed=0):
        rendered = texts(processors["llava"], rows, emoprompt_share, share, seed)
        return {i for i, text in enumerate(rendered) if "1. Cues.\nAnswer: yes<|end|>" in text}

    half = reasoned(0.5)
    assert 160 < len(half) < 240  # 4 standard deviations
    assert reasoned(0.1) < half and reasoned(0.0) == set() and reasoned(1.0) == set(range(400))
    assert 160 < len(reasoned(0.5, seed=1) ^ half) < 240
    assert 65 < len(reasoned(0.5, emoprompt_share=0.5)) < 135  # of the guided ones, independently
    assert reasoned(0.5, emoprompt_share=0.5) < half
    assert reasoned(1.0, emoprompt_share=0.0) == set()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_is_too_long_is_refused(processors, rows, kind):
    processor = processors[kind]
    lengths = EmoBenchCollator(processor, None, 0.5, 0.0, seed=0)(rows)["attention_mask"].sum(-1).tolist()
    longest = max(lengths)
    EmoBenchCollator(processor, longest, 0.5, 0.0, seed=0)(rows)
    with pytest.raises(ValueError, match="answer would be cut") as error:
        EmoBenchCollator(processor, longest - 1, 0.5, 0.0, seed=0)(rows)
    assert rows[lengths.index(longest)]["id"] in str(error.value)
    assert f"{longest} tokens, more than max_length={longest - 1}" in str(error.value)


def test_plain_captions_are_learned_unguided(processors, captions):
    rows = list(load_mixture([str(captions)], None, "train", 0))
    batch = EmoBenchCollator(processors["llava"], None, 1.0, 0.0, seed=0)(rows)
    assert guided(processors["llava"], rows, 1.0, seed=0) == set()
    for row, labels in zip(rows, batch["labels"], strict=True):
        learned = processors["llava"].tokenizer.decode(labels[labels != -100])
        assert learned == row["messages"][-1]["content"][0]["text"] + "<|end|>"


# --- Conversations of several turns


def turns(*words: str, pictures: list[dict] = ()) -> dict:
    """A row of questions and answers in turn."""
    roles = ["user", "assistant"] * len(words)
    messages = [
        {"role": role, "content": [{"type": "text", "text": text}]} for role, text in zip(roles, words, strict=False)
    ]
    messages[0]["content"] = [{"type": "image"}] * len(pictures) + messages[0]["content"]
    row = {"id": "turns/train/0", "task": None, "images": list(pictures), "rationale": None}
    return {**row, "messages": messages}


TURNS = ("Who is it?", "My sister.", "Is she happy?", "Yes, she is.", "Why?", "It is her birthday.")
VICUNA = """\
{% for message in messages %}{{ message['role'].upper() + ': ' }}{% for item in message['content'] %}\
{{ '<image>\n' if item['type'] == 'image' else item['text'] + ' ' }}{% endfor %}{% endfor %}\
{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_of_a_conversation_is_learned(processors, rows, kind):
    batch = EmoBenchCollator(processors[kind], None, 0.5, 0.0, 0)([turns(*TURNS, pictures=rows[0]["images"]), rows[1]])
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    tokenizer = processors[kind].tokenizer
    assert tokenizer.decode(labels[labels != -100]) == "".join(f"{answer}<|end|>" for answer in TURNS[1::2])
    assert torch.equal(ids[labels != -100], labels[labels != -100])
    assert "Is she happy?" in tokenizer.decode(ids[labels == -100])


def test_a_template_whose_tokens_reach_into_the_next_turn_can_be_learned(processors, rows):
    """LLaVA 1.5's, in which the space behind an answer and the next role may be one token."""
    processor = processors["llava"]
    processor.chat_template = VICUNA
    batch = EmoBenchCollator(processor, None, 0.0, 0.0, 0)([turns(*TURNS, pictures=rows[0]["images"])])
    learned = [processor.tokenizer.decode(part) for part in runs(batch["labels"][0])]
    # The template writes no end of an answer; the last one is given one, so that the model learns to stop.
    assert [part.strip() for part in learned] == [*TURNS[1:-1:2], f"{TURNS[-1]} {processor.tokenizer.eos_token}"]


def runs(labels: torch.Tensor) -> list[list[int]]:
    """The labels between those of -100."""
    parts = [[]]
    for label in labels.tolist():
        if label != -100:
            parts[-1].append(label)
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


def test_emoprompt_guides_the_last_question_of_a_conversation(processors):
    row = turns(*TURNS) | {"task": "emotion_recognition"}
    batch = EmoBenchCollator(processors["llava"], None, 1.0, 0.0, 0)([row])
    tokenizer, labels = processors["llava"].tokenizer, batch["labels"][0]
    assert [tokenizer.decode(part) for part in runs(labels)] == [f"{answer}<|end|>" for answer in TURNS[1::2]]
    assert tokenizer.decode(batch["input_ids"][0]).count("\nGive the answer alone.") == 1


# --- What stands in for pictures


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_learned_of_a_row_whose_picture_is_broken(processors, rows, kind):
    collator = EmoBenchCollator(processors[kind], None, 0.5, 0.0, 0)
    whole = [rows[0], rows[1], words(0)]
    broken = [{**rows[0], "images": [{"bytes": rows[0]["images"][0]["bytes"][:200], "path": None}]}, *whole[1:]]
    before, after = collator(whole), collator(broken)
    assert after["skipped"] == [(rows[0]["id"], "picture broken or truncated")]
    assert "skipped" not in before
    assert (before["labels"][0] != -100).any() and (after["labels"][0] == -100).all()
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(before[name], after[name])  # of one size, so the text is the same
    assert torch.equal(before["labels"][1:], after["labels"][1:])
    entries = 16 if kind == "paddleocr_vl" else 1  # whose pictures are patches in one row
    assert not torch.equal(before["pixel_values"][:entries], after["pixel_values"][:entries])
    assert torch.equal(before["pixel_values"][entries:], after["pixel_values"][entries:])


def test_a_row_is_skipped_once_for_each_reason(processors, rows):
    clip = next(row for row in rows if len(row["images"]) == 3)
    images = [{"bytes": None, "path": "/nowhere"}, {"bytes": b"", "path": None}, {"bytes": b"no", "path": None}]
    batch = EmoBenchCollator(processors["llava"], None, 0.5, 0.0, 0)([clip | {"images": images}])
    assert batch["skipped"] == [(clip["id"], "picture broken or truncated"), (clip["id"], "picture missing")]
    assert (batch["labels"] == -100).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_a_picture_gets_a_row_that_has_one_and_is_not_learned(processors, rows, kind):
    collator, tokenizer = EmoBenchCollator(processors[kind], None, 0.5, 0.0, 0), processors[kind].tokenizer
    batch = collator([words(0), words(1)])
    assert len(batch["input_ids"]) == len(batch["labels"]) == len(batch["attention_mask"]) == 3
    assert (batch["input_ids"] == tokenizer.image_token_id).any(-1).tolist() == [False, False, True]
    assert (batch["labels"] != -100).any(-1).tolist() == [True, True, False]
    assert "pixel_values" in batch
    assert len(collator([words(0), rows[0]])["input_ids"]) == 2


class Features:
    """As a feature cache that holds all pictures but those of `missing`."""

    def __init__(self, processor, missing: list[dict]):
        self.processor, self.missing = processor, missing

    def has(self, image: dict) -> bool:
        return image not in self.missing

    def process(self, texts: list[str], images: list[list[dict]]) -> dict:
        pictures = [[decode_picture(image) for image in group] for group in images]
        batch = dict(process_texts(self.processor, texts, pictures, "left"))
        del batch["pixel_values"]
        return batch | {"image_features": images}


def test_with_stored_features_no_picture_is_decoded(processors, rows):
    plain = EmoBenchCollator(processors["llava"], None, 0.5, 0.0, 0)
    cached = EmoBenchCollator(processors["llava"], None, 0.5, 0.0, 0, Features(processors["llava"], rows[1]["images"]))
    before, after = plain(rows[:3]), cached(rows[:3])
    assert after["image_features"] == [rows[0]["images"], [GREY], rows[2]["images"]]
    assert after["skipped"] == [(rows[1]["id"], "picture without features, as it could not be decoded")]
    assert torch.equal(before["input_ids"], after["input_ids"])
    assert torch.equal(before["labels"][[0, 2]], after["labels"][[0, 2]]) and (after["labels"][1] == -100).all()
    assert cached([words(0)])["image_features"] == [[], [GREY]]


def test_loader_workers_make_the_same_batches(processors, drawn_dataset):
    table = load_mixture([f"{drawn_dataset}:humor_detection"], None, "train", 0)
    collator = EmoBenchCollator(processors["llava"], None, 0.5, 0.0, 0)
    loader = DataLoader(table, batch_size=8, collate_fn=collator, num_workers=1)
    for place, batch in enumerate(loader):
        expected = collator([table[i] for i in range(8 * place, 8 * place + 8)])
        assert all(torch.equal(batch[name], value) for name, value in expected.items())
    assert place == 1


# --- What is refused


@pytest.mark.parametrize("answer", ["", " \n"])
def test_a_row_without_an_answer_is_refused(processors, answer):
    with pytest.raises(ValueError, match="Row words/train/1 has no answer to learn"):
        EmoBenchCollator(processors["llava"], None, 0.5, 0.0, seed=0)([words(0), words(1, answer)])


def test_a_clip_without_frames_is_refused(processors, rows):
    clip = json.loads(json.dumps({**rows[0], "images": []}))
    clip["messages"][0]["content"][0] = {"type": "video"}
    with pytest.raises(ValueError, match=f"Row {clip['id']} is a clip without frames: build it again with --video"):
        EmoBenchCollator(processors["llava"], None, 0.5, 0.0, seed=0)([clip])


def edited(rows: list[dict], edit) -> list[dict]:
    row = json.loads(json.dumps({**rows[0], "images": []})) | {"images": rows[0]["images"]}
    edit(row)
    return [row]


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (lambda row: row["messages"].pop(), "does not end with an answer to learn"),
        (lambda row: row["messages"].clear(), "does not end with an answer to learn"),
        (lambda row: row["images"].clear(), r"has 0 pictures, but 1 times <image> in its messages: give one"),
        (lambda row: row["images"].append(GREY), "has 2 pictures, but 1 times <image> in its messages"),
        (
            lambda row: (
                row.update(task=None)
                or row["messages"][0]["content"].append({"type": "text", "text": "an <image> tag"})
            ),
            "has 1 pictures, but 2 times <image> in its messages: .* take the token out of its texts",
        ),
        (
            lambda row: row["messages"].extend([{"role": "user", "content": [{"type": "image"}]}, ANSWER]),
            "has a picture behind its first answer; put it into the first question",
        ),
        (
            lambda row: row["messages"].extend([ANSWER | {"content": []}, ANSWER]),
            "has no answer to learn",
        ),
    ],
    ids=["question", "nothing", "none", "more", "tag", "late", "empty"],
)
def test_a_row_that_would_be_learned_wrongly_is_refused(processors, rows, edit, error):
    images = list(rows[0]["images"])
    row = edited([rows[0] | {"images": images}], edit)
    with pytest.raises(ValueError, match=f"Row {rows[0]['id']} {error}"):
        EmoBenchCollator(processors["llava"], None, 0.5, 0.0, 0)(row)


ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "yes"}]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_processor_that_cuts_texts_is_refused(tiny_foundations, tmp_path, kind, side):
    folder = shutil.copytree(tiny_foundations[kind], tmp_path / kind)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings |= {"truncation": True, "max_length": 12, "truncation_side": side}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    processor = attach_emoprompt(AutoProcessor.from_pretrained(folder))
    with pytest.raises(ValueError, match=f"cuts texts to 12 tokens, on the {side}, .*: remove truncation from"):
        EmoBenchCollator(processor, None, 0.5, 0.0, 0)


def test_truncation_that_is_never_in_use_is_no_error(tiny_foundations, tmp_path, rows):
    """transformers switches it off at every call, unless told otherwise."""
    folder = shutil.copytree(tiny_foundations["llava"], tmp_path / "llava")
    settings = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    settings["truncation"] = {"direction": "Right", "max_length": 12, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(settings), encoding="utf-8")
    batch = EmoBenchCollator(attach_emoprompt(AutoProcessor.from_pretrained(folder)), None, 0.5, 0.0, 0)(rows)
    assert (batch["attention_mask"].sum(-1) > 12).all() and (batch["labels"] != -100).any(-1).all()


def test_a_tokenizer_that_adds_an_end_to_every_text_is_refused(processors, rows):
    processor = processors["llava"]
    processor.chat_template = processor.chat_template.replace("{{- bos_token -}}", "")
    tokenizer = processor.tokenizer
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|end|>", special_tokens=[("<|end|>", tokenizer.eos_token_id)]
    )
    with pytest.raises(ValueError, match="the processor makes a text of it that ends .* not with the answer"):
        EmoBenchCollator(processor, None, 0.5, 0.0, 0)(rows)


def test_a_template_that_rewrites_earlier_turns_is_refused(processors):
    processor = processors["llava"]
    processor.chat_template = processor.chat_template.replace(
        "message in messages -%}", "message in messages[-2:] -%}"
    )
    with pytest.raises(ValueError, match="Row turns/train/0: the rendered conversation does not begin with its turns"):
        EmoBenchCollator(processor, None, 0.0, 0.0, 0)([turns(*TURNS)])


# --- Lengths


def shaped(width: int, height: int, format: str, orientation: int = 1) -> dict:
    file, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (width, height), "teal").save(file, format, exif=exif)
    return {"bytes": file.getvalue(), "path": None}


@pytest.mark.parametrize("kind", [*KINDS, "tiled"])
def test_lengths_are_those_of_the_batches(tiny_foundations, rows, kind):
    processor = attach_emoprompt(
        AutoProcessor.from_pretrained(tiny_foundations["idefics3" if kind == "tiled" else kind])
    )
    if kind == "tiled":
        settings = processor.image_processor.to_dict()
        settings |= {"do_image_splitting": True, "size": {"longest_edge": 192}}
        processor.image_processor = type(processor.image_processor).from_dict(settings)
    wide, turned = shaped(190, 60, "JPEG"), shaped(190, 60, "JPEG", orientation=6)
    broken = {"bytes": b"no picture", "path": None}
    several = [turns("Which one?", "Both.", pictures=pictures) for pictures in ([wide, turned], [broken, wide, wide])]
    spaced = turns("\n\nNone.", "Right.\n\n", pictures=[shaped(30, 200, "PNG")])
    reasoned = [row | {"rationale": "1. Cue.\n2. More."} for row in rows]
    examples = [*reasoned, words(0), words(1), *several, spaced, turns(*TURNS), turns(*TURNS, pictures=[turned])]
    collator = EmoBenchCollator(processor, None, 0.6, 0.5, 0)
    table = Dataset.from_list(examples, features=ROW)
    expected = [int(collator([row])["attention_mask"][0].sum()) for row in table]
    assert token_lengths(table, collator) == expected
    assert len(set(expected)) > 8
    order = list(range(len(examples)))[::-2]
    assert token_lengths(table.select(order), collator) == [expected[i] for i in order]
    if kind == "tiled":  # what is turned has other rows and columns
        assert len({expected[-1] - expected[-2], expected[-4] - expected[-5]}) == 2


def test_a_row_that_is_too_long_is_refused_when_lengths_are_counted(processors, drawn_dataset):
    table = load_mixture([str(drawn_dataset)], None, "train", 0)
    collator = EmoBenchCollator(processors["llava"], None, 0.5, 0.0, 0)
    lengths = token_lengths(table, collator)
    collator.max_length = max(lengths) - 1
    longest = table["id"][lengths.index(max(lengths))]
    with pytest.raises(ValueError, match=f"Row {longest} has {max(lengths)} tokens, more than max_length"):
        token_lengths(table, collator)


def test_rows_of_like_length_can_be_batched_together(processors, drawn_dataset):
    rows = load_mixture([str(drawn_dataset)], None, "train", 0)
    lengths = token_lengths(rows, EmoBenchCollator(processors["llava"], None, 0.0, 0.0, 0))
    clips = [length for length, task in zip(lengths, rows["task"], strict=True) if task == "humor_detection"]
    pictures = [length for length, task in zip(lengths, rows["task"], strict=True) if task == "sarcasm_detection"]
    assert min(clips) > max(pictures)  # three frames a clip, one picture otherwise
