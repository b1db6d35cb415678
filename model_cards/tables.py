"""The part of a model's card about runs of the evaluation on the same samples, from their `results.json`."""

import shlex
from itertools import groupby
from pathlib import Path


TASKS = {
    "Emo-C": "emotion_recognition",
    "Emo-O": "emotion_recognition",
    "intent": "intent_understanding",
    "hate": "hate_detection",
    "humor": "humor_detection",
    "sarcasm": "sarcasm_detection",
}
INPUTS = {"all": "", "text": "words only", "picture": "pictures only"}  # the latter two as baselines
MODES = (None, "answer", "reason")  # of EmoPrompt
SETTINGS = ("input", "label_score", "revision", "commit")  # what a command gives several modes of EmoPrompt at once


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def with_interval(value: float, ends: list[float]) -> str:
    return "{} [{}, {}]".format(*map(percent, (value, *ends)))


def title_of(run: dict) -> str:
    """What tells a run from the others of its table."""
    parts = [f"EmoPrompt {run['emoprompt']}" if run["emoprompt"] else "without EmoPrompt"]
    parts += [INPUTS[run["input"]]] if run["input"] != "all" else []
    parts += [f"{run['label_score']} scores"] if run["label_score"] != "likelihood" else []
    return ", ".join(parts)


def commands(runs: list[dict], model: str, dataset: str) -> list[str]:
    """What makes these runs: one command for those that differ in their mode of EmoPrompt alone."""
    asked = sorted({TASKS[name] for run in runs for name in run["scores"]})
    written = []

    def settings(run: dict) -> list:
        return [run[name] for name in SETTINGS] + [run["general"] and run["general"]["dataset"]]

    first = runs[0]
    for (given, label_score, revision, commit, general), group in groupby(runs, key=settings):
        modes = [run["emoprompt"] or "none" for run in group]
        words = ["python", "-m", "evaluation.run", "--model", model]
        words += ["--revision", commit or revision] if commit or revision else []
        words += ["--dataset", dataset, "--tasks", *asked, "--split", first["split"]]
        version = first.get("dataset_commit") or first["dataset_revision"]
        words += ["--dataset-revision", version] if version else []
        words += ["--limit", str(first["limit"])] if first["limit"] else []
        words += ["--input", given] if given != "all" else []
        words += ["--label-score", label_score] if label_score != "likelihood" else []
        words += ["--general", Path(general).name] if general else []
        words += ["--seed", str(first["seed"]), "--emoprompt", *modes]
        others = "".join(f"-{value}" for value in (given, label_score) if value not in ("all", "likelihood"))
        words += ["--output", *(f"results/{mode}{others}" for mode in modes)]
        written.append(shlex.join(words))
    return written


def score_table(runs: list[dict]) -> dict:
    """Sub-tasks down, runs across."""
    first, rows = runs[0], []
    for name, scores in [*first["scores"].items(), ("mean", first["mean"])]:
        of = [run["mean"] if name == "mean" else run["scores"][name] for run in runs]
        cells = [with_interval(score["macro_f1"], score["interval"]) for score in of]
        rows.append([name, f"{scores['n']:,}", percent(scores["chance"]), percent(scores["majority"]), *cells])
    return {"header": ["sub-task", "rows", "chance", "majority", *map(title_of, runs)], "rows": rows}


def source_table(runs: list[dict]) -> dict | None:
    """The same by source, if a sub-task has several."""
    rows = []
    for name, scores in runs[0]["scores"].items():
        for source, found in scores["sources"].items():
            of = [run["scores"][name]["sources"][source] for run in runs]
            cells = [with_interval(score["macro_f1"], score["interval"]) for score in of]
            rows.append([f"{name}, {source}", f"{found['n']:,}", percent(found["chance"]), *cells])
    header = ["sub-task, source", "rows", "chance", *map(title_of, runs)]
    return {"header": header, "rows": rows} if len(rows) > len(runs[0]["scores"]) else None


def label_table(runs: list[dict]) -> dict:
    rows = [
        [f"{name}, {source}: {label}", f"{counts['n']:,}"]
        + [percent(run["scores"][name]["sources"][source]["labels"][label]["f1"]) for run in runs]
        for name, scores in runs[0]["scores"].items()
        for source, found in scores["sources"].items()
        for label, counts in found["labels"].items()
    ]
    return {"header": ["label", "rows", *map(title_of, runs)], "rows": rows}


def people_table(runs: list[dict]) -> dict | None:
    """By group of people, for the sources that name them."""
    rows = []
    for name, scores in runs[0]["scores"].items():
        for source, found in scores["sources"].items():
            for attribute, groups in found.get("people", {}).items():
                for group, counted in groups.items():
                    of = [run["scores"][name]["sources"][source]["people"][attribute][group] for run in runs]
                    cells = [with_interval(score["accuracy"], score["interval"]) for score in of]
                    what = f"{name}, {source}: {attribute.replace('_', ' ')} {group}"
                    rows.append([what, f"{counted['n']:,}", *cells])
    return {"header": ["group", "rows", *map(title_of, runs)], "rows": rows} if rows else None


def entries_of(runs: list[dict]) -> list[dict]:
    """Scores for the model-index, by task, of the runs that saw the whole question."""
    found: dict[str, list[dict]] = {}
    for run in runs:
        for name, scores in run["scores"].items() if run["input"] == "all" else ():
            metric = {"name": f"macro F1 of {name}, {title_of(run)}", "value": round(scores["macro_f1"], 4)}
            found.setdefault(TASKS[name], []).append(metric)
    return [{"task": task, "metrics": metrics} for task, metrics in found.items()]


def describe_runs(runs: list[dict], model: str, dataset_id: str | None) -> dict:
    """The part of the card about runs on the same samples."""
    first = runs[0]
    name = first["dataset"] if first.get("dataset_commit") else Path(first["dataset"]).name
    general = first["general"]
    limit = f", at most {first['limit']:,} samples a task, drawn by seed {first['seed']}" if first["limit"] else ""
    versions = ", ".join(f"{library} {version}" for library, version in first["versions"].items())
    seconds = sum(run["seconds"] for run in runs)
    silent = {title_of(run): run["mean"]["unparsed"] + sum(run["mean"]["errors"].values()) for run in runs}
    unread = "; ".join(f"{number:,} {title}" for title, number in silent.items() if number)
    return {
        "title": name,
        "split": first["split"],
        "about": f"Split {first['split']}{limit}. Answered in {seconds / 60:.1f} minutes, with {versions}."
        + (f" No answer, or none that could be understood, which counts as wrong: {unread}." if unread else ""),
        "scores": score_table(runs),
        "sources": source_table(runs),
        "groups": people_table(runs),
        "labels": label_table(runs),
        "general": general
        and f"What else it can do, without EmoPrompt: perplexity {general['perplexity']:.2f} and token accuracy "
        f"{percent(general['token_accuracy'])}% on {general['n']:,} conversations of {Path(general['dataset']).name}.",
        "entries": entries_of(runs),
        "commands": commands(runs, model, dataset_id or name),
    }
