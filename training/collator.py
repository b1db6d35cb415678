"""From rows to a batch in which only the answers are to be learned."""

import copy
import hashlib
import os
import re

import pyarrow as pa
import torch
from accelerate import PartialState
from datasets import Dataset
from PIL import Image
from tqdm import tqdm
from transformers import ProcessorMixin
from trl.data_utils import common_prefix_length

from evaluation.pictures import PictureError, decode_picture
from modeling_emollm import EMOTION_TASKS
from modeling_emollm.emoprompt import as_words, control_tokens, process_texts, render_chat

from .data import GREY, picture_size
from .encoding import QUESTION
from .features import FeatureCache


ENDING = [
    {"role": "user", "content": [{"type": "text", "text": "How is she?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "calm"}]},
]


class EmoBenchCollator:
    """
    Rows to a batch in which only the assistant's turns are to be learned.

    A picture that can't be decoded is replaced by a grey one, and nothing of its row is learned. A batch without any
    picture gets a last row with a grey one, of which nothing is learned either: so every batch passes through the
    vision tower and MVP, on every process.

    Args:
        processor (`ProcessorMixin`): the foundation's own, with EmoPrompt in front of its chat template.
        max_length (`int` or `None`): the most tokens that a row may have. A longer one is an error: cut short, it
            would lose its answer.
        emoprompt_share (`float`): the share of rows that EmoPrompt guides; which ones follows from their `id`.
        reason_share (`float`): the share of these that learn their rationale before the answer, if they have one.
        seed (`int`): of both choices.
        features (`FeatureCache`, *optional*): where the features of the pictures are, instead of their pixels.

    Raises:
        `ValueError`: if the processor cuts long texts.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        max_length: int | None,
        emoprompt_share: float,
        reason_share: float,
        seed: int,
        features: FeatureCache | None = None,
    ):
        self.processor = processor
        self.max_length = max_length
        self.emoprompt_share = emoprompt_share
        self.reason_share = reason_share
        self.seed = seed
        self.features = features
        # Some templates, as LLaVA 1.5's, write nothing where an answer ends: a model would never learn to stop.
        tail = render_chat(processor, ENDING).rpartition("calm")[2]
        tokenizer = processor.tokenizer
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        ends = special & set(tokenizer(tail, add_special_tokens=False)["input_ids"])
        self.end = "" if ends else tokenizer.eos_token
        # Tokenizers keep how they cut from the last call; what decides it is spread over three files of a processor.
        process_texts(processor, ["emotion"], [[]], padding_side="left")
        if processor.tokenizer.is_fast and (cut := processor.tokenizer.backend_tokenizer.truncation):
            raise ValueError(
                f"The processor cuts texts to {cut['max_length']} tokens, on the {cut['direction']}, and with them "
                "answers or questions: remove truncation from its tokenizer_config.json."
            )

    def _guidance(self, row: dict) -> dict | None:
        """EmoPrompt's arguments for a row, or None."""
        digest = hashlib.sha256(f"{self.seed}/{row['id']}".encode()).digest()
        guided, reasons = (int.from_bytes(digest[i : i + 4], "big") / 2**32 for i in (0, 4))
        if row["task"] not in EMOTION_TASKS or guided >= self.emoprompt_share:  # captions have no guidance
            return None
        mode = "reason" if row["rationale"] and reasons < self.reason_share else "answer"
        return {"emotion_task": row["task"], "emotion_mode": mode}

    def check_length(self, row_id: str, length: int) -> None:
        if self.max_length is not None and length > self.max_length:
            raise ValueError(
                f"Row {row_id} has {length} tokens, more than max_length={self.max_length}, and its answer would be "
                "cut. Raise max_length or set it to null."
            )

    def _picture(self, image: dict) -> tuple[Image.Image | dict, str | None]:
        """What the processor, or the cache of features, is given for a picture, and why it is not the picture."""
        if self.features:
            stored = self.features.has(image)
            return (image, None) if stored else (GREY, "picture without features, as it could not be decoded")
        try:
            return decode_picture(image), None
        except PictureError as error:
            return decode_picture(GREY), str(error)

    def conversation(self, row: dict) -> tuple[str, list[dict], dict | None]:
        """
        A row as text, with the messages and EmoPrompt's arguments that it is rendered from.

        Raises:
            `ValueError`: for what can't be learned from, or would be learned wrongly.
        """
        name, messages, guidance = f"Row {row['id']}", row["messages"], self._guidance(row)
        answers = [message["role"] == "assistant" for message in messages]
        if not any(answers) or not answers[-1]:
            raise ValueError(f"{name} does not end with an answer to learn; remove it or give it one.")
        for i, message in enumerate(messages):
            kinds = {item["type"] for item in message["content"]}
            if "video" in kinds:
                raise ValueError(f"{name} is a clip without frames: build it again with --video frames.")
            if "image" in kinds and any(answers[:i]):
                raise ValueError(f"{name} has a picture behind its first answer; put it into the first question.")
            if answers[i] and not any(item.get("text", "").strip() for item in message["content"]):
                raise ValueError(f"{name} has no answer to learn; remove it or give it one.")
        if guidance and guidance["emotion_mode"] == "reason":
            # A model wrote it, about what strangers wrote: it may quote control tokens, too.
            rationale = as_words(row["rationale"], control_tokens(self.processor))
            answer = f"{rationale}\nAnswer: {messages[-1]['content'][0]['text']}"
            messages = [*messages[:-1], {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
        text = render_chat(self.processor, messages, guidance) + self.end
        token = self.processor.image_token
        number = text.count(token)
        if row["task"] is None:  # what EmoBench quotes may hold anything; elsewhere it says how pictures were meant
            turns = [message for message in messages if message["role"] != "assistant"]
            number += sum(item.get("text", "").count(token) for turn in turns for item in turn["content"])
        if number != len(row["images"]):  # the processor would give its pictures to other rows
            raise ValueError(
                f"{name} has {len(row['images'])} pictures, but {number} times {token} in its messages: "
                'give one {"type": "image"} for each, and take the token out of its texts.'
            )
        return text, messages, guidance

    def _learned(self, row: dict) -> tuple[str, list[int], torch.Tensor]:
        """A row as text, its tokens from the first answer on, and which of these are to be learned."""
        full, messages, guidance = self.conversation(row)
        texts = [full]
        for place in [i for i, message in enumerate(messages) if message["role"] == "assistant"]:
            # EmoPrompt guides the last question alone, so what goes before it is rendered without.
            last = place == len(messages) - 1
            given = guidance if last else None
            texts.append(render_chat(self.processor, messages[:place], given, add_generation_prompt=True))
            texts.append(full if last else render_chat(self.processor, messages[: place + 1]))
        ids, *parts = self.processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
        learned = torch.zeros(len(ids), dtype=torch.bool)
        for i, part in enumerate(parts):
            begins = i % 2 == 0
            number = common_prefix_length(ids, part)
            if not full.startswith(texts[i + 1]) or (begins and number < len(part)):
                raise ValueError(
                    f"Row {row['id']}: the rendered conversation does not begin with its turns up to "
                    f"{texts[i + 1][-40:]!r}, in characters or in tokens. Use a chat template that writes the same "
                    "prompt with and without an answer."
                )
            learned[number:] = begins
        return full, ids[len(parts[0]) :], learned[len(parts[0]) :]

    def __call__(self, rows: list[dict]) -> dict:
        """
        `input_ids`, `attention_mask` and `labels` of shape `(B, T)`, and the pixels; -100 where not to learn. With
        `skipped`, a list of row ids and reasons, if there are rows of which nothing is learned.
        """
        learned = [self._learned(row) for row in rows]
        texts = [text for text, *_ in learned]
        images, skipped = [], []
        for row, (*_, chosen) in zip(rows, learned, strict=True):
            pictures = [self._picture(image) for image in row["images"]]
            if reasons := sorted({reason for _, reason in pictures if reason}):
                skipped += [(row["id"], reason) for reason in reasons]
                chosen[:] = False
            images.append([picture for picture, _ in pictures])
        if not any(images):
            texts.append(render_chat(self.processor, QUESTION))
            images.append([self._picture(GREY)[0]])
        if self.features:
            batch = self.features.process(texts, images)
        else:
            batch = dict(process_texts(self.processor, texts, images, padding_side="left"))
        for row, mask in zip(rows, batch["attention_mask"], strict=False):
            self.check_length(row["id"], int(mask.sum()))
        batch["labels"] = torch.full_like(batch["input_ids"], -100)
        for row, ids, labels, (_, answer, chosen) in zip(
            rows, batch["input_ids"], batch["labels"], learned, strict=False
        ):
            end = ids[-len(answer) :]
            if end.tolist() != answer:
                decode = self.processor.tokenizer.decode
                raise ValueError(
                    f"Row {row['id']}: the processor makes a text of it that ends {decode(end)!r}, not with the "
                    f"answer {decode(answer)!r}. Switch off what it adds, cuts or changes, such as "
                    "an end that its tokenizer adds to every text."
                )
            labels[-len(answer) :][chosen] = end[chosen]
        if skipped:
            batch["skipped"] = skipped
        return batch


def _with_sizes(rows: pa.Table) -> pa.Table:
    sizes = [[picture_size(image) for image in images.values or ()] for images in rows["images"]]
    return rows.drop_columns("images").append_column("sizes", pa.array(sizes, pa.list_(pa.list_(pa.int32()))))


def _replacements(processor: ProcessorMixin, sizes: list[tuple[int, int]]) -> dict[tuple[int, int], tuple[str, int]]:
    """What a picture of each size is written as, with a run of visual tokens as one, and how many that hides."""
    try:
        kinds = processor._get_num_multimodal_tokens(image_sizes=sizes)["num_image_tokens"]
    except (AttributeError, TypeError):  # a family without it; LLaVA, where pictures are not cropped
        kinds = sizes
    visual = "|".join(map(re.escape, processor.tokenizer.convert_ids_to_tokens(processor.image_token_ids)))
    made = {}
    for kind, (height, width) in tqdm(dict(zip(kinds, sizes, strict=True)).items(), desc="kinds of pictures"):
        images = [[Image.new("RGB", (width, height))]]
        _, [text] = processor._process_images(images, **processor._merge_kwargs()["images_kwargs"])
        short = re.sub(f"({visual})(?:\\1)+", r"\1", text)
        made[kind] = short, len(re.findall(visual, text)) - len(re.findall(visual, short))
    return {size: made[kind] for size, kind in zip(sizes, kinds, strict=True)}


def _lengths(rows: dict[str, list], collator: EmoBenchCollator, replacements: dict) -> dict[str, list[int]]:
    processor, texts, hidden = collator.processor, [], []
    for sizes, *values in zip(*(rows[name] for name in ("sizes", "id", "task", "rationale", "messages")), strict=True):
        row = dict(zip(("images", "id", "task", "rationale", "messages"), (sizes, *values), strict=True))
        pictures = [replacements[tuple(size)] for size in sizes]
        [text], _ = processor.get_text_with_replacements(
            [collator.conversation(row)[0]], [replacement for replacement, _ in pictures]
        )
        texts.append(text)
        hidden.append(sum(number for _, number in pictures))
    bos = processor.tokenizer.bos_token
    ids = processor.tokenizer(texts, add_special_tokens=not (bos and texts[0].startswith(bos)))["input_ids"]
    lengths = [len(row) + number for row, number in zip(ids, hidden, strict=True)]
    for row_id, length in zip(rows["id"], lengths, strict=True):
        collator.check_length(row_id, length)
    return {"length": lengths}


def token_lengths(rows: Dataset, collator: EmoBenchCollator) -> list[int]:
    """
    The tokens that each row will have in a batch, padding apart. Only the heads of the pictures' files are read.

    Raises:
        `ValueError`: for the first row that `collator` would refuse for its conversation or its length.
    """
    collator = copy.copy(collator)
    collator.features = None  # the same tokens
    processes = min(os.cpu_count(), len(rows) // 10_000) or None
    with PartialState().local_main_process_first():  # the others read what it has stored
        rows = rows.with_format("arrow").map(_with_sizes, batched=True, num_proc=processes, desc="sizes of pictures")
        rows = rows.with_format(None)
        sizes = sorted({tuple(size) for sizes in rows["sizes"][:] for size in sizes})
        arguments = {"collator": collator, "replacements": _replacements(collator.processor, sizes) if sizes else {}}
        rows = rows.map(
            _lengths,
            batched=True,
            fn_kwargs=arguments,
            num_proc=processes,
            remove_columns=rows.column_names,
            desc="lengths",
        )
    return rows["length"][:]
