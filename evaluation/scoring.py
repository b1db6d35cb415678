"""A model's answers: closed questions by the likelihood of their labels, others by greedy generation."""

import torch
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from modeling_emollm.emoprompt import answer_token_ids, encode_chats

from .parsing import parse_answer


MAX_NEW_TOKENS = {None: 32, "answer": 32, "reason": 256}


def is_scored(row: dict, emoprompt: str | None) -> bool:
    """Open questions have no labels to score, and reasoning has to be written before its label is due."""
    return row["setting"] == "closed" and emoprompt != "reason"


def append_tokens(inputs: BatchFeature, tokens: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """The same tokens put behind every prompt `(B, T)`; whatever else has one value a token gets 0 there."""
    shape = inputs["input_ids"].shape
    longer = dict(inputs)
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor) and value.shape == shape:
            tail = {
                "input_ids": torch.tensor(tokens, dtype=value.dtype),
                "attention_mask": value.new_ones(len(tokens)),
            }
            tail = tail.get(name, value.new_zeros(len(tokens))).to(value.device)
            longer[name] = torch.cat([value, tail.expand(len(value), -1)], dim=1)
    return longer


def next_log_probabilities(model: PreTrainedModel, inputs: dict) -> torch.Tensor:
    """Of the token after the prompts, `(B, V)`; by `generate`, which knows each family's positions under padding."""
    outputs = model.generate(
        **inputs, max_new_tokens=1, do_sample=False, num_beams=1, output_logits=True, return_dict_in_generate=True
    )
    return outputs.logits[0].float().log_softmax(-1)


def label_probabilities(model: PreTrainedModel, inputs: BatchFeature, labels: list[list[int]]) -> torch.Tensor:
    """
    How likely each label is as the answer.

    Labels that differ in their first token are told apart there, from one pass over the prompt. Otherwise a label's
    likelihood is that of all its tokens; each prefix that labels share is passed once.

    Args:
        model (`PreTrainedModel`): any vision-language model that can `generate`.
        inputs (`BatchFeature`): B prompts, padded on the left.
        labels (`list[list[int]]`): tokens of the L labels.

    Returns:
        `torch.Tensor` of shape `(B, L)`: they sum to 1 over the labels.
    """
    if len({label[0] for label in labels}) == len(labels):
        labels = [label[:1] for label in labels]
    following = {
        prefix: next_log_probabilities(model, append_tokens(inputs, prefix))
        for prefix in sorted({tuple(label[:i]) for label in labels for i in range(len(label))})
    }
    scores = [sum(following[tuple(label[:i])][:, token] for i, token in enumerate(label)) for label in labels]
    return torch.stack(scores, dim=1).softmax(1)


@torch.inference_mode()
def answer_rows(
    model: PreTrainedModel, processor: ProcessorMixin, rows: list[dict], emoprompt: str | None
) -> list[dict]:
    """
    Predictions for a batch of rows of one task, one setting and one label set.

    Args:
        model (`PreTrainedModel`): a foundation or an EmoLLM.
        processor (`ProcessorMixin`): its processor, with EmoPrompt attached if `emoprompt` is given.
        rows (`list[dict]`): rows of an EmoBench dataset.
        emoprompt (`str`, *optional*): `"answer"` or `"reason"`.

    Returns:
        `list[dict]`: for each row its record of the predictions file.
    """
    questions = [[turn for turn in row["messages"] if turn["role"] != "assistant"] for row in rows]
    choices = rows[0]["choices"]
    inputs = encode_chats(
        processor,
        questions,
        [row["images"] for row in rows],
        # the options are in the question already
        [{"emotion_task": row["task"], "emotion_mode": emoprompt} for row in rows] if emoprompt else None,
    ).to(model.device, model.dtype)
    if is_scored(rows[0], emoprompt):
        labels = [answer_token_ids(processor, questions[0], choice) for choice in choices]
        probabilities = label_probabilities(model, inputs, labels)
        predictions = [choices[i] for i in probabilities.argmax(1).tolist()]
        probabilities, texts = probabilities.tolist(), [None] * len(rows)
    else:
        tokens = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS[emoprompt], do_sample=False, num_beams=1)
        new_tokens = tokens[:, inputs["input_ids"].shape[1] :]
        texts = processor.tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
        read = [parse_answer(text, choices, rows[0]["task"], concluded=emoprompt == "reason") for text in texts]
        predictions = [labels[0] if labels else None for labels in read]
        probabilities = [None] * len(rows)
    copied = ("id", "source", "task", "setting", "answer", "choices", "label_distribution")
    return [
        {name: row[name] for name in copied}
        | {"prediction": prediction, "probabilities": shares, "text": text, "emoprompt": emoprompt}
        for row, prediction, shares, text in zip(rows, predictions, probabilities, texts, strict=True)
    ]
