"""The predictions of an ablation in one Parquet file, and the scores that follow from them and the dataset.

What is stored says nothing about the data but the ids of its rows: answers come from the dataset at hand.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.classification import weighted_macro_f1
from evaluation.groups import make_groups
from evaluation.predictions import read_predictions, write_json
from evaluation.rows import load_rows

from .plan import Plan


RESULTS = Path("benchmarks/ablation/results")
CELL = ("foundation", "arm", "seed")
COLUMNS = (*CELL, "split", "task", "id", "prediction")
UNKNOWN = dict.fromkeys(("predictions", "probabilities", "greedy", "error"))  # not needed for macro F1


def predictions_path(plan: Plan) -> Path:
    return RESULTS / f"{plan.name}.parquet"


def store_predictions(plan: Plan) -> None:
    """Gathers the predictions of all cells, in their order."""
    columns = {name: [] for name in COLUMNS}
    for cell in plan.cells:
        for folder in plan.evaluated(cell):
            for record in read_predictions(folder):
                values = (cell.foundation, cell.arm, cell.seed, record["split"], record["task"], record["id"])
                for name, value in zip(COLUMNS, (*values, record["prediction"]), strict=True):
                    columns[name].append(value)
    table = pa.table(columns)
    path = predictions_path(plan)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, temporary := path.with_suffix(".tmp"), compression="zstd", compression_level=19)
    temporary.replace(path)


def sub_task_scores(records: list[dict]) -> dict[str, float]:
    """Macro F1 of each sub-task, the mean over its sources, and their `"mean"`; as `evaluation.metrics.score`."""
    scores = {}
    for name, sources in make_groups(records).items():
        ones = {source: np.ones((1, len(group.rows)), dtype=np.float32) for source, group in sources.items()}
        f1 = [weighted_macro_f1(group.truth, group.guess, ones[source])[0] for source, group in sources.items()]
        scores[name] = float(np.mean(f1))
    return scores | {"mean": float(np.mean(list(scores.values())))}


def score_predictions(plan: Plan) -> dict:
    """
    The scores of every cell from the stored predictions, written as JSON beside them.

    Raises:
        `ValueError`: if the stored predictions are not of the plan's cells, or not of the dataset's rows.
    """
    path, dataset = predictions_path(plan), plan.values["datasets"][0]
    truth = {}
    for split, tasks in plan.values["tests"].items():
        for task, rows in load_rows(dataset, tasks, split, None, 0).items():
            rows = rows.remove_columns(["images", "messages"])
            truth |= {(split, task, row["id"]): row for row in rows}
    by_cell = {}
    for row in pq.read_table(path).to_pylist():
        by_cell.setdefault(tuple(row[name] for name in CELL), []).append(row)
    if missing := [cell for cell in plan.cells if (cell.foundation, cell.arm, cell.seed) not in by_cell]:
        raise ValueError(f"{path} lacks {len(missing)} of {len(plan.cells)} cells, e.g. {missing[0]}: run the plan.")
    cells = []
    for cell in plan.cells:
        rows = by_cell[cell.foundation, cell.arm, cell.seed]
        keys = [(row["split"], row["task"], row["id"]) for row in rows]
        if set(keys) != set(truth):
            raise ValueError(
                f"{path} has {len(keys)} predictions of {cell}, of which {len(set(keys) & set(truth))} are of the "
                f"{len(truth)} rows of {dataset}: build it as the plan says, or run the plan again."
            )
        records = [
            UNKNOWN | truth[key] | {"prediction": row["prediction"]} for key, row in zip(keys, rows, strict=True)
        ]
        cells.append({name: getattr(cell, name) for name in CELL} | {"macro_f1": sub_task_scores(records)})
    chance, rows = {}, {}
    for name, sources in make_groups(records).items():
        chance[name] = float(np.mean([1 / len(group.choices) for group in sources.values()]))
        rows[name] = {source: len(group.rows) for source, group in sources.items()}
    chance["mean"] = float(np.mean(list(chance.values())))
    scores = {"plan": plan.name, "chance": chance, "rows": rows, "cells": cells}
    write_json(RESULTS / f"{plan.name}.json", scores)
    return scores
