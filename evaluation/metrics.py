"""Scores of the six sub-tasks from prediction records: pure functions, no files.

Each source of a sub-task has a label set of its own and is scored by itself; the sub-task's score is the mean over its
sources. A prediction that is null (nothing could be parsed, or an error) is wrong. Macro F1 is the headline: it does
not reward the most frequent label. Chance is 1 / labels: whatever a guesser prefers, it can't expect a higher macro F1
without seeing the input, as a label's F1 is the harmonic mean of its share in the answers and its share in the
guesses. With several labels a row that mean is highest for naming all of them always: chance is the macro F1 of that.
"""

import zlib
from collections import Counter

import numpy as np

from dataset_scripts.tasks import TASKS

from .classification import (
    BINS,
    auroc,
    calibration_scores,
    confusion,
    label_scores,
    reliability_bins,
    several_scores,
    vote_scores,
)
from .groups import SUB_TASKS, Group, allows_several, group_records, make_groups, read_shares
from .significance import exact_mcnemar, interval, pool, resample, wilson


__all__ = [
    "SUB_TASKS", "baseline", "bootstrap", "group_records", "interval", "paired_difference", "reliability", "score"
]  # fmt: skip
FEWEST = 10  # rows of a group of people, below which it is not told apart
MEANS = "macro_f1 accuracy weighted_f1 uar auroc ece brier chance majority agreement".split()


def bootstrap(records: list[dict], seed: int = 0) -> dict[str, np.ndarray]:
    """Macro F1 `(1 + RESAMPLES,)`, the plain one first, by sub-task and for their `"mean"`."""
    return pool(resample(make_groups(records), seed))


def people_scores(group: Group) -> dict[str, dict]:
    """Accuracy by group of people, the largest first; of a source with votes for several labels, of whole sets."""
    found: dict[str, dict] = {}
    for row, right in zip(group.rows, (group.truth == group.guess).all(1).tolist(), strict=True):
        for name, value in row.get("groups") or ():
            found.setdefault(name, {}).setdefault(value, []).append(right)
    return {
        name: {
            value: {"n": len(right), "accuracy": sum(right) / len(right), "interval": wilson(sum(right), len(right))}
            for value, right in sorted(values.items(), key=lambda item: (-len(item[1]), item[0]))
            if len(right) >= FEWEST
        }
        for name, values in found.items()
    }


def score_source(group: Group, replicates: np.ndarray) -> dict:
    rows, truth, guess = group.rows, group.truth, group.guess
    rate = truth.mean(0)[truth.any(0)]
    greedy = [row for row in rows if row["greedy"] is not None]
    answered = [row["prediction"] is not None or bool(row["predictions"]) for row in rows]
    result = {
        "macro_f1": float(replicates[0]),
        **label_scores(truth, guess, group.choices),
        "auroc": None,
        "ece": None,
        "brier": None,
        "interval": interval(replicates),
        "n": len(rows),
        "chance": float((2 * rate / (1 + rate)).mean()) if group.several else 1 / len(group.choices),
        "majority": max(Counter(map(bytes, truth)).values()) / len(rows),
        "unparsed": sum(not given and not row["error"] for given, row in zip(answered, rows, strict=True)),
        "errors": dict(Counter(row["error"] for row in rows if row["error"])),
        "agreement": sum(row["greedy"] == row["prediction"] for row in greedy) / len(greedy) if greedy else None,
        "confusion": None if group.several else confusion(truth, guess),
    }
    if people := people_scores(group):
        result["people"] = people
    if group.several:
        result |= several_scores(truth, guess) | {"threshold": group.threshold}
    elif group.scored.any():
        scored, probabilities = truth[group.scored], group.probabilities[group.scored]
        positive = TASKS[rows[0]["task"]].positive
        if positive in group.choices:
            result["auroc"] = auroc(scored, probabilities, group.choices.index(positive))
        result |= calibration_scores(scored, probabilities)
        voted, votes = read_shares(rows, "label_distribution", group.choices)
        voted &= group.scored
        if voted.any():
            result |= vote_scores(votes[voted], truth[voted], group.probabilities[voted])
    return result


def average(scores: list[dict]) -> dict:
    """The mean of each score over those that have it, and the sums of what is counted."""
    means = {}
    for name in MEANS:
        values = [score[name] for score in scores if score[name] is not None]
        means[name] = sum(values) / len(values) if values else None
    errors = sum((Counter(score["errors"]) for score in scores), Counter())
    counts = {name: sum(score[name] for score in scores) for name in ("n", "unparsed")}
    return means | counts | {"errors": dict(errors)}


