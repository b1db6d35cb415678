"""What the tasks' YAML files refer to; lmms-eval loads this file by its path, so that no import here is relative."""

import hashlib
import math
import os

from datasets import Dataset
from PIL import Image

from evaluation.groups import allows_several
from evaluation.metrics import score
from evaluation.parsing import parse_answer


if "EMOBENCH" not in os.environ:
    raise ValueError("Set the environment variable EMOBENCH to the folder, or the Hub id, of an EmoBench dataset.")
DATASET = os.environ["EMOBENCH"]
COPIED = ("id", "source", "task", "setting", "answer", "answers", "choices", "label_distribution")


def rows_of(dataset: Dataset, setting: str) -> Dataset:
    """
    The rows that are asked so, but for sources with several labels, in the order in which `evaluation.run` draws them
    with its default seed: a limit takes the same samples, and some of each source and label.
    """
    kept = {
        i: hashlib.sha256(f"0/{row['id'].split('#')[0]}".encode()).digest()  # as predictions.draw_samples
        for i, row in enumerate(dataset.select_columns(["id", "task", "source", "setting"]))
        if row["setting"] == setting and not allows_several(row)
    }
    return dataset.select(sorted(kept, key=kept.get))


def closed_rows(dataset: Dataset) -> Dataset:
    return rows_of(dataset, "closed")


def open_rows(dataset: Dataset) -> Dataset:
    return rows_of(dataset, "open")


def doc_to_visual(doc: dict) -> list[Image.Image]:
    return doc["images"]


def loss_of(result: tuple[float, bool] | str) -> float:
    """What lmms-eval's models return for a label; its versions 0.7.0 to 0.7.3 turn the tuple into text on the way."""
    return float(result.strip("()").split(",")[0] if isinstance(result, str) else result[0])


def process_results(doc: dict, results: list) -> dict[str, dict]:
    """
    The row's record as in our predictions file, once a metric; `score` makes numbers of all of them.

    Args:
        doc (`dict`): a row of EmoBench.
        results (`list`): for an open question the text that was generated; for a closed one, for each label a tuple
            of its loss (by which lmms-eval means its negative log-likelihood) and whether it is the greedy one.
    """
    record = (
        {name: doc[name] for name in COPIED}
        | {"split": "test"}
        | dict.fromkeys(("prediction", "predictions", "probabilities", "text", "greedy", "error", "emoprompt"))
    )
    if doc["setting"] == "open":
        record["text"] = results[0]
        record["prediction"] = next(iter(parse_answer(results[0], doc["choices"], doc["task"])), None)
    else:
        losses = [loss_of(result) for result in results]
        if not all(map(math.isfinite, losses)):
            record["error"] = "NaN"
        else:
            shares = [math.exp(min(losses) - loss) for loss in losses]
            record["probabilities"] = [share / sum(shares) for share in shares]
            record["prediction"] = doc["choices"][losses.index(min(losses))]
    return {"macro_f1": record, "accuracy": record}


def macro_f1(records: list[dict]) -> float:
    return score(records)["mean"]["macro_f1"]


def accuracy(records: list[dict]) -> float:
    return score(records)["mean"]["accuracy"]
