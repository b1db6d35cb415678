"""What is learned from a row."""

import json

import pytest
import torch
from sft_run import KINDS, words
from transformers import AutoProcessor

from modeling_emollm import answer_token_ids, attach_emoprompt
from training.collator import EmoBenchCollator, token_lengths
from training.data import load_mixture


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


def guided(processor, rows: list[dict], share: float, seed: int) -> set[str]:
    batch = EmoBenchCollator(processor, None, share, 0.0, seed)(rows)
    texts = processor.tokenizer.batch_decode(batch["input_ids"])
    return {row["id"] for row, text in zip(rows, texts, strict=True) if "\nGive the answer alone." in text}


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
        batch = EmoBenchCollator(processors["llava"], None, emoprompt_share, share, seed)(rows)
        texts = processors["llava"].tokenizer.batch_decode(batch["input_ids"])
        return {i for i, text in enumerate(texts) if "1. Cues.\nAnswer: yes<|end|>" in text}

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


@pytest.mark.parametrize("answer", ["", " \n"])
def test_a_row_without_an_answer_is_refused(processors, answer):
    with pytest.raises(ValueError, match="Row words/train/1 has no answer to learn"):
        EmoBenchCollator(processors["llava"], None, 0.5, 0.0, seed=0)([words(0), words(1, answer)])


def test_a_clip_without_frames_is_refused(processors, rows):
    clip = json.loads(json.dumps({**rows[0], "images": []}))
    clip["messages"][0]["content"][0] = {"type": "video"}
    with pytest.raises(ValueError, match=f"Row {clip['id']} is a clip without frames: build it again with --video"):
        EmoBenchCollator(processors["llava"], None, 0.5, 0.0, seed=0)([clip])


def test_plain_captions_are_learned_unguided(processors, captions):
    rows = list(load_mixture([str(captions)], None, "train", 0))
    batch = EmoBenchCollator(processors["llava"], None, 1.0, 0.0, seed=0)(rows)
    assert guided(processors["llava"], rows, 1.0, seed=0) == set()
    for row, labels in zip(rows, batch["labels"], strict=True):
        learned = processors["llava"].tokenizer.decode(labels[labels != -100])
        assert learned == row["messages"][-1]["content"][0]["text"] + "<|end|>"


def test_rows_of_like_length_can_be_batched_together(tiny_foundations, drawn_dataset):
    processor = attach_emoprompt(AutoProcessor.from_pretrained(tiny_foundations["llava"]))
    rows = load_mixture([str(drawn_dataset)], None, "train", 0)
    lengths = token_lengths(rows, EmoBenchCollator(processor, None, 0.0, 0.0, 0))
    clips = [length for length, task in zip(lengths, rows["task"], strict=True) if task == "humor_detection"]
    pictures = [length for length, task in zip(lengths, rows["task"], strict=True) if task == "sarcasm_detection"]
    batch = EmoBenchCollator(processor, None, 0.0, 0.0, 0)([rows[0], rows[1]])
    assert min(clips) > max(pictures)  # three frames a clip, one picture otherwise
    assert abs(batch["attention_mask"][0].sum() - lengths[0]) < 8  # but for what opens and ends the turns
