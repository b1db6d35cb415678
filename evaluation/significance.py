"""How sure a score, or the difference of two, is: the paired bootstrap of macro F1, and the exact McNemar test."""

import zlib

import numpy as np
from scipy.stats import binomtest

from .classification import weighted_macro_f1
from .groups import Group


RESAMPLES = 1000


def bootstrap_weights(group: str, n: int, seed: int) -> np.ndarray:
    """
    How often each of n samples counts, `(1 + RESAMPLES, n)`: once each in the first row, drawn with replacement below.

    It depends on the group's name, n and the seed alone: two models, or the closed and the open question about
    the same pictures, are resampled alike, and differences and means of their scores are paired.
    """
    rng = np.random.default_rng([seed, zlib.crc32(group.encode())])
    weights = np.ones((1 + RESAMPLES, n), dtype=np.float32)  # exact for counts, and half the memory
    for counts, drawn in zip(weights[1:], rng.integers(n, size=(RESAMPLES, n)), strict=True):
        counts[:] = np.bincount(drawn, minlength=n)
    return weights


def resample(groups: dict[str, dict[str, Group]], seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Macro F1 `(1 + RESAMPLES,)`, the plain one first, by sub-task and source. For several labels the threshold is
    that of the plain score."""
    return {
        name: {
            source: weighted_macro_f1(group.truth, group.guess, bootstrap_weights(group.name, len(group.rows), seed))
            for source, group in sources.items()
        }
        for name, sources in groups.items()
    }


def pool(replicates: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    pooled = {name: np.mean(list(sources.values()), axis=0) for name, sources in replicates.items()}
    return pooled | {"mean": np.mean(list(pooled.values()), axis=0)}


def interval(replicates: np.ndarray) -> list[float]:
    """The middle 95% of the resamples."""
    return np.percentile(replicates[1:], [2.5, 97.5]).tolist()


def wilson(right: int, n: int) -> list[float]:
    """95% interval of a share of which n were seen (Wilson 1927), which also holds for few and for none."""
    return list(map(float, binomtest(right, n).proportion_ci(method="wilson")))


def exact_mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided exact p-value that two models are right equally often, from which of the n rows each has right, `(n,)`
    of bool: the rows that only one has right are a binomial sample of 1/2 (McNemar 1947)."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return float(binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0
