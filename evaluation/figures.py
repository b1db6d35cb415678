"""Figures of scores: matplotlib's objects, without its global state; the same scores give the same bytes."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter


INK, GREY, PALE, ACCENT = "#1f2933", "#5b6672", "#e3e7eb", "#2f6fb5"
BASELINES = ("#d5dade", "#aeb7c0")
COLOURS = (ACCENT, "#e08a2e", "#3f9c6d", "#b3508f", "#6b5bb5", "#8a6d3b", "#2ba8b8", "#c9433f", "#8fae2a", "#e3a1c7")
FEW = 12  # labels of a confusion matrix up to which its cells are large
DARK = 0.65  # of the way to the darkest blue, from where on white is read more easily
STYLE = {
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a run that is called $5 has no formula
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "EmoBench",  # names in the file would be drawn at random
}


def to_bytes(figure: Figure, form: str) -> bytes:
    """The figure as `form`, such as "svg" or "png", without the date of today."""
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
    file = BytesIO()
    with rc_context(STYLE):
        figure.savefig(file, format=form, dpi=160, bbox_inches="tight", metadata=undated)
    return file.getvalue()


def write_atomically(path: Path, content: bytes) -> None:
    """A reader finds the file as it was or whole."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


@rc_context(STYLE)
def draw_comparison(scores: dict[str, dict[str, dict]]) -> Figure:
    """
    Bars of macro F1 with their 95% intervals, a group a sub-task, and a dashed line where chance is.

    Args:
        scores (`dict[str, dict[str, dict]]`): of the two baselines and then of each run, `macro_f1`, `interval` and
            `chance` by sub-task, and at the end for their mean.
    """
    tasks = list(next(iter(scores.values())))
    width = 0.84 / len(scores)
    figure = Figure(figsize=(2 + len(tasks) * (0.5 + 0.22 * len(scores)), 4.2))
    axes = figure.subplots()
    bars = []
    for i, by_task in enumerate(scores.values()):
        heights = [by_task[task]["macro_f1"] for task in tasks]
        lows, highs = zip(*(by_task[task]["interval"] for task in tasks), strict=True)
        drawn = axes.bar(
            [j + (i - (len(scores) - 1) / 2) * width for j in range(len(tasks))],
            heights,
            0.88 * width,
            # the plain score may lie outside a bootstrap interval: a bar's arm has no negative length
            yerr=np.maximum([np.subtract(heights, lows), np.subtract(highs, heights)], 0),
            color=BASELINES[i] if i < len(BASELINES) else COLOURS[(i - len(BASELINES)) % len(COLOURS)],
            error_kw={"elinewidth": 0.9, "capsize": 1.5, "ecolor": INK},
        )
        bars.append(drawn)
    chances = [by_task[task]["chance"] for task in tasks]
    starts, ends = [j - 0.46 for j in range(len(tasks))], [j + 0.46 for j in range(len(tasks))]
    chance = axes.hlines(chances, starts, ends, colors="black", linestyles=(0, (3, 2)), linewidth=1.2)
    axes.axvline(len(tasks) - 1.5, color="#cccccc", linewidth=1)
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_xlim(-0.6, len(tasks) - 0.4)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylabel("macro F1, with 95% interval")
    axes.grid(axis="y", color=PALE)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        [*bars, chance], [*scores, "chance"], loc="lower left", bbox_to_anchor=(0, 1.02), ncols=5, frameon=False
    )
    return figure


@rc_context(STYLE)
def draw_confusion(labels: list[str], confusion: list[list[float]]) -> Figure:
    """
    Each answer's row as shares of the row.

    Args:
        labels (`list[str]`): C labels.
        confusion (`list[list[float]]` of shape `(C, C + 1)`): answers by predictions, the last column for no answer.
    """
    counts = np.array(confusion)
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)  # no such answer: blank
    few = len(labels) <= FEW
    cell = 0.48 if few else 0.27
    figure = Figure(figsize=(cell * (len(labels) + 1) + 0.6, cell * len(labels)))
    axes = figure.add_axes((0, 0, 1, 1))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.axvline(len(labels) - 0.5, color=GREY, linewidth=1)
    axes.set_xticks(range(len(labels) + 1), [*labels, "no answer"], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xticks(np.arange(len(labels)) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(labels) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color=PALE, linewidth=0.6)
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("prediction")
    axes.set_ylabel("answer")
    for (i, j), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[i, j] > DARK else INK
            axes.text(j, i, f"{count:.0f}", ha="center", va="center", size=9 if few else 6.5, color=colour)
    bar = figure.colorbar(image, ax=axes, fraction=0.35 / (cell * len(labels) + 1), pad=0.02, ticks=[0, 0.5, 1])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
    bar.outline.set_visible(False)
    return figure


@rc_context(STYLE)
def draw_reliability(bins: list[dict], error: float) -> Figure:
    """
    How often answers of each confidence are right, and beneath it how many there are.

    Args:
        bins (`list[dict]`): as `metrics.reliability` gives them.
        error (`float`): the expected calibration error of the same answers.
    """
    lows, highs, confidences, accuracies, numbers = (
        np.array([bin[name] for bin in bins]) for name in ("low", "high", "confidence", "accuracy", "n")
    )
    figure = Figure(figsize=(3.4, 4.1))
    above, below = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    figure.subplots_adjust(hspace=0.08)
    above.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (3, 2)))
    above.bar(lows, accuracies, highs - lows, align="edge", color=ACCENT, edgecolor="white", alpha=0.85)
    above.vlines(confidences, accuracies, confidences, color="#c0392b", linewidth=1.4)
    above.plot(confidences, confidences, "o", color="#c0392b", markersize=2.5)
    above.text(0.04, 0.94, f"ECE {error:.3f}", transform=above.transAxes, va="top", weight="bold")
    above.set(ylim=(0, 1), ylabel="share that is right")
    above.yaxis.set_major_formatter(PercentFormatter(1))
    below.bar(lows, numbers, highs - lows, align="edge", color="#aeb7c0", edgecolor="white")
    below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    below.set(xlim=(0, 1), ylabel="rows", xlabel="confidence (mean: red dot)")
    below.xaxis.set_major_formatter(PercentFormatter(1))
    for axes in (above, below):
        axes.set_axisbelow(True)
        axes.grid(axis="y", color=PALE)
        axes.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels()
    return figure


@rc_context(STYLE)
def draw_heatmap(rows: list[str], columns: list[str], values: list[list[float]]) -> Figure:
    """Macro F1 in per cent, `(rows, columns)`: sources down, runs across."""
    figure = Figure(figsize=(0.62 * len(columns) + 0.6, 0.3 * len(rows)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(np.arange(len(columns) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white")
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    for (i, j), value in np.ndenumerate(values):
        axes.text(j, i, f"{100 * value:.1f}", ha="center", va="center", color="white" if value > DARK else INK)
    return figure
