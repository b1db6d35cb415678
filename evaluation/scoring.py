"""A model's answers to a batch: closed questions by the likelihood of their labels, others by greedy generation."""

import copy
import time
from dataclasses import dataclass, field

import torch
from PIL.Image import Image
from torch.utils.data import Dataset
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from modeling_emollm.emoprompt import answer_token_ids, encode_chats

from .decoding import Prompt, generate, label_scores, see
from .groups import allows_several
from .parsing import parse_answer
from .pictures import PictureError, decode_picture, grey_picture
from .rows import ASKED, COPIED, Batch, Question


INPUTS = ("all", "text", "picture")
LABEL_SCORES = ("likelihood", "per-token", "calibrated")
MAX_NEW_TOKENS = {None: 32, "answer": 32, "reason": 256}


def is_scored(question: Question) -> bool:
    """Open questions have no labels to score, and reasoning has to be written before its label is due."""
    return question.setting == "closed" and question.emoprompt != "reason"


def ask(row: dict, with_words: bool) -> list[dict]:
    """The conversation up to the answer, if need be without the words that are quoted before the question."""
    turns = [turn for turn in row["messages"] if turn["role"] != "assistant"]
    if with_words or not (row["context"] or row["turns"]):
        return turns
    question = {"type": "text", "text": row["instruction"].rpartition("\n")[2]}
    return [
        {**turn, "content": [question if item["type"] == "text" else item for item in turn["content"]]}
        for turn in turns
    ]


def answer_record(row: dict, question: Question, given: str, **answer) -> dict:
    """Of the predictions file, see `predictions.py`."""
    empty = dict.fromkeys(("prediction", "predictions", "probabilities", "text", "greedy", "error"))
    asked = {"emoprompt": question.emoprompt, "input": given, "seconds": 0.0}
    return {name: row[name] for name in COPIED} | empty | asked | answer


def read_text(text: str, row: dict, emoprompt: str | None) -> dict:
    """What a generated text answers, as the fields of a record."""
    several = allows_several(row)
    named = parse_answer(text, row["choices"], row["task"], several=several, concluded=emoprompt == "reason")
    return {"text": text, "prediction": named[0] if named else None, "predictions": named if several else None}


@dataclass
class Prepared:
    """
    A batch as the model takes it, without the samples whose pictures can't be decoded.

    Args:
        batch (`Batch`): whose questions these are.
        given (`str`): one of [`INPUTS`].
        rows (`list[list[dict]]`): for each question the rows of the samples.
        inputs (`list[BatchFeature]`): for each question.
        neutral (`list[BatchFeature]`): for each question without its words and pictures, where that is needed.
        labels (`list[list[int]]`): tokens of the choices.
        failed (`list[dict]`): records of the rows that are left out.
    """

    batch: Batch
    given: str
    rows: list[list[dict]] = field(default_factory=list)
    inputs: list[BatchFeature] = field(default_factory=list)
    neutral: list[BatchFeature] = field(default_factory=list)
    labels: list[list[int]] = field(default_factory=list)
    failed: list[dict] = field(default_factory=list)


def process_once(processor: ProcessorMixin) -> ProcessorMixin:
    """A copy that processes pictures in its first call, and has the same ones in all others."""
    once, process_images, kept = copy.copy(processor), processor._process_images, []

    def process(*args, **kwargs):
        if not kept:
            kept.append(process_images(*args, **kwargs))
        outputs, replacements = kept[0]
        return copy.copy(outputs), list(replacements)

    once._process_images = process
    return once


def decode_pictures(stored: list[dict], given: str) -> list[Image]:
    pictures = [decode_picture(image) for image in stored]
    return [grey_picture(picture.size) for picture in pictures] if given == "text" else pictures


