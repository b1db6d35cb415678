"""Prediction records, checked and grouped by sub-task and source, as the arrays that scores are computed from."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dataset_scripts.tasks import TASKS

from .classification import best_threshold


SUB_TASKS = {
    ("emotion_recognition", "closed"): "Emo-C",
    ("emotion_recognition", "open"): "Emo-O",
    ("intent_understanding", "closed"): "intent",
    ("hate_detection", "closed"): "hate",
    ("humor_detection", "closed"): "humor",
    ("sarcasm_detection", "closed"): "sarcasm",
}
KEYS = (
    "id", "source", "task", "setting", "split", "answer", "answers", "choices", "label_distribution", "prediction",
    "predictions", "probabilities", "greedy", "error",
)  # fmt: skip
AGAIN = "evaluate again with `python -m evaluation.run` and another --output"


@dataclass(frozen=True)
class Group:
    """The n rows of one source in one sub-task, in the order of their ids.

    Args:
        rows (`list[dict]`): the records that are scored.
        choices (`list[str]`): the C labels.
        truth (`np.ndarray` of bool, `(n, C)`): the answers.
        guess (`np.ndarray` of bool, `(n, C)`): the predictions; a row without one has none set.
        scored (`np.ndarray` of bool, `(n,)`): which rows have probabilities.
        probabilities (`np.ndarray`, `(n, C)`): zeros where there are none.
        several (`bool`): whether a row may have several labels.
        threshold (`float`, *optional*): the least probability of a label that is predicted, for several labels.
    """

    rows: list[dict]
    choices: list[str]
    truth: np.ndarray
    guess: np.ndarray
    scored: np.ndarray
    probabilities: np.ndarray
    several: bool
    threshold: float | None

    @property
    def name(self) -> str:
        return f"{self.rows[0]['task']}/{self.rows[0]['source']}"


def allows_several(row: dict) -> bool:
    """Whether the row's source has several labels a row, as Intentonomy; a source of your own has one."""
    asked = TASKS[row["task"]].sources.get(row["source"])
    return asked is not None and asked.several


def people_of(task: str, source: str, attributes: dict) -> list[list[str]]:
    """The groups of people that a row is about, as attribute and value, as far as its source names them."""
    asked = TASKS[task].sources.get(source)
    found = []
    for name in asked.groups if asked else ():
        values = attributes.get(name) or []
        found += [[name, value] for value in ([values] if isinstance(values, str) else values)]
    return found


def by_source(records: Iterable[dict]) -> dict[str, dict[str, list[dict]]]:
    groups: dict[str, dict[str, list[dict]]] = {name: {} for name in SUB_TASKS.values()}
    for record in sorted(records, key=lambda record: record["id"]):
        kind = record["task"], record["setting"]
        if kind not in SUB_TASKS:
            raise ValueError(
                f"{record['id']}: unknown task and setting {kind}; there are {', '.join(map(str, SUB_TASKS))}"
            )
        groups[SUB_TASKS[kind]].setdefault(record["source"], []).append(record)
    return {name: sources for name, sources in groups.items() if sources}


