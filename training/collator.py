"""From rows to a batch in which only the answers are to be learned."""

import hashlib

import torch
from datasets import Dataset
from transformers import ProcessorMixin

from modeling_emollm import EMOTION_TASKS
from modeling_emollm.emoprompt import process_texts, render_chat, split_answer

from .features import FeatureCache


def token_lengths(rows: Dataset, collator: "EmoBenchCollator") -> list[int]:
    """Tokens of each row, near enough to group rows by: its words, and for each picture what the first one takes."""
    processor = collator.processor
    texts, pictures = [], []
    for messages in rows["messages"]:
        items = [item for message in messages for item in message["content"]]
        texts.append("\n".join(item["text"] for item in items if item["type"] == "text"))
        pictures.append(sum(item["type"] == "image" for item in items))
    words = [len(ids) for ids in processor.tokenizer(texts, add_special_tokens=False)["input_ids"]]
    first = next((row for row in rows if row["images"]), None)
    one_picture = 0
    if first:
        ids = process_texts(processor, [render_chat(processor, first["messages"])], [first["images"]], "left")
        plain = processor.tokenizer(render_chat(processor, first["messages"]), add_special_tokens=False)
        one_picture = (ids["input_ids"].shape[1] - len(plain["input_ids"])) // len(first["images"])
    return [number + one_picture * count for number, count in zip(words, pictures, strict=True)]


class EmoBenchCollator:
    """
    Rows of EmoBench to a batch in which only the answer is to be learned.

    Args:
        processor (`ProcessorMixin`): the foundation's own, with EmoPrompt in front of its chat template.
        max_length (`int` or `None`): the most tokens that a row may have. A longer one is an error: cut short, it
            would lose its answer.
        emoprompt_share (`float`): the share of rows that EmoPrompt guides; which ones follows from their `id`.
        reason_share (`float`): the share of these that learn their rationale before the answer, if they have one.
        seed (`int`): of both choices.
        features (`FeatureCache`, *optional*): where the features of the pictures are, instead of their pixels.
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

    def _guidance(self, row: dict) -> dict | None:
        """EmoPrompt's arguments for a row, or None."""
        digest = hashlib.sha256(f"{self.seed}/{row['id']}".encode()).digest()
        guided, reasons = (int.from_bytes(digest[i : i + 4], "big") / 2**32 for i in (0, 4))
        if row["task"] not in EMOTION_TASKS or guided >= self.emoprompt_share:  # captions have no guidance
            return None
        mode = "reason" if row["rationale"] and reasons < self.reason_share else "answer"
        return {"emotion_task": row["task"], "emotion_mode": mode}

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask` and `labels` of shape `(B, T)`, and the pixels; -100 where not to learn."""
        texts, answer_lengths = [], []
        for row in rows:
            if not any(item["text"].strip() for item in row["messages"][-1]["content"]):
                raise ValueError(f"Row {row['id']} has no answer to learn; remove it or give it one.")
            if any(item["type"] == "video" for item in row["messages"][0]["content"]):
                raise ValueError(f"Row {row['id']} is a clip without frames: build it again with --video frames.")
            guidance, messages = self._guidance(row), row["messages"]
            if guidance and guidance["emotion_mode"] == "reason":
                answer = f"{row['rationale']}\nAnswer: {messages[-1]['content'][0]['text']}"
                messages = [*messages[:-1], {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
            full = render_chat(self.processor, messages, guidance)
            prompt = render_chat(self.processor, messages[:-1], guidance, add_generation_prompt=True)
            texts.append(full)
            answer_lengths.append(len(split_answer(self.processor, prompt, full)))
        batch = process_texts(self.processor, texts, [row["images"] for row in rows], padding_side="left")
        lengths = batch["attention_mask"].sum(-1)
        if self.max_length is not None and (lengths > self.max_length).any():
            longest = int(lengths.argmax())
            raise ValueError(
                f"Row {rows[longest]['id']} has {int(lengths[longest])} tokens, more than max_length="
                f"{self.max_length}, and its answer would be cut. Raise max_length or set it to null."
            )
        from_the_end = torch.arange(batch["input_ids"].shape[1], 0, -1)
        learned = from_the_end <= torch.tensor(answer_lengths)[:, None]
        batch["labels"] = batch["input_ids"].masked_fill(~learned, -100)
        return dict(batch)
