"""What a model can do beside emotions, so that forgetting shows: how well it expects the answers of conversations."""

import math

import torch
from datasets import Dataset, load_dataset
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from modeling_emollm.emoprompt import answer_token_ids, encode_chats

from .decoding import Prompt, answer_log_probabilities, see
from .pictures import PictureError, decode_picture, undecoded
from .predictions import draw_samples


SAMPLES = 256


def load_conversations(dataset: str, seed: int) -> Dataset:
    """
    At most [`SAMPLES`] conversations of the dataset's last split, as `ID` or `ID:config`.

    Raises:
        `ValueError`: if it has no column `messages`.
    """
    name, _, config = dataset.partition(":")
    splits = load_dataset(name, config or None)
    rows = splits[list(splits)[-1]]
    if "messages" not in rows.column_names:
        raise ValueError(f"{dataset} has no column messages; it has {', '.join(rows.column_names)}.")
    kept = draw_samples(map(str, range(len(rows))), SAMPLES, seed)
    return undecoded(rows).select(sorted(map(int, kept)))


@torch.inference_mode()
def score_general(model: PreTrainedModel, processor: ProcessorMixin, dataset: str, batch_size: int, seed: int) -> dict:
    """
    Perplexity and accuracy of the tokens of each conversation's last turn, given all before it.

    Returns:
        `dict`: `dataset`, `n` conversations, `undecodable` ones that are left out, `tokens`, `perplexity` (e to the
        mean negative log-likelihood of a token) and `token_accuracy` (share of tokens that are the likeliest).
    """
    found: dict[int, list[tuple]] = {}
    undecodable = 0
    for row in load_conversations(dataset, seed):
        try:
            pictures = [decode_picture(image) for image in row.get("images") or []]
        except PictureError:
            undecodable += 1
            continue
        *prompt, answer = row["messages"]
        content = answer["content"]
        text = content if isinstance(content, str) else "".join(item["text"] for item in content)
        found.setdefault(len(pictures), []).append((prompt, pictures, text))  # a processor takes no mixture
    total, right, tokens = 0.0, 0, 0
    groups = [rows[i : i + batch_size] for rows in found.values() for i in range(0, len(rows), batch_size)]
    for group in tqdm(groups, desc="general ability", unit="batch"):
        prompts, pictures, texts = zip(*group, strict=True)
        answers = [answer_token_ids(processor, *pair) for pair in zip(prompts, texts, strict=True)]
        inputs = encode_chats(processor, prompts, pictures).to(model.device, model.dtype)
        for values, hits in answer_log_probabilities(Prompt(model, see(model, dict(inputs), {})), answers):
            total, right, tokens = total + values.sum().item(), right + hits.sum().item(), tokens + len(values)
    if not tokens:
        raise ValueError(f"{dataset} has no conversation with an answer whose pictures can be decoded.")
    return {
        "dataset": dataset,
        "n": sum(map(len, groups)),
        "undecodable": undecodable,
        "tokens": tokens,
        "perplexity": math.exp(-total / tokens),
        "token_accuracy": right / tokens,
    }