def part_rows(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """The rows of a source that are scored, and those that choose its threshold: its validation rows, which are scored
    as well if there are no others."""
    if not allows_several(rows[0]):
        return rows, []
    tuning = [row for row in rows if row["split"] == "validation"]
    return [row for row in rows if row["split"] != "validation"] or tuning, tuning


def group_records(records: Iterable[dict]) -> dict[str, dict[str, list[dict]]]:
    """The records that are scored by sub-task and source, each in the order of the ids: all but the rows that only
    choose the threshold of a source with several labels. Raises a `ValueError` for an unknown sub-task."""
    return {
        name: {source: part_rows(rows)[0] for source, rows in sources.items()}
        for name, sources in by_source(records).items()
    }


def read_labels(rows: list[dict], choices: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Answers and predictions `(n, C)`, of bool; of several labels the predicted ones where the answer was written."""
    index = {label: i for i, label in enumerate(choices)}
    several = allows_several(rows[0])
    truth, guess = np.zeros((2, len(rows), len(choices)), dtype=bool)
    for i, row in enumerate(rows):
        predicted = [] if row["prediction"] is None else [row["prediction"]]
        predicted = row["predictions"] or [] if several and row["probabilities"] is None else predicted
        if unknown := {*row["answers"], *predicted} - set(choices):
            raise ValueError(
                f"{row['id']}: {', '.join(map(repr, sorted(unknown)))} is none of its {len(choices)} choices "
                f"{choices}; {AGAIN}."
            )
        if len(row["answers"]) != 1 and not several or not row["answers"]:
            raise ValueError(
                f"{row['id']}: {len(row['answers'])} answers, but {row['source']} has 1 a row; declare a source with "
                "several in dataset_scripts/tasks.py."
            )
        truth[i, [index[label] for label in row["answers"]]] = True
        guess[i, [index[label] for label in predicted]] = True
    return truth, guess


def read_shares(rows: list[dict], key: str, choices: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """
    Which rows have shares of their choices, as probabilities or votes, `(n,)` of bool; and the shares `(n, C)`.

    Raises:
        `ValueError`: if they are too many or few, not finite, negative, or do not sum to 1 within 0.001.
    """
    present = np.array([bool(row[key]) for row in rows])
    shares = np.zeros((len(rows), len(choices)))
    for row in rows:
        if row[key] and len(row[key]) != len(choices):
            raise ValueError(f"{row['id']}: {len(row[key])} {key} for {len(choices)} choices; {AGAIN}.")
    if present.any():
        shares[present] = [row[key] for row in rows if row[key]]
    wrong = present & ~((shares >= 0).all(1) & (np.abs(shares.sum(1) - 1) < 1e-3))  # NaN is not >= 0
    if wrong.any():
        row = rows[wrong.argmax()]
        raise ValueError(
            f"{row['id']}: {key} {row[key]} sum to {sum(row[key])}; they must be at least 0 and sum to 1. A model "
            f"that gives NaN overflows: load it in bfloat16 or float32, and {AGAIN}."
        )
    return present, shares


def make_group(rows: list[dict]) -> Group:
    """The group of a source, whose threshold some of the rows choose. Raises a `ValueError` for bad rows."""
    choices, several = rows[0]["choices"], allows_several(rows[0])
    if len(choices) < 2 or len(set(choices)) < len(choices):
        raise ValueError(
            f"{rows[0]['id']}: its {len(choices)} choices {choices} are {len(set(choices))} different labels; a score "
            "needs at least two, each there once. Give the whole label set."
        )
    for row in rows:
        if row["choices"] != choices:
            raise ValueError(
                f"{row['id']}: the choices {row['choices']} are not the {choices} of {rows[0]['id']}, but one source "
                "has one label set; give other label sets a source of their own."
            )
    rows, tuning = part_rows(rows)
    truth, guess = read_labels(rows, choices)
    scored, probabilities = read_shares(rows, "probabilities", choices)
    threshold = None
    if several and scored.any():
        tuned, shares = read_shares(tuning, "probabilities", choices) if tuning else (np.zeros(0, dtype=bool), None)
        if not tuned.any():
            raise ValueError(
                f"{rows[0]['source']} has several labels a row: {len(rows)} rows to score, but {tuned.sum()} of split "
                "validation with probabilities, which choose its threshold. Use a dataset with a validation split, as "
                f"`python -m dataset_scripts.build_emobench` makes it, and {AGAIN}."
            )
        threshold = best_threshold(read_labels(tuning, choices)[0][tuned], shares[tuned])
        guess[scored] = probabilities[scored] >= threshold
    return Group(rows, choices, truth, guess, scored, probabilities, several, threshold)


def make_groups(records: list[dict]) -> dict[str, dict[str, Group]]:
    """
    The group of each source by sub-task.

    Raises:
        `ValueError`: for no records, one without a key, the same row twice, and what the other functions here refuse.
    """
    if not records:
        raise ValueError("There are no predictions to score; make them with `python -m evaluation.run`.")
    seen = {}
    for number, record in enumerate(records, 1):
        if missing := [key for key in KEYS if key not in record]:
            raise ValueError(f"Record {number} of {len(records)} has no {', '.join(missing)}; {AGAIN}.")
        if (key := (record["task"], record["id"])) in seen:
            raise ValueError(
                f"{record['id']} of {record['task']} is there twice, as record {seen[key]} and {number}; remove one, "
                f"or {AGAIN}."
            )
        seen[key] = number
    return {
        name: {source: make_group(rows) for source, rows in sources.items()}
        for name, sources in by_source(records).items()
    }
