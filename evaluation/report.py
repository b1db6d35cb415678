"""
One HTML file about a run: what was asked, how well it was answered, compared with other runs, and what was confused.

python -m evaluation.report results/EmoLLM results/foundation --output report.html

The first run is the one that is told about, and the reference of the comparison. The file needs no network. It holds
ids and what the model wrote, but no pictures, which their licences seldom allow to be passed on.
"""

import argparse
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from .comparison import (
    GENERAL,
    Run,
    baseline_scores,
    command,
    differences,
    format_difference,
    load_runs,
    missing_baselines,
)
from .figures import draw_comparison, draw_confusion, draw_heatmap, draw_reliability, to_bytes, write_atomically
from .metrics import group_records, reliability


TEMPLATE = Path(__file__).with_name("report.html.jinja")
NOTHING = "–"
CONFUSIONS, EXAMPLES, LONGEST = 5, 3, 200  # pairs a source, rows a pair, characters a text


def percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f}"


def decimal(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def number(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"


COLUMNS = {
    "n": ("rows", number),
    "chance": ("chance", percent),
    "macro_f1": ("macro F1", percent),
    "interval": ("95% interval", lambda ends: NOTHING if ends is None else "{} to {}".format(*map(percent, ends))),
    "accuracy": ("accuracy", percent),
    "majority": ("accuracy of the majority", percent),
    "weighted_f1": ("weighted F1", percent),
    "uar": ("UAR", percent),
    "auroc": ("AUROC", percent),
    "ece": ("ECE", decimal),
    "brier": ("Brier", decimal),
}
SEVERAL = {
    "micro_f1": ("micro F1", percent),
    "samples_f1": ("samples F1", percent),
    "accuracy": ("whole set right", percent),
    "threshold": ("threshold", decimal),
}
VOTES = {"cross_entropy": ("cross-entropy", decimal), "top2": ("top-2", percent)}
PEOPLE = {name: COLUMNS[name] for name in ("n", "accuracy", "interval")}
LABELS = {"n": COLUMNS["n"], **{name: (name, percent) for name in ("precision", "recall")}, "f1": ("F1", percent)}


def make_table(caption: str, corner: str, scores: dict[str, dict], columns: dict[str, tuple[str, Callable]]) -> dict:
    """A row for each of the scores; a column that applies to none of them is left out."""
    cells = {title: [form(of.get(key)) for of in scores.values()] for key, (title, form) in columns.items()}
    cells = {title: column for title, column in cells.items() if set(column) != {NOTHING}}
    return {"caption": caption, "header": [corner, *cells], "rows": list(zip(scores, *cells.values(), strict=True))}


def picture(figure: Figure, alt: str) -> dict[str, str]:
    return {"src": "data:image/svg+xml;base64," + b64encode(to_bytes(figure, "svg")).decode(), "alt": alt}


def describe_settings(runs: list[Run]) -> dict:
    """All of `results.json` but the scores, a column a run."""
    settings = {}
    for i, run in enumerate(runs):
        for key, value in run.results.items():
            if key in ("scores", "mean", "general"):
                continue
            if isinstance(value, dict):
                value = ", ".join(f"{name} {version}" for name, version in value.items())
            elif isinstance(value, float):
                value = f"{value:.1f}"
            settings.setdefault(key, [NOTHING] * len(runs))[i] = NOTHING if value is None else str(value)
    rows = [(key.replace("_", " "), *values) for key, values in settings.items()]
    return {"caption": "Settings and versions", "header": ["setting", *(run.name for run in runs)], "rows": rows}


def compare_scores(runs: list[Run], baselines: dict[str, dict[str, dict]]) -> dict:
    columns = {**baselines, **{run.name: run.scores for run in runs}}
    rows = []
    for task, first in runs[0].scores.items():
        rows.append((task, percent(first["chance"]), *(percent(of[task]["macro_f1"]) for of in columns.values())))
    general = [run.results["general"] for run in runs]
    for name, title in GENERAL.items() if any(general) else ():
        scale = 100 if name == "token_accuracy" else 1
        cells = [f"{scale * of[name]:.1f}" if of else NOTHING for of in general]
        rows.append((title, *[""] * (1 + len(baselines)), *cells))
    caption = "Macro F1 in per cent, with the baselines"
    if measured := next(filter(None, general), None):
        caption += f"; what else the models can do, on {measured['n']:,} rows of {measured['dataset']}"
    return {"caption": caption, "header": ["sub-task", "chance", *columns], "rows": rows}


def compare_differences(reference: str, by_run: dict[str, dict[str, dict]]) -> dict:
    rows = [
        (task, *(cell for compared in by_run.values() for cell in format_difference(compared[task])))
        for task in next(iter(by_run.values()))
    ]
    caption = (
        f"What each run is better by than {reference}: difference of macro F1 in points with its 95% interval (paired "
        "bootstrap), and p of McNemar's exact test on which answers are right"
    )
    return {"caption": caption, "header": ["sub-task", *(x for name in by_run for x in (name, "p"))], "rows": rows}


def describe_answers(run: Run, groups: dict[str, dict[str, list[dict]]]) -> dict:
    """How the answers came about, or why there is none."""
    reasons = sorted({reason for of in run.scores.values() for reason in of["errors"]})
    rows = []
    for task, sources in groups.items():
        records, scores = sum(sources.values(), []), run.scores[task]
        checked = [record["greedy"] == record["prediction"] for record in records if record["greedy"] is not None]
        seconds = sum(record["seconds"] for record in records)
        rows.append(
            (
                task,
                number(len(records)),
                number(scores["unparsed"]),
                *(number(scores["errors"].get(reason, 0)) for reason in reasons),
                f"{sum(checked):,} of {len(checked):,}" if checked else NOTHING,
                f"{len(records) / seconds:,.1f}" if seconds else NOTHING,
            )
        )
    header = ["sub-task", "rows", "not understood", *reasons, "greedy generation agrees", "rows a second"]
    return {"caption": "How the answers came about", "header": header, "rows": rows}


def worst_confusions(records: list[dict]) -> list[dict]:
    """The most frequent pairs of answer and wrong prediction, with those rows where the model was surest."""
    wrong, asked = {}, Counter(" + ".join(record["answers"]) for record in records)
    for record in records:
        if record["prediction"] is not None and record["prediction"] not in record["answers"]:
            wrong.setdefault((" + ".join(record["answers"]), record["prediction"]), []).append(record)
    pairs = []
    for (answer, prediction), rows in sorted(wrong.items(), key=lambda pair: (-len(pair[1]), pair[0]))[:CONFUSIONS]:
        rows = sorted(rows, key=lambda row: (-max(row["probabilities"] or [0]), row["id"]))
        texts = [
            row["text"] and row["text"][:LONGEST] + " …" * (len(row["text"]) > LONGEST) for row in rows[:EXAMPLES]
        ]
        examples = [(row["id"], text) for row, text in zip(rows, texts, strict=False)]
        pairs.append(
            {
                "answer": answer,
                "prediction": prediction,
                "n": len(rows),
                "share": percent(len(rows) / asked[answer]),
                "examples": examples,
            }
        )
    return pairs


def describe_source(task: str, source: str, scores: dict, records: list[dict]) -> dict:
    name, choices = f"{task}, {source}", records[0]["choices"]
    confusions, figures = worst_confusions(records), []
    if scores["confusion"]:
        alt = f"Confusion matrix of {name}: answers down, predictions across, shaded by shares of the row's answers."
        if confusions:
            alt += f" Most often {confusions[0]['answer']} is taken for {confusions[0]['prediction']}."
        figures.append(picture(draw_confusion(choices, scores["confusion"]), alt))
    if scores["ece"] is not None:
        alt = f"Reliability of {name}: how often answers of each confidence are right; ECE {scores['ece']:.3f}."
        figures.append(picture(draw_reliability(reliability(records), scores["ece"]), alt))
    labels = make_table(f"Labels of {name}, in per cent", "label", scores["labels"], LABELS)
    people = [
        make_table(f"Accuracy of {name} by {attribute.replace('_', ' ')}, in per cent", "group", groups, PEOPLE)
        for attribute, groups in scores.get("people", {}).items()
    ]
    return {"name": source, "labels": labels, "people": people, "figures": figures, "confusions": confusions}


def describe_sources(sources: dict[str, dict]) -> list[dict]:
    several = {name: of for name, of in sources.items() if "micro_f1" in of}
    voted = {name: of for name, of in sources.items() if "top2" in of}
    tables = [make_table("Scores by source, in per cent where they are shares", "source", sources, COLUMNS)]
    if several:
        tables.append(make_table("Where a sample may have several labels", "source", several, SEVERAL))
    if voted:
        tables.append(make_table("Where onlookers voted", "source", voted, VOTES))
    return tables


def render(runs: list[Run]) -> str:
    """The page about the first run; its bytes follow from the runs' files."""
    run = runs[0]
    by_run, baselines = differences(runs), baseline_scores(run)
    groups = group_records(run.records)
    columns = {**baselines, **{other.name: other.scores for other in runs}}
    sources = {
        f"{task}, {source}": [of[task]["sources"][source] for of in columns.values()]
        for task, by_source in groups.items()
        for source in by_source
    }
    heatmap = draw_heatmap(list(sources), list(columns), [[of["macro_f1"] for of in row] for row in sources.values()])
    names = ", ".join(columns)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=run.name,
        results=run.results,
        command=command(run, run.folder),
        settings=describe_settings(runs),
        scores=make_table("Scores by sub-task, in per cent where they are shares", "sub-task", run.scores, COLUMNS),
        bars=picture(draw_comparison(columns), f"Bars of macro F1 by sub-task: {names}. The table has the figures."),
        macro_f1=compare_scores(runs, baselines),
        differences=compare_differences(run.name, by_run) if by_run else None,
        missing=missing_baselines(runs),
        sources=describe_sources({name: row[len(baselines)] for name, row in sources.items()}),
        heatmap=picture(heatmap, f"Macro F1 by source, in per cent, as colours and numbers: {names}."),
        answers=describe_answers(run, groups),
        tasks={
            task: [
                describe_source(task, source, run.scores[task]["sources"][source], records)
                for source, records in by_source.items()
            ]
            for task, by_source in groups.items()
        },
    )


def main(args: argparse.Namespace) -> None:
    html = render(load_runs(args.results))
    # a model may have written half of a surrogate pair, which has no bytes
    write_atomically(args.output, html.encode("utf-8", "replace"))
    print(f"Written to {args.output}")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "results", nargs="+", type=Path, help="folders that evaluation.run wrote; the first is told about"
    )
    parser.add_argument("--output", required=True, type=Path, help="the page, .html")
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
