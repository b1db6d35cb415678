"""What a model answers to the rows of a batch."""

import copy

import pytest
import torch
from asked import answer_rows, make_row, png, prepare
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.conformance.checks import as_if_trained
from evaluation import scoring
from evaluation.scoring import answer_batch
from modeling_emollm import EmoLLMForConditionalGeneration
from modeling_emollm.emoprompt import answer_token_ids, attach_emoprompt, encode_chats


KINDS = ("llava", "idefics3", "gemma3", "paddleocr_vl")
COLOURS = [("red", "green"), ("blue", "yellow"), ("black", "white")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "choices, distinct",
    [
        (["no", "yes"], True),
        (["happily ever after", "sleeping", "no fear"], True),  # several tokens, told apart by the first
        (["anger", "angelic", "fear of anger", "fear of an angel", "sleep"], False),
    ],
)
@pytest.mark.parametrize("label_score", ["likelihood", "per-token"])
def test_probabilities_equal_one_full_forward_per_label(kind, choices, distinct, label_score, tiny_foundations):
    model = AutoModelForImageTextToText.from_pretrained(tiny_foundations[kind])
    processor = AutoProcessor.from_pretrained(tiny_foundations[kind])
    # Of different lengths, so that there is padding, and with two pictures as in a clip.
    texts = ("Is it hateful?", "Is this meme hateful or harmful? Answer with one of: no, yes.", "?")
    rows = [make_row(text, pair, choices) for text, pair in zip(texts, COLOURS, strict=True)]
    records = answer_rows(model, processor, rows, label_score=label_score)

    labels = [answer_token_ids(processor, rows[0]["messages"][:1], choice) for choice in choices]
    assert distinct == (len({label[0] for label in labels}) == len(labels))
    assert any(len(label) > 1 for label in labels) == (choices != ["no", "yes"])
    for row, record in zip(rows, records, strict=True):
        pictures = [scoring.decode_pictures(row["images"], "all")]
        inputs = encode_chats(processor, [row["messages"][:1]], pictures)
        length, scores = inputs["input_ids"].shape[1], []
        for label in labels:
            full = dict(inputs, input_ids=torch.cat([inputs["input_ids"], torch.tensor([label])], dim=1))
            full["attention_mask"] = torch.ones_like(full["input_ids"])
            for name in inputs.keys() & {"token_type_ids", "mm_token_type_ids"}:
                full[name] = torch.nn.functional.pad(inputs[name], (0, len(label)))
            with torch.no_grad():
                logits = model(**full).logits[0, length - 1 : -1].log_softmax(-1)
            steps = logits.gather(1, torch.tensor(label)[:, None])[:, 0]
            if label_score == "per-token":
                scores.append(steps.mean())
            else:
                scores.append(steps[0] if distinct else steps.sum())
        scores = torch.stack(scores)
        best = scores.argmax().item()
        assert record["prediction"] == choices[best]
        assert sum(record["probabilities"]) == pytest.approx(1)
        if distinct and label_score == "likelihood":
            assert record["probabilities"] == pytest.approx(scores.softmax(0).tolist(), rel=1e-4)
        else:  # those of labels that can't be the likeliest are bounds, so that it is at least as likely as said
            assert record["probabilities"][best] <= scores.softmax(0)[best] + 1e-5
        assert scores.max() - scores.min() > 1e-3  # the labels are told apart at all


def test_calibration_divides_by_what_is_likely_without_words_and_pictures(llava):
    model, processor = llava
    choices = ["no", "yes", "anger", "angelic"]
    words = 'Text on the meme: "Zorbs out!"\nIs it hateful?'
    rows = [make_row(words, ["red"], choices, context="Zorbs out!")]
    blind = [make_row("Is it hateful?", [], choices, images=[png((128, 128, 128))])]
    blind[0]["messages"][0]["content"].insert(0, {"type": "image"})
    (record,) = answer_rows(model, processor, rows, label_score="calibrated")
    with torch.inference_mode():
        scores = []
        for asked in (rows, blind):
            prepared = prepare(processor, asked)
            prompt = scoring.Prompt(model, scoring.see(model, dict(prepared.inputs[0]), {}))
            scores.append(scoring.label_scores(prompt, prepared.labels, every=True)[0])
    expected = (scores[0].softmax(0) / scores[1].softmax(0)).tolist()
    assert record["probabilities"] == pytest.approx([value / sum(expected) for value in expected], rel=1e-4)
    assert (scores[0] - scores[1]).abs().max() > 1e-3


