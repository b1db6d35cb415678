"""The tables and the figure of an ablation, from its scores, and their places in the documents."""

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy.stats import t

from evaluation.figures import COLOURS, GREY, INK, STYLE

from .plan import ADAPTER, ARMS, AS_IT_IS, EMOLLM, MVP, PROMPTED, SFT, UNTRAINED


COMPARISONS = (
    (PROMPTED, AS_IT_IS), (SFT, AS_IT_IS), (EMOLLM, AS_IT_IS), (ADAPTER, SFT), (MVP, SFT), (MVP, ADAPTER),
    (EMOLLM, SFT), (EMOLLM, ADAPTER), (EMOLLM, MVP),
)  # fmt: skip
HEADLINES = ((EMOLLM, AS_IT_IS), (EMOLLM, SFT), (EMOLLM, ADAPTER), (MVP, ADAPTER))


class Scores:
    """
    Macro F1 in points, by arm `(F, S, T)`: F foundations, S seeds and T sub-tasks, the last of which is their mean. A
    foundation as it is has no seed, and stands once for each.

    Args:
        scores (`dict`): as `store.score_predictions` makes them.

    Raises:
        `ValueError`: for fewer than two seeds, of which there is no interval.
    """

    def __init__(self, scores: dict):
        self.chance = {name: 100 * value for name, value in scores["chance"].items()}
        self.rows, self.tasks = scores["rows"], list(scores["chance"])
        cells = {(cell["foundation"], cell["arm"], cell["seed"]): cell["macro_f1"] for cell in scores["cells"]}
        self.foundations = list(dict.fromkeys(name for name, _, _ in cells))
        self.seeds = list(dict.fromkeys(seed for _, arm, seed in cells if arm == SFT))
        if len(self.seeds) < 2:
            raise ValueError(f"{len(self.seeds)} seeds have no interval: give plan {scores['plan']} two or more.")
        self.arms, self.left_out = {}, {}
        for arm in dict.fromkeys(arm for _, arm, _ in cells):
            names = [name for name in self.foundations if (name, arm, (*self.seeds, 0)[0]) in cells]
            found = [[cells[name, arm, 0 if arm in UNTRAINED else seed] for seed in self.seeds] for name in names]
            values = 100 * np.array([[[f1[task] for task in self.tasks] for f1 in seeds] for seeds in found])
            if arm in ARMS:
                self.arms[arm] = values
            else:
                places = [self.foundations.index(name) for name in names]
                self.left_out[arm] = values, self.arms[MVP][places]


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean of n seeds, and its 95% interval by Student's t."""
    mean = float(values.mean())
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return mean, mean - half, mean + half


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def score_cell(seeds: np.ndarray, arm: str) -> str:
    mean, low, high = interval(seeds)
    return f"{mean:.1f}" if arm in UNTRAINED else f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def difference_cell(seeds: np.ndarray, arm: str) -> str:
    mean, low, high = interval(seeds)
    return f"{mean:+.1f}" if arm in UNTRAINED else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def difference(scores: Scores, arm: str, reference: str, task: int) -> str:
    """Of the mean over the foundations: points, their interval over the seeds, and what that is in per cent."""
    worse = scores.arms[reference][..., task]
    seeds = (scores.arms[arm][..., task] - worse).mean(0)
    return f"{difference_cell(seeds, arm)}, {100 * seeds.mean() / worse.mean():+.1f}%"


def arms_table(scores: Scores) -> str:
    rows = [["chance", *(f"{value:.1f}" for value in scores.chance.values())]]
    for arm, values in scores.arms.items():
        rows.append([arm, *(score_cell(values[..., i].mean(0), arm) for i in range(len(scores.tasks)))])
    return table(["macro F1", *scores.tasks], rows)


def foundations_table(scores: Scores) -> str:
    rows = []
    for arm, values in scores.arms.items():
        rows.append([arm, *(score_cell(seeds, arm) for seeds in [*values[..., -1], values[..., -1].mean(0)])])
    return table(["mean of the sub-tasks", *scores.foundations, "all"], rows)


def differences_table(scores: Scores) -> str:
    rows = [
        [f"{arm} over {reference}"] + [difference(scores, arm, reference, i) for i in range(len(scores.tasks))]
        for arm, reference in COMPARISONS
    ]
    return table(["points [95% interval], per cent", *scores.tasks], rows)


def left_out_table(scores: Scores) -> str:
    rows = []
    for arm, (values, whole) in scores.left_out.items():
        cells = [difference_cell((values - whole)[..., i].mean(0), arm) for i in range(len(scores.tasks))]
        rows.append([arm, *cells])
    return table([f"points over {MVP}", *scores.tasks], rows)


def headline_table(scores: Scores) -> str:
    """For each foundation, and for all: by how much the mean over the sub-tasks is better."""
    rows = []
    for arm, reference in HEADLINES:
        gains = (scores.arms[arm] - scores.arms[reference])[..., -1]
        cells = [difference_cell(seeds, arm) for seeds in gains]
        rows.append([f"{arm} over {reference}", *cells, difference(scores, arm, reference, -1)])
    return table(["points of macro F1 [95% interval]", *scores.foundations, "all, and in per cent"], rows)


def tables(scores: Scores) -> dict[str, str]:
    """All tables, by name."""
    found = {"headline": headline_table, "foundations": foundations_table, "arms": arms_table}
    found |= {"differences": differences_table}
    if scores.left_out:
        found["left-out"] = left_out_table
    return {name: make(scores) for name, make in found.items()}


@rc_context(STYLE)
def draw(scores: Scores) -> Figure:
    """The mean over the sub-tasks of every arm, a panel a foundation: a bar for the mean, a dot for each training."""
    figure = Figure(figsize=(2.4 * len(scores.foundations) + 1.6, 3.4))
    panels = figure.subplots(1, len(scores.foundations), sharey=True, squeeze=False)[0]
    for place, (name, axes) in enumerate(zip(scores.foundations, panels, strict=True)):
        for i, (arm, values) in enumerate(scores.arms.items()):
            seeds = values[place, :, -1]
            axes.bar(i, seeds.mean(), 0.8, color=COLOURS[i], alpha=0.75, label=arm if place == 0 else None)
            if arm not in UNTRAINED:
                axes.plot(i + np.linspace(-0.2, 0.2, len(seeds)), seeds, ".", color=INK, markersize=4)
        chance = "chance" if place == 0 else None
        axes.axhline(scores.chance["mean"], color=GREY, linestyle=(0, (3, 2)), linewidth=1, label=chance)
        axes.set_title(name, fontsize=9)
        axes.set_xticks([])
    panels[0].set_ylim(0, 103)
    panels[0].set_ylabel("macro F1, mean of the sub-tasks")
    figure.legend(loc="lower center", ncols=4, bbox_to_anchor=(0.5, -0.12), frameon=False)
    return figure


def fill(document: str, name: str, found: dict[str, str]) -> str:
    """The document with the tables of plan `name` where it has `<!-- begin: ablation NAME TABLE -->`."""
    for title, text in found.items():
        begin, end = f"<!-- begin: ablation {name} {title} -->\n", "<!-- end -->"
        before, marker, rest = document.partition(begin)
        if marker:
            document = f"{before}{begin}{text}\n{end}{rest.partition(end)[2]}"
    return document