def score(records: list[dict], seed: int = 0) -> dict[str, dict]:
    """
    Args:
        records (`list[dict]`): predictions, see `predictions.py`.
        seed (`int`, *optional*, defaults to 0): of the bootstrap.

    Returns:
        `dict`: `"scores"` has for each sub-task that is there

        - `macro_f1` and its 95% bootstrap `interval`, `accuracy`, `weighted_f1`, `uar` (unweighted average recall),
        - from probabilities, over the rows that have them, else None: `auroc` of the positive label of a binary task,
          `ece` and `brier`,
        - `n`, `chance`, `majority` (accuracy of the most frequent answer), `unparsed` (nothing could be read from the
          text), `errors` (how many rows by reason), `agreement` (the share of rows asked both ways whose greedily
          generated label is the prediction, else None),
        - the same by `sources`, and for each of these `labels` (precision, recall, F1 and n), `confusion` (answers by
          predictions, in the order of the choices, and a last column for no answer); `cross_entropy` and `top2` where
          there are votes and probabilities; `people` where the source names groups of them: by attribute and value,
          from 10 rows on, `n`, `accuracy` and its 95% Wilson `interval`; and for several labels, whose accuracy is
          that of whole sets and whose confusion is None, `micro_f1`, `samples_f1` and the `threshold`, which has the
          best macro F1 on the validation rows (None if the answers were generated).

        `"mean"` is over the sub-tasks, each score over those that have it.

    Raises:
        `ValueError`: if there is no record, or one that can't be scored, as `groups.py` says.
    """
    groups = make_groups(records)
    replicates = resample(groups, seed)
    pooled = pool(replicates)
    scores = {}
    for name, sources in groups.items():
        by_source = {source: score_source(group, replicates[name][source]) for source, group in sources.items()}
        scores[name] = average(list(by_source.values())) | {"interval": interval(pooled[name]), "sources": by_source}
    return {"scores": scores, "mean": average(list(scores.values())) | {"interval": interval(pooled["mean"])}}


def paired_difference(first: list[dict], second: list[dict], seed: int = 0) -> dict[str, dict]:
    """
    What `second` is better by than `first`, on the same samples.

    Returns:
        `dict`: for each sub-task and `"mean"`, `difference` of macro F1 and its 95% paired bootstrap `interval`, and
        `p_mcnemar`, of the exact McNemar test on which rows are right, for the mean over the rows of all sub-tasks.

    Raises:
        `ValueError`: if the two do not predict the same samples with the same answers, or can't be scored.
    """
    samples, replicates, right = [], [], []
    for records in (first, second):
        groups = make_groups(records)
        parts = {name: list(sources.values()) for name, sources in groups.items()}
        samples.append(
            {
                (row["task"], row["id"], *row["answers"])
                for sources in parts.values()
                for group in sources
                for row in group.rows
            }
        )
        replicates.append(pool(resample(groups, seed)))
        right.append(
            {
                name: np.concatenate([(group.truth == group.guess).all(1) for group in sources])
                for name, sources in parts.items()
            }
        )
        right[-1]["mean"] = np.concatenate(list(right[-1].values()))
    if samples[0] != samples[1]:
        odd = sorted(samples[0] ^ samples[1])
        raise ValueError(
            f"The predictions are not about the same samples: {len(odd)} are in one only, as {odd[0][1]!r} of "
            f"{odd[0][0]}. Evaluate both on the same dataset, tasks, split, limit and seed."
        )
    before, after = replicates
    return {
        name: {
            "difference": float(after[name][0] - before[name][0]),
            "interval": interval(after[name] - before[name]),
            "p_mcnemar": exact_mcnemar(right[0][name], right[1][name]),
        }
        for name in before
    }


def baseline(records: list[dict], kind: str, seed: int = 0) -> list[dict]:
    """
    The records as a model without eyes would give them.

    Args:
        records (`list[dict]`): predictions of any model, of which the rows and answers count.
        kind (`str`): `"majority"` for the most frequent answer of each source among these very answers, the first of
            its choices of equals, or `"random"` for a uniform draw.
        seed (`int`, *optional*, defaults to 0): of the draw.

    Raises:
        `ValueError`: for another kind.
    """
    if kind not in ("majority", "random"):
        raise ValueError(f"there is no baseline {kind!r}; choose majority or random.")
    result = []
    for name, sources in group_records(records).items():
        for source, rows in sources.items():
            choices = rows[0]["choices"]
            counts = Counter(label for row in rows for label in row["answers"])
            rng = np.random.default_rng([seed, zlib.crc32(f"{name}/{source}".encode())])
            drawn = rng.integers(len(choices), size=len(rows))
            for row, i in zip(rows, drawn, strict=True):
                label = choices[i] if kind == "random" else max(choices, key=counts.__getitem__)
                nothing = {"probabilities": None, "text": None, "greedy": None, "error": None}
                predictions = [label] if allows_several(row) else None
                result.append(row | nothing | {"prediction": label, "predictions": predictions})
    return result


def reliability(records: list[dict], bins: int = BINS) -> list[dict]:
    """
    Confidence against accuracy of the rows that have probabilities and one label, all sources together; the bins
    without rows are left out.

    Args:
        records (`list[dict]`): predictions.
        bins (`int`, *optional*, defaults to 15): how many bins of equal width there are.

    Returns:
        `list[dict]`: `low`, `high`, mean `confidence`, `accuracy` and `n` of each bin.
    """
    confidences, correct = [], []
    for sources in group_records(records).values():
        for rows in sources.values():
            rows = [row for row in rows if row["probabilities"] and not allows_several(row)]
            if rows:
                _, probabilities = read_shares(rows, "probabilities", rows[0]["choices"])
                confidences.append(probabilities.max(1))
                best = [row["choices"][i] for row, i in zip(rows, probabilities.argmax(1), strict=True)]
                correct.append(np.array([row["answer"] for row in rows]) == best)
    return reliability_bins(np.concatenate(confidences), np.concatenate(correct), bins) if confidences else []
