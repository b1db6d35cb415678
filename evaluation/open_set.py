"""
Score free answers about emotions as sets of words, by inflection, synonym and emotion wheel.

python -m evaluation.open_set results/EmoLLM --wheels emotion_wheel

It scores the open question of emotion recognition from the predictions that evaluation.run wrote, and prints JSON. The
metrics are those of MER2024 (Lian et al. 2024, arXiv 2404.17113) and of MER2025 and AffectGPT (Lian et al. 2025, arXiv
2501.16566). The wheel files are not ours to pass on; they are in https://github.com/zeroQiaoba/MERTools, in
MER2025/MER2025_Track23/emotion_wheel, for academic research only. --wheels is that folder:

| file | |
|---|---|
| wheel1.xlsx to wheel5.xlsx | columns level1, level2, level3, from the centre to the rim; an empty cell repeats |
| synonym.xlsx | columns word_run1, synonym_run1 and so on: a wheel's word, and words that mean the same |
| format.csv | columns name, format: a word of these, and its inflections |

A label that is no inflection of a known word is left out, as in the published metrics, and so is a row whose answers
all are (no wheel has "neutral"). From a sentence, where these have a language model extract labels, we read an answer
that is a known word, or words with "and" and commas between, and failing that the last known word of each clause,
unless it is negated, for "person" and "see" are known words too.
"""

import argparse
import csv
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from openpyxl import load_workbook

from .parsing import FILLERS, WORD, Phrases, answer_part, clauses_of, find, is_negated, normalise, rewrite
from .predictions import read_predictions


LEVELS = ("level1", "level2")
Mapping = dict[str, list[str]]


def split_labels(text: str) -> list[str]:
    """
    The labels of a list that is written as text, `['happy', 'mad']` or `happy, mad`, in lower case.

    Every comma and quotation mark ends a label, so that "don't" falls apart, as it does in the published scores.
    """
    return [label for part in re.split("['\",]", text.strip().strip("[]")) if (label := part.strip().lower())]


def read_sheet(path: Path) -> list[dict[str, str | None]]:
    header, *rows = load_workbook(path, read_only=True, data_only=True).active.iter_rows(values_only=True)
    return [dict(zip(header, row, strict=True)) for row in rows]


def read_wheel(path: Path) -> dict[str, dict[str, str]]:
    """For each of the two inner levels, what every word of a wheel belongs to; from a sector of the innermost one to
    its first (in the alphabet) of the second level. Words at several places belong to the last."""
    tree, last = {}, {}
    for row in read_sheet(path):
        last |= {name: word.strip().lower() for name, word in row.items() if word}
        tree.setdefault(last["level1"], {}).setdefault(last["level2"], []).append(last["level3"])
    clusters = {level: {} for level in LEVELS}
    for sector, branches in tree.items():
        clusters["level1"][sector] = sector
        clusters["level2"][sector] = min(branches)
        for branch, leaves in branches.items():
            clusters["level1"] |= dict.fromkeys([branch, *leaves], sector)
            clusters["level2"] |= dict.fromkeys([branch, *leaves], branch)
    return clusters


def read_synonyms(path: Path) -> Mapping:
    """The words of the wheels that each word may stand for."""
    synonyms = {}
    for row in read_sheet(path):
        for column, word in row.items():
            if column.startswith("word_"):
                word = word.strip().lower()
                for synonym in [word, *split_labels(row[column.replace("word", "synonym")] or "")]:
                    synonyms.setdefault(synonym, []).append(word)
    return synonyms


