"""Scores of n rows with C labels, from arrays: answers and predictions `(n, C)` of bool, probabilities `(n, C)`."""

import numpy as np
from scipy.special import xlogy
from sklearn.metrics import f1_score, precision_recall_fscore_support, roc_auc_score


BINS = 15  # as in Guo et al. 2017


def weighted_macro_f1(truth: np.ndarray, guess: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """
    Macro F1 of the same predictions under many weightings.

    Args:
        truth (`np.ndarray` of bool, `(n, C)`): answers.
        guess (`np.ndarray` of bool, `(n, C)`): predictions.
        weights (`np.ndarray`, `(R, n)`): how often each row counts; ones for the plain score.

    Returns:
        `np.ndarray` of shape `(R,)`: the mean over the labels that occur among the answers. Of them, those that under
        a weighting are neither answered nor predicted are left out, as scikit-learn's `zero_division=np.nan` does.
    """
    asked = truth.any(0)
    truth, guess = truth[:, asked].astype(weights.dtype), guess[:, asked].astype(weights.dtype)
    hits, total = (weights @ (truth * guess)).astype(float), weights @ (truth + guess)
    present = total > 0
    return (2 * hits / np.where(present, total, 1)).sum(1) / present.sum(1)


def best_threshold(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """
    The threshold at which the labels that are at least as probable have the best macro F1; the highest of equals.

    Lowering the threshold past a probability adds one prediction of one label, and so changes that label's F1 alone:
    the macro F1 of every threshold is a running sum of these changes.
    """
    asked = truth.any(0)
    truth, probabilities = truth[:, asked], probabilities[:, asked]
    order = np.argsort(-probabilities, axis=0)
    falling = np.take_along_axis(probabilities, order, axis=0)
    hits = np.take_along_axis(truth, order, axis=0).cumsum(0)
    f1 = 2 * hits / (np.arange(1, len(truth) + 1)[:, None] + truth.sum(0))
    changes = np.diff(f1, axis=0, prepend=0)
    order = np.argsort(-falling.ravel(), kind="stable")
    thresholds, scores = falling.ravel()[order], changes.ravel()[order].cumsum()
    last = np.append(thresholds[1:] != thresholds[:-1], True)  # equal probabilities pass together
    return float(thresholds[last][scores[last].round(12).argmax()])


def label_scores(truth: np.ndarray, guess: np.ndarray, choices: list[str]) -> dict:
    """Accuracy (all labels of a row right), weighted F1, unweighted average recall (UAR) over the labels that occur
    among the answers, and `labels`: precision, recall, F1 and number of answers of each."""
    values = precision_recall_fscore_support(truth, guess, zero_division=0)
    _, recall, f1, support = values
    names = ("precision", "recall", "f1", "n")
    return {
        "accuracy": float((truth == guess).all(1).mean()),
        "weighted_f1": float(np.average(f1, weights=support)),
        "uar": float(recall[support > 0].mean()),
        "labels": {
            label: dict(zip(names, column, strict=True))
            for label, column in zip(choices, np.array(values, dtype=object).T.tolist(), strict=True)
        },
    }


def confusion(truth: np.ndarray, guess: np.ndarray) -> list[list[int]]:
    """`(C, C + 1)`: rows are answers, columns predictions and, as the last, rows without one."""
    guess = np.column_stack([guess, ~guess.any(1)])
    return (truth.T.astype(int) @ guess.astype(int)).tolist()


def several_scores(truth: np.ndarray, guess: np.ndarray) -> dict[str, float]:
    """Micro F1 over all (row, label) pairs, and samples F1, the mean over the rows, as scikit-learn has them."""
    return {
        "micro_f1": float(f1_score(truth, guess, average="micro", zero_division=0)),
        "samples_f1": float(f1_score(truth, guess, average="samples", zero_division=0)),
    }


def auroc(truth: np.ndarray, probabilities: np.ndarray, positive: int) -> float | None:
    """Area under the ROC curve of one label's probability; None if all rows have that answer, or none has."""
    if len(np.unique(truth[:, positive])) < 2:
        return None
    return float(roc_auc_score(truth[:, positive], probabilities[:, positive]))


def reliability_bins(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> list[dict]:
    """
    Confidence against accuracy in bins of equal width, each with its upper edge (Guo et al. 2017, "On Calibration of
    Modern Neural Networks").

    Args:
        confidence (`np.ndarray`, `(n,)`): the probability of each prediction.
        correct (`np.ndarray` of bool, `(n,)`): whether it is the answer.
        bins (`int`, *optional*, defaults to 15): how many bins there are.

    Returns:
        `list[dict]`: `low`, `high`, mean `confidence`, `accuracy` and `n` of each bin that has rows.
    """
    edges = np.linspace(0, 1, bins + 1)
    indices = np.searchsorted(edges[1:-1], confidence, side="left")
    return [
        {
            "low": float(edges[i]),
            "high": float(edges[i + 1]),
            "confidence": float(confidence[indices == i].mean()),
            "accuracy": float(correct[indices == i].mean()),
            "n": int((indices == i).sum()),
        }
        for i in np.unique(indices)
    ]


def calibration_scores(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Expected calibration error (Guo et al. 2017) of the most probable label, and the Brier score as Brier 1950 has
    it: the squared error summed over all labels, 0 to 2, so for two labels twice of what is computed from one."""
    bins = reliability_bins(probabilities.max(1), truth[np.arange(len(truth)), probabilities.argmax(1)])
    return {
        "ece": sum(part["n"] * abs(part["accuracy"] - part["confidence"]) for part in bins) / len(truth),
        "brier": float(((probabilities - truth) ** 2).sum(1).mean()),
    }


def vote_scores(votes: np.ndarray, truth: np.ndarray, probabilities: np.ndarray) -> dict[str, float | None]:
    """Mean cross-entropy of probabilities under the shares of votes `(n, C)`, in nats (as FER+ is trained: Barsoum et
    al. 2016), and the share of rows whose answer is one of the two most probable labels, None if there are but two."""
    floor = np.finfo(float).eps  # as scikit-learn's log_loss: no infinite score for one wrong certainty
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]
    return {
        "cross_entropy": float(-xlogy(votes, np.clip(probabilities, floor, 1)).sum(1).mean()),
        "top2": float(np.take_along_axis(truth, best, axis=1).any(1).mean()) if truth.shape[1] > 2 else None,
    }
