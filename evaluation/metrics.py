"""Scores of the six sub-tasks from prediction records: pure functions, no files.

Each source of a sub-task has a label set of its own and is scored by itself; the sub-task's score is the mean over its
sources. A prediction that is null (nothing could be parsed) is wrong. Macro F1 is the headline: it does not reward
the most frequent label. Chance is 1 / labels: whatever a guesser prefers, it can't expect a higher macro F1 without
seeing the input, as a label's F1 is the harmonic mean of its share in the answers and its share in the guesses.
"""

import zlib
from collections.abc import Iterable

import numpy as np


SUB_TASKS = {
    ("emotion_recognition", "closed"): "Emo-C",
    ("emotion_recognition", "open"): "Emo-O",
    ("intent_understanding", "closed"): "intent",
    ("hate_detection", "closed"): "hate",
    ("humor_detection", "closed"): "humor",
    ("sarcasm_detection", "closed"): "sarcasm",
}
RESAMPLES = 1000


def weighted_scores(answers: list[str], predictions: list[str | None], weights: np.ndarray) -> dict[str, np.ndarray]:
    """
    Macro F1 and accuracy of the same predictions under many weightings.

    Args:
        answers (`list[str]`): n labels.
        predictions (`list[str | None]`): n predicted labels.
        weights (`np.ndarray` of shape `(R, n)`): how often each sample counts; ones for the plain scores.

    Returns:
        `dict[str, np.ndarray]`: `"macro_f1"` and `"accuracy"`, `(R,)`. The F1 of a label that occurs neither among the
        weighted answers nor among the predictions is left out of the mean, as scikit-learn's `zero_division=np.nan`.
    """
    labels = sorted(set(answers))
    truth = np.array([[answer == label for label in labels] for answer in answers], dtype=float)  # (n, C)
    guess = np.array([[prediction == label for label in labels] for prediction in predictions], dtype=float)
    hits, support, guessed = weights @ (truth * guess), weights @ truth, weights @ guess  # (R, C)
    present = support + guessed > 0
    f1 = 2 * hits / np.where(present, support + guessed, 1)
    return {"macro_f1": f1.sum(1) / present.sum(1), "accuracy": hits.sum(1) / weights.sum(1)}


def bootstrap_weights(group: str, n: int, seed: int) -> np.ndarray:
    """
    How often each of n samples counts, `(1 + RESAMPLES, n)`: once each in the first row, drawn with replacement below.

    It depends on the group's name, n and the seed alone: two models, or the closed and the open question about
    the same pictures, are resampled alike, and differences and means of their scores are paired.
    """
    rng = np.random.default_rng([seed, zlib.crc32(group.encode())])
    drawn = rng.integers(n, size=(RESAMPLES, n)) + n * np.arange(RESAMPLES)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n)
    return np.vstack([np.ones(n), counts])


def group_records(records: Iterable[dict]) -> dict[str, dict[str, list[dict]]]:
    """Records by sub-task and source, each in the order of the ids. Raises a `ValueError` for an unknown sub-task."""
    groups: dict[str, dict[str, list[dict]]] = {name: {} for name in SUB_TASKS.values()}
    for record in sorted(records, key=lambda record: record["id"]):
        kind = record["task"], record["setting"]
        if kind not in SUB_TASKS:
            raise ValueError(
                f"{record['id']}: unknown task and setting {kind}; there are {', '.join(map(str, SUB_TASKS))}"
            )
        groups[SUB_TASKS[kind]].setdefault(record["source"], []).append(record)
    return {name: sources for name, sources in groups.items() if sources}


def columns(rows: list[dict]) -> tuple[list[str], list[str | None]]:
    return [row["answer"] for row in rows], [row["prediction"] for row in rows]


def bootstrap(records: Iterable[dict], seed: int = 0) -> dict[str, np.ndarray]:
    """Macro F1 `(1 + RESAMPLES,)`, the plain one first, by sub-task and for their `"mean"`."""
    replicates = {}
    for name, sources in group_records(records).items():
        scores = []
        for source, rows in sources.items():
            weights = bootstrap_weights(f"{rows[0]['task']}/{source}", len(rows), seed)
            scores.append(weighted_scores(*columns(rows), weights)["macro_f1"])
        replicates[name] = np.mean(scores, axis=0)
    return replicates | {"mean": np.mean(list(replicates.values()), axis=0)}


def interval(replicates: np.ndarray) -> list[float]:
    """The middle 95% of the resamples."""
    return np.percentile(replicates[1:], [2.5, 97.5]).tolist()


def score_source(rows: list[dict]) -> dict[str, float]:
    answers, predictions = columns(rows)
    plain = weighted_scores(answers, predictions, np.ones((1, len(rows))))
    return {name: float(value[0]) for name, value in plain.items()} | {
        "n": len(rows),
        "unparsed": predictions.count(None),
        "chance": 1 / len(rows[0]["choices"]),
        "majority": max(map(answers.count, set(answers))) / len(rows),
    }


def average(scores: list[dict[str, float]]) -> dict[str, float]:
    total = {name: sum(score[name] for score in scores) for name in scores[0]}
    return {name: value if name in ("n", "unparsed") else value / len(scores) for name, value in total.items()}


def score(records: list[dict], seed: int = 0) -> dict[str, dict]:
    """
    Args:
        records (`list[dict]`): predictions, see `predictions.py`.
        seed (`int`, *optional*, defaults to 0): of the bootstrap.

    Returns:
        `dict`: `"scores"`, for each sub-task that is there `macro_f1`, `accuracy`, `interval` (95%, of macro F1), `n`,
        `chance`, `majority` (accuracy of the most frequent label), `unparsed` and the same by `sources`; and `"mean"`
        over the sub-tasks.

    Raises:
        `ValueError`: if there is no record.
    """
    if not records:
        raise ValueError("There are no predictions to score.")
    replicates = bootstrap(records, seed)
    scores, plain = {}, []
    for name, sources in group_records(records).items():
        by_source = {source: score_source(rows) for source, rows in sources.items()}
        plain.append(average(list(by_source.values())))
        scores[name] = plain[-1] | {"interval": interval(replicates[name]), "sources": by_source}
    return {"scores": scores, "mean": average(plain) | {"interval": interval(replicates["mean"])}}


def paired_difference(first: list[dict], second: list[dict], seed: int = 0) -> dict[str, dict]:
    """
    What `second` is better by than `first`, on the same samples.

    Returns:
        `dict`: for each sub-task and `"mean"`, `difference` of macro F1 and its 95% paired bootstrap `interval`.

    Raises:
        `ValueError`: if the two do not predict the same samples with the same answers.
    """
    samples = [{(record["task"], record["id"], record["answer"]) for record in records} for records in (first, second)]
    if samples[0] != samples[1]:
        odd = sorted(samples[0] ^ samples[1])
        raise ValueError(
            f"The predictions are not about the same samples: {len(odd)} are in one only, as {odd[0][1]!r} of "
            f"{odd[0][0]}. Evaluate both on the same dataset, tasks, split, limit and seed."
        )
    before, after = bootstrap(first, seed), bootstrap(second, seed)
    differences = {name: after[name] - before[name] for name in before}
    return {name: {"difference": float(d[0]), "interval": interval(d)} for name, d in differences.items()}