class Preparation(Dataset):
    """
    Batches as the model takes them; what a `DataLoader` calls beside the model.

    Args:
        batches (`list[Batch]`): what is asked.
        processor (`ProcessorMixin`): the model's, with EmoPrompt attached if it is asked with it.
        given (`str`): one of [`INPUTS`].
        label_score (`str`): one of [`LABEL_SCORES`].
    """

    def __init__(
        self, batches: list[Batch], processor: ProcessorMixin, given: str = "all", label_score: str = "likelihood"
    ):
        self.batches, self.processor, self.given = batches, processor, given
        self.calibrated = label_score == "calibrated"

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Prepared:
        batch = self.batches[number]
        prepared, kept, pictures = Prepared(batch, self.given), [], []
        texts = batch.rows.select_columns([*COPIED, *ASKED])
        for places in batch.places:
            try:
                pictures.append(decode_pictures(batch.rows[places[0]]["images"], self.given))
                kept.append(places)
            except PictureError as error:
                for place, question in zip(places, batch.questions, strict=True):
                    prepared.failed.append(answer_record(texts[place], question, self.given, error=str(error)))
        if not kept:
            return prepared
        prepared.rows = [[texts[place] for place in places] for places in zip(*kept, strict=True)]
        prepared.inputs = self.encode(prepared, pictures, self.given != "picture")
        if any(map(is_scored, batch.questions)):
            row = prepared.rows[0][0]
            prepared.labels = [answer_token_ids(self.processor, ask(row, True), choice) for choice in row["choices"]]
            if self.calibrated:
                grey = [[grey_picture(picture.size) for picture in group] for group in pictures]
                prepared.neutral = self.encode(prepared, grey, False)
        return prepared

    def encode(self, prepared: Prepared, pictures: list[list[Image]], with_words: bool) -> list[BatchFeature]:
        processor = process_once(self.processor)
        return [
            encode_chats(
                processor,
                [ask(row, with_words) for row in rows],
                pictures,
                # the options are in the question already
                [{"emotion_task": row["task"], "emotion_mode": question.emoprompt} for row in rows]
                if question.emoprompt
                else None,
            )
            for question, rows in zip(prepared.batch.questions, prepared.rows, strict=True)
        ]


def score_labels(prompt: Prompt, neutral: Prompt | None, prepared: Prepared, label_score: str) -> torch.Tensor:
    """Log-likelihoods `(B, L)` of the labels, whose softmax are the probabilities; see [`answer_batch`]."""
    row = prepared.rows[0][0]
    every = label_score == "calibrated" or allows_several(row)
    options = {"per_token": label_score == "per-token", "every": every}
    scores = label_scores(prompt, prepared.labels, **options)
    return scores - label_scores(neutral, prepared.labels, **options) if neutral else scores


@torch.inference_mode()
def answer_batch(
    model: PreTrainedModel, processor: ProcessorMixin, prepared: Prepared, label_score: str = "likelihood"
) -> list[dict]:
    """
    Predictions for a batch. Its pictures are encoded once, whatever is asked about them.

    Args:
        model (`PreTrainedModel`): a foundation or an EmoLLM.
        processor (`ProcessorMixin`): its processor.
        prepared (`Prepared`): B samples with Q questions each.
        label_score (`str`, *optional*, defaults to `"likelihood"`): of labels, `"likelihood"`, `"per-token"` (both in
            `decoding.label_scores`) or `"calibrated"`: the likelihood over that behind the same question about grey
            pictures and without the words it quotes (contextual calibration: Zhao et al. 2021, "Calibrate Before
            Use", equation 1 with W = diag(p)^-1).

    Returns:
        `list[dict]`: B x Q records of the predictions file, those of samples whose pictures can't be decoded included.
    """
    records, seen, blind = list(prepared.failed), {}, {}
    for place, rows in enumerate(prepared.rows):
        question, start = prepared.batch.questions[place], time.perf_counter()
        inputs = dict(prepared.inputs[place].to(model.device, model.dtype))
        inputs = see(model, inputs, seen)
        answers: list[dict] = [{} for _ in rows]
        if is_scored(question):
            neutral = None
            if prepared.neutral:
                empty = see(model, dict(prepared.neutral[place].to(model.device, model.dtype)), blind)
                neutral = Prompt(model, empty)
            scores = score_labels(Prompt(model, inputs), neutral, prepared, label_score)
            for answer, row, shares in zip(answers, rows, scores.softmax(1).tolist(), strict=True):
                answer["probabilities"] = shares
                answer["prediction"] = max(zip(shares, row["choices"], strict=True), key=lambda pair: pair[0])[1]
        if question.greedy or not is_scored(question):
            tokens = generate(model, inputs, MAX_NEW_TOKENS[question.emoprompt])
            texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            for answer, row, text in zip(answers, rows, texts, strict=True):
                read = read_text(text, row, question.emoprompt)
                answer.update({"greedy": read["prediction"] or ""} if is_scored(question) else read)
        seconds = (time.perf_counter() - start) / len(rows)
        records += [
            answer_record(row, question, prepared.given, seconds=seconds, **answer)
            for row, answer in zip(rows, answers, strict=True)
        ]
    return records
