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
def score_general(model: PreTrainedModel, processor: ProcessorMixin, rows: Dataset, batch_size: int) -> dict:
    """
    Perplexity and accuracy of the tokens of each conversation's last turn, given all before it.

    Returns:
        `dict`: `n` conversations, `undecodable` ones that are left out, `tokens`, `perplexity` (e to the mean
        negative log-likelihood of a token) and `token_accuracy` (share of tokens that are the likeliest).

    Raises:
        `ValueError`: for a conversation that does not end with an answer, or if none is left.
    """
    groups: dict[int, list[int]] = {}  # by number of pictures: a processor takes no mixture
    for place, row in enumerate(rows):
        groups.setdefault(len(row.get("images") or []), []).append(place)
    batches = [places[i : i + batch_size] for places in groups.values() for i in range(0, len(places), batch_size)]
    total, right, tokens, n = 0.0, 0, 0, 0
    for places in tqdm(batches, desc="general ability", unit="batch"):
        prompts, pictures, answers = [], [], []
        for row in rows.select(places):
            *prompt, answer = row["messages"]
            content = answer["content"]
            text = content if isinstance(content, str) else "".join(item["text"] for item in content)
            if answer["role"] != "assistant" or not text.strip():
                raise ValueError(f"A conversation ends with {answer}; leave out those without an answer at the end.")
            try:
                pictures.append([decode_picture(image) for image in row.get("images") or []])
            except PictureError:
                continue
            prompts.append(prompt)
            answers.append(answer_token_ids(processor, prompt, text.strip()))
        if not prompts:
            continue
        inputs = encode_chats(processor, prompts, pictures).to(model.device, model.dtype)
        for values, hits in answer_log_probabilities(Prompt(model, see(model, dict(inputs), {})), answers):
            total, right, tokens = total + values.sum().item(), right + hits.sum().item(), tokens + len(values)
        n += len(prompts)
    if not tokens:
        raise ValueError("There is no conversation whose pictures can be decoded.")
    return {
        "n": n,
        "undecodable": len(rows) - n,
        "tokens": tokens,
        "perplexity": math.exp(-total / tokens),
        "token_accuracy": right / tokens,
    }