@dataclass(frozen=True)
class Wheels:
    """The three steps from a label to a place on a wheel.

    Args:
        inflections (`dict[str, list[str]]`): a form to the words that it may be a form of.
        synonyms (`dict[str, list[str]]`): such a word to the wheels' words that it may stand for.
        clusters (`dict[str, dict[str, str]]`): `"wheel1_level1"` and so on to what each wheel's words belong to.
    """

    inflections: Mapping
    synonyms: Mapping
    clusters: dict[str, dict[str, str]]

    @classmethod
    def read(cls, folder: Path) -> "Wheels":
        """Raises a `ValueError` if one of the files is missing."""
        names = [*(f"wheel{i}.xlsx" for i in range(1, 6)), "synonym.xlsx", "format.csv"]
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise ValueError(
                f"--wheels {folder} has no {', '.join(missing)} of its {len(names)} files; take the folder "
                "MER2025/MER2025_Track23/emotion_wheel of https://github.com/zeroQiaoba/MERTools."
            )
        inflections = {}
        with open(folder / "format.csv", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                for form in [*split_labels(row["format"]), row["name"]]:
                    inflections.setdefault(form, []).append(row["name"])
        clusters = {
            f"wheel{i}_{level}": words
            for i in range(1, 6)
            for level, words in read_wheel(folder / f"wheel{i}.xlsx").items()
        }
        return cls(inflections, read_synonyms(folder / "synonym.xlsx"), clusters)

    def place(self, label: str, metric: str) -> str | None:
        """What a label counts as: the first in the alphabet of those possible; None for an unknown one."""
        words = self.inflections.get(label, [])
        if metric == "inflection" or not words:
            return min(words, default=None)
        if metric == "synonym":
            return min(self.synonyms[min(words)])
        candidates = sorted(place for word in words for place in self.synonyms[word])
        clusters = self.clusters[metric]
        return next((clusters[place] for place in candidates if place in clusters), None)


def overlap(truths: Iterable[set[str]], predictions: Iterable[set[str]]) -> dict[str, float]:
    """
    How far sets of labels agree, over the rows that have a true one; a row without a prediction counts 0.

    Args:
        truths (`Iterable[set[str]]`): the true labels of each row.
        predictions (`Iterable[set[str]]`): the predicted ones.

    Returns:
        `dict[str, float]`: mean `precision` (MER2024: accuracy) and `recall`, their harmonic mean `f1`, `n` rows.

    Raises:
        `ValueError`: if no row has a true label.
    """
    pairs = list(zip(truths, predictions, strict=True))
    known = [(truth, predicted) for truth, predicted in pairs if truth]
    if not known:
        raise ValueError(f"None of the {len(pairs)} rows has a true label that is known; check the files and labels.")
    precision = float(np.mean([len(truth & given) / len(given) if given else 0 for truth, given in known]))
    recall = float(np.mean([len(truth & given) / len(truth) for truth, given in known]))
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"f1": f1, "precision": precision, "recall": recall, "n": len(known)}


def merge_synonyms(labels: Iterable[str], groups: list[list[str]]) -> set[str]:
    """The labels, those of a group by its first; in MER2024 a language model found the groups of each row."""
    first = {label: group[0] for group in groups for label in group}
    return {first.get(label, label) for label in labels}


def wheel_scores(truths: list[list[str]], predictions: list[list[str]], wheels: Wheels) -> dict[str, dict]:
    """
    Args:
        truths (`list[list[str]]`): the true labels of each row, in lower case.
        predictions (`list[list[str]]`): the predicted ones.
        wheels (`Wheels`): what they count as.

    Returns:
        `dict`: the `overlap` by `"inflection"` and `"synonym"` (MER2025's case 1 and 2), by each wheel and level as
        `"wheel1_level1"` (case 3), and the mean over the five wheels as `"level1"` and `"level2"`. `"level1"` is the
        headline of MER2025.

    Raises:
        `ValueError`: if no row has a true label that is known.
    """
    scores = {}
    for metric in ("inflection", "synonym", *wheels.clusters):
        sets = [
            [{place for label in labels if (place := wheels.place(label, metric))} for labels in column]
            for column in (truths, predictions)
        ]
        scores[metric] = overlap(*sets)
    for level in LEVELS:
        by_wheel = [scores[name] for name in wheels.clusters if name.endswith(level)]
        scores[level] = {
            name: sum(wheel[name] for wheel in by_wheel) / len(by_wheel) for name in ("f1", "precision", "recall")
        }
    return scores


def find_labels(text: str, phrases: Phrases) -> list[str]:
    """The labels of an answer in free words, as the module says; `phrases` are the known ones, word by word."""
    listed, last = [], []
    for sentence in re.split(r"[.;:!?\n]", rewrite(answer_part(normalise(text), several=True, concluded=False))):
        for clause in clauses_of(sentence):
            words = WORD.findall(clause)
            found = find(words, phrases)
            named = [label for start, end, label in found if not is_negated(words, start, end, set())]
            covered = {i for start, end, _ in found for i in range(start, end)}
            if all(i in covered or word in FILLERS for i, word in enumerate(words)):
                listed += named
            last += named[-1:]
    return listed or last


def score_open(records: list[dict], wheels: Wheels) -> dict[str, dict]:
    """
    The `wheel_scores` of the open question of emotion recognition, over all sources; and how many rows there are as
    `n`, since rows like those that are answered by "neutral" are left out.

    Raises:
        `ValueError`: if no record has that question.
    """
    rows = [row for row in records if (row["task"], row["setting"]) == ("emotion_recognition", "open")]
    if not rows:
        raise ValueError(
            f"None of the {len(records)} predictions is of the open question of emotion_recognition; evaluate with "
            "`python -m evaluation.run --tasks emotion_recognition`."
        )
    phrases = {tuple(WORD.findall(normalise(form))): form for form in wheels.inflections}
    predicted = [find_labels(row["text"] or "", phrases) for row in rows]
    return {"n": len(rows)} | wheel_scores([row["answers"] for row in rows], predicted, wheels)


def main(args: argparse.Namespace) -> None:
    print(json.dumps(score_open(read_predictions(args.results), Wheels.read(args.wheels)), indent=2))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder that evaluation.run wrote")
    parser.add_argument("--wheels", required=True, type=Path, help="folder of the emotion wheels, see above")
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
