"""
Compare evaluations of the same samples; the first is the reference.

python -m evaluation.compare results/foundation results/EmoLLM --output comparison.png
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from .metrics import paired_difference, score
from .predictions import read_predictions


COLOURS = ("#9aa5b1", "#2f6fb5", "#e08a2e", "#3f9c6d", "#b3508f", "#6b5bb5")


def flatten(result: dict) -> dict[str, dict]:
    return {**result["scores"], "mean": result["mean"]}


def format_table(names: list[str], scores: list[dict], differences: list[dict]) -> str:
    """Macro F1 in per cent, a line a sub-task; behind each later one its difference to the first, 95% interval."""
    header = ["", "chance", names[0]]
    for name in names[1:]:
        header += [name, "difference"]
    lines = [header]
    for task, first in scores[0].items():
        line = [task, f"{first['chance']:.1%}", f"{first['macro_f1']:.1%}"]
        for later, difference in zip(scores[1:], differences, strict=True):
            low, high = difference[task]["interval"]
            line.append(f"{later[task]['macro_f1']:.1%}")
            line.append(f"{difference[task]['difference']:+.1%} [{low:+.1%}, {high:+.1%}]")
        lines.append(line)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def draw(names: list[str], scores: list[dict], path: Path) -> None:
    """Bars of macro F1 with their 95% intervals, a group a sub-task, and a dashed line where chance is."""
    tasks = list(scores[0])
    width = 0.8 / len(names)
    figure = Figure(figsize=(2 + len(tasks) * (0.7 + 0.3 * len(names)), 4.2))
    axes = figure.subplots()
    for i, (name, by_task) in enumerate(zip(names, scores, strict=True)):
        heights = [by_task[task]["macro_f1"] for task in tasks]
        lows, highs = zip(*(by_task[task]["interval"] for task in tasks), strict=True)
        axes.bar(
            [j + (i - (len(names) - 1) / 2) * width for j in range(len(tasks))],
            heights,
            0.9 * width,
            # the plain score may lie outside a bootstrap interval: a bar's arm has no negative length
            yerr=[
                [max(height - low, 0) for height, low in zip(heights, lows, strict=True)],
                [max(high - height, 0) for height, high in zip(heights, highs, strict=True)],
            ],
            color=COLOURS[i % len(COLOURS)],
            error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#333333"},
            label=name,
        )
    chances = [scores[0][task]["chance"] for task in tasks]
    starts, ends = [j - 0.45 for j in range(len(tasks))], [j + 0.45 for j in range(len(tasks))]
    axes.hlines(chances, starts, ends, colors="black", linestyles=(0, (3, 2)), linewidth=1.2, label="chance")
    axes.axvline(len(tasks) - 1.5, color="#cccccc", linewidth=1)
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_xlim(-0.6, len(tasks) - 0.4)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylabel("macro F1, with 95% interval")
    axes.grid(axis="y", color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    chance, *bars = axes.get_legend_handles_labels()[0]
    axes.legend(handles=[*bars, chance], loc="lower center", bbox_to_anchor=(0.5, 1.02), ncols=7, frameon=False)
    figure.savefig(path, dpi=160, bbox_inches="tight")


def main(args: argparse.Namespace) -> None:
    names = [folder.name for folder in args.results]
    predictions = [read_predictions(folder) for folder in args.results]
    differences = [paired_difference(predictions[0], later) for later in predictions[1:]]
    scores = [flatten(score(records)) for records in predictions]
    print(format_table(names, scores, differences))
    if args.output:
        draw(names, scores, args.output)
        print(f"Drawn in {args.output}")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="folders that evaluation.run wrote, the reference first")
    parser.add_argument("--output", type=Path, help="the figure, .png or .pdf")
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