def test_several_labels_are_all_followed_to_their_end(llava):
    model, processor = llava
    choices = ["be happy", "be healthy", "be in love", "be playful"]
    row = make_row("Why?", ["red"], choices, task="intent_understanding", source="intentonomy", answers=choices[:2])
    (record,) = answer_rows(model, processor, [row])
    prepared = prepare(processor, [row])
    with torch.inference_mode():
        prompt = scoring.Prompt(model, scoring.see(model, dict(prepared.inputs[0]), {}))
        exact = scoring.label_scores(prompt, prepared.labels, every=True)[0].softmax(0).tolist()
    assert record["probabilities"] == pytest.approx(exact) and record["answers"] == choices[:2]
    assert record["predictions"] is None and record["prediction"] == choices[exact.index(max(exact))]


def speak(monkeypatch, processor, text):
    """Every model generates the same text from now on."""
    tokens = torch.tensor(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    monkeypatch.setattr(scoring, "generate", lambda model, inputs, _: tokens.expand(len(inputs["input_ids"]), -1))


def test_open_and_reasoned_answers_are_read_from_the_text(llava, monkeypatch):
    model, processor = llava[0], attach_emoprompt(llava[1])
    choices = ["happiness", "sadness"]
    rows = [make_row(f"How does the {who} feel?", ["red"], choices, "open", "emotion_recognition") for who in "abc"]
    speak(monkeypatch, processor, "He looks sad.<|end|>")
    records = answer_rows(model, processor, rows)
    assert [record["prediction"] for record in records] == ["sadness"] * 3
    assert records[0]["text"] == "He looks sad." and records[0]["probabilities"] is None
    speak(monkeypatch, processor, "Happy or sad?<|end|>")
    assert [record["prediction"] for record in answer_rows(model, processor, rows)] == [None] * 3
    closed = [make_row("Is it hateful?", ["red"], ["no", "yes"])]
    speak(monkeypatch, processor, "1. Zorbs. 2. They are shut out, no welcome. 3. Praise.\nAnswer: yes<|end|>")
    (record,) = answer_rows(model, processor, closed, "reason")
    assert (record["prediction"], record["probabilities"], record["emoprompt"]) == ("yes", None, "reason")
    several = make_row(
        "Why?", ["red"], ["be happy", "be in love", "work hard"], task="intent_understanding", source="intentonomy"
    )
    speak(monkeypatch, processor, "Answer: be happy, work hard<|end|>")
    (record,) = answer_rows(model, processor, [several], "reason")
    assert record["predictions"] == ["be happy", "work hard"] and record["prediction"] == "be happy"


def test_the_label_that_generation_gives_is_beside_the_scored_one(llava, monkeypatch):
    model, processor = llava
    rows = [make_row("Is it hateful?", ["red"], ["no", "yes"])]
    for text, greedy in (("Yes.<|end|>", "yes"), ("Perhaps.<|end|>", "")):
        speak(monkeypatch, processor, text)
        (record,) = answer_rows(model, processor, rows, greedy=True)
        assert record["greedy"] == greedy and record["text"] is None and record["probabilities"]
    assert answer_rows(model, processor, rows)[0]["greedy"] is None


@pytest.mark.parametrize("upgraded", [False, True], ids=["foundation", "emollm"])
def test_pictures_are_decoded_processed_and_encoded_once(upgraded, llava, monkeypatch):
    foundation, processor = llava[0], attach_emoprompt(llava[1])
    model = EmoLLMForConditionalGeneration.from_foundation(foundation) if upgraded else foundation
    if upgraded:
        as_if_trained(model)
    counts = dict.fromkeys(("decoded", "processed", "encoded"), 0)

    def counted(name, function):
        def call(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(scoring, "decode_picture", counted("decoded", scoring.decode_picture))
    monkeypatch.setattr(processor, "_process_images", counted("processed", processor._process_images))
    encoder = counted("encoded", foundation.base_model.vision_tower.forward)
    monkeypatch.setattr(foundation.base_model.vision_tower, "forward", encoder)
    rows = [make_row("Is it hateful?", ["red", "green"], ["no", "yes"]), make_row("?", ["blue", "red"], ["no", "yes"])]
    prepared = prepare(processor, rows, (None, "answer", "reason"), greedy=True)
    together = answer_batch(model, processor, prepared)
    assert counts == {"decoded": 4, "processed": 1, "encoded": 1}
    modes = (None, "answer", "reason")
    alone = [record for mode in modes for record in answer_rows(model, processor, rows, mode, greedy=True)]
    for one, other in zip(together, alone, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    scored = [record["probabilities"] for record in together if record["probabilities"]]
    assert len({str(shares) for shares in scored}) == len(scored) == 4  # each row has its own pictures


def test_a_model_that_gives_nan_is_no_answer(llava):
    model, processor = copy.deepcopy(llava[0]), attach_emoprompt(llava[1])
    torch.nn.init.constant_(model.get_output_embeddings().weight, torch.nan)
    rows = [make_row("Is it hateful?", ["red"], ["no", "yes"])]
    for mode in (None, "reason"):
        with pytest.raises(ValueError, match="gives NaN instead of logits: it overflows. Load it in bfloat16"):
            answer_rows(model, processor, rows, mode)


def test_a_cache_of_fixed_size_in_the_models_settings_is_not_used(llava):
    model, processor = copy.deepcopy(llava[0]), llava[1]
    rows = [make_row("Is it hateful?", ["red"], ["anger", "angelic", "no"])]
    expected = answer_rows(model, processor, rows)[0]["probabilities"]
    model.generation_config.cache_implementation = "static"
    assert answer_rows(model, processor, rows)[0]["probabilities"] == expected


def test_what_is_left_out_does_not_matter(llava):
    model, processor = llava
    words = ('Text on the meme: "Zorbs out!"\nIs it hateful?', 'Text on the meme: "Zorbs welcome!"\nIs it hateful?')
    rows = [
        make_row(text, [colour], ["no", "yes"], context=text.split('"')[1])
        for text in words
        for colour in ("red", "blue")
    ]

    def shares(given):
        records = answer_rows(model, processor, rows, given=given)
        assert {record["input"] for record in records} == {given}
        return [pytest.approx(record["probabilities"], rel=1e-6) for record in records]

    full, blind, deaf = shares("all"), shares("text"), shares("picture")
    assert len({str(value) for value in full}) == 4
    assert blind[0].expected == blind[1] and blind[2].expected == blind[3] and blind[0].expected != blind[2]
    assert deaf[0].expected == deaf[2] and deaf[1].expected == deaf[3] and deaf[0].expected != deaf[1]


def test_a_picture_that_can_not_be_decoded_costs_its_rows_and_no_others(llava):
    model, processor = llava
    rows = [make_row(text, ["red"], ["no", "yes"]) for text in ("a", "b", "c")]
    rows[1]["images"] = [{"bytes": rows[1]["images"][0]["bytes"][:60], "path": None}]
    records = {record["id"]: record for record in answer_rows(model, processor, rows)}
    assert records["b"]["error"] == "picture broken or truncated" and records["b"]["prediction"] is None
    assert not records["a"]["error"] and records["c"]["prediction"]
    (record,) = answer_rows(model, processor, rows[1:2])
    assert record["error"] and record["probabilities"] is None
