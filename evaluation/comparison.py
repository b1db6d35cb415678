"""Several runs over the same samples, the first of them the reference, and the baselines beside them."""

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .metrics import baseline, paired_difference, score
from .predictions import RESULTS, read_predictions


BASELINES = ("majority", "random")
INPUTS = {
    "text": "text-only",
    "picture": "picture-only",
}  # baselines that a model itself gives, with half of its input
GENERAL = {"perplexity": "perplexity", "token_accuracy": "token accuracy"}


@dataclass
class Run:
    """
    Args:
        name (`str`): what tables and figures call it.
        folder (`Path`): where `evaluation.run` wrote it.
        results (`dict`): its `results.json`.
        records (`list[dict]`): its predictions.
        scores (`dict[str, dict]`): by sub-task, and `"mean"`.
    """

    name: str
    folder: Path
    results: dict
    records: list[dict]
    scores: dict[str, dict]


def flatten(result: dict) -> dict[str, dict]:
    return {**result["scores"], "mean": result["mean"]}


def format_difference(compared: dict) -> tuple[str, str]:
    """A difference in points with its interval, and its p."""
    low, high = compared["interval"]
    p = compared["p_mcnemar"]
    return (
        f"{100 * compared['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
        f"{p:.3f}" if p >= 0.001 else "<0.001",
    )


def load_runs(folders: Iterable[Path]) -> list[Run]:
    """
    Finished runs, with the scores and intervals that follow from their predictions (by the first one's seed, so that
    all are resampled alike).

    Raises:
        `ValueError`: for a run without predictions or not finished, and for general abilities measured on other data.
    """
    folders = list(folders)
    names = [folder.resolve().name for folder in folders]
    if len({*names, *BASELINES}) < len(names) + len(BASELINES):
        names = [str(folder) for folder in folders]
    runs = []
    for name, folder in zip(names, folders, strict=True):
        records = read_predictions(folder)
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        seed = runs[0].results["seed"] if runs else results["seed"]
        runs.append(Run(name, folder, results, records, flatten(score(records, seed))))
    measured = {}
    for run in runs:
        if general := run.results["general"]:
            measured.setdefault((general["dataset"], general["n"]), run.name)
    if len(measured) > 1:
        (data, name), (other_data, other_name) = list(measured.items())[:2]
        raise ValueError(
            f"The general ability of {name} was measured on {data[1]} rows of {data[0]}, that of {other_name} on "
            f"{other_data[1]} rows of {other_data[0]}. Evaluate both with the same."
        )
    return runs


def baseline_scores(run: Run) -> dict[str, dict[str, dict]]:
    """What guessers would score on the run's samples, by their names."""
    seed = run.results["seed"]
    return {kind: flatten(score(baseline(run.records, kind, seed), seed)) for kind in BASELINES}


def differences(runs: list[Run]) -> dict[str, dict[str, dict]]:
    """By name of each later run what it is better by than the first. Raises a `ValueError` for other samples."""
    first = runs[0]
    return {run.name: paired_difference(first.records, run.records, first.results["seed"]) for run in runs[1:]}


def command(run: Run, output: Path, **changed: str | None) -> str:
    """What makes the run, but for the options that are changed."""
    general = run.results["general"]
    names = "model revision endpoint_model dataset split limit seed emoprompt input label_score".split()
    options = {name: run.results[name] for name in names}
    options |= {"general": general["dataset"] if general else None, **changed, "output": output}
    words = ["python", "-m", "evaluation.run", "--tasks", *sorted({record["task"] for record in run.records})]
    for name, value in options.items():
        if value is not None:
            words += ["--" + name.replace("_", "-"), str(value)]
    return shlex.join(words)


def missing_baselines(runs: list[Run]) -> dict[str, str]:
    """For `"text-only"` and `"picture-only"`, unless a run is one, the command that makes it of the first's model."""
    first, given = runs[0], {run.results["input"] for run in runs}
    return {
        title: command(
            first, first.folder.with_name(f"{first.folder.resolve().name}-{kind}"), input=kind, general=None
        )
        for kind, title in INPUTS.items()
        if kind not in given
    }
