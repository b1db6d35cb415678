"""The dataset card of a build and its figure of counts, both made from the build's own stats."""

import re
from collections import Counter
from math import ceil, floor, log10, nan
from pathlib import Path

from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from dataset_scripts.readers import READERS
from dataset_scripts.shards import FRAME_SIDE
from dataset_scripts.tasks import SPLITS, TASKS


TEMPLATES = Path(__file__).parent
FIGURE = "figures/counts.png"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
# Okabe and Ito's colours, told apart with every kind of colour vision and by their lightness; the shapes help too
COLOURS = dict(zip(SPLITS, ("#0072B2", "#56B4E9", "#D55E00"), strict=True))
MARKERS = dict(zip(SPLITS, ("o", "s", "^"), strict=True))
GATE = (
    "Asking for access, you agree to use these data for research; to keep to the licence of each source; to pass on "
    "neither them nor any picture or text in them; not to infer the emotions of people at work or in education with "
    "what you make of them; and not to identify anybody in them."
)


def counts_of(stats):
    """Yield config, source, split and counts of all that a build read, in the order of the tasks and the splits."""
    for config in (name for name in TASKS if name in stats["configs"]):
        for source, by_split in stats["configs"][config]["sources"].items():
            for split in (split for split in SPLITS if split in by_split):
                yield config, source, split, by_split[split]


def label_tables(stats):
    """Config → source → label → split → number of samples."""
    tables = {}
    for config, source, split, count in counts_of(stats):
        for label, number in count["labels"].items():
            tables.setdefault(config, {}).setdefault(source, {}).setdefault(label, Counter())[split] = number
    return tables


def render_metadata(infos, stats, media, gated):
    """The YAML at the head of the card, by which `load_dataset` finds the configs, their splits and features."""
    rows = sum(split.num_examples for info in infos.values() for split in info.splits.values())
    sources = [READERS[source].SOURCE for source in {s for _, s, _, _ in counts_of(stats)} if source != "drawn"]
    clips = media and stats["video"] != "frames" and any(source.clips for source in sources)
    metadata = DatasetCardData(
        pretty_name="EmoBench" if media else "EmoBench, annotations only",
        language=sorted({"en"}.union(*(source.languages for source in sources))),
        license="other" if sources else "apache-2.0",
        **({"license_name": "each-source-keeps-its-own"} if sources else {}),
        task_categories=[
            "image-text-to-text",
            "visual-question-answering",
            *(["video-text-to-text"] if clips else []),
        ],
        tags=[
            "emotion-recognition",
            "affective-computing",
            *(task.replace("_", "-") for task in TASKS if task in infos and task != "emotion_recognition"),
            *(["not-for-all-audiences"] if any(source.offensive for source in sources) else []),
        ],
        size_categories=[next((name for limit, name in SIZES if rows < limit), "1M<n<10M")],
        **({"extra_gated_prompt": GATE} if gated else {}),
    )
    DatasetInfosDict(infos).to_dataset_card_data(metadata)
    MetadataConfigs(
        {
            name: {"data_files": [{"split": split, "path": f"{name}/{split}-*"} for split in info.splits]}
            for name, info in infos.items()
        }
    ).to_dataset_card_data(metadata)
    return metadata.to_yaml()


def render_card(infos, stats, name="path/to/this/folder", media=True, gated=False):
    """The text of README.md.

    Args:
        infos (`dict[str, datasets.DatasetInfo]`): Of each config that was built, with its splits.
        stats (`dict`): What stats.json holds.
        name (`str`): What is given to `load_dataset`: a folder, or the Hub's `USER/NAME`.
        media (`bool`): Whether the pictures and clips are in it; without them, the card tells how to join one's own.
        gated (`bool`): Whether access is asked for on the Hub, and what one then agrees to.

    Returns:
        `str`: YAML and Markdown.
    """
    counts = list(counts_of(stats))
    sources = list(dict.fromkeys(source for _, source, _, _ in counts))
    read = [READERS[source].SOURCE for source in sources if source != "drawn"]
    # of the sources that have rows, the first config and split with any
    filled = {source: (config, split) for config, source, split, count in reversed(counts) if count["kept"]}
    filled = {source: filled[source] for source in sources if source in filled}
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = "{:,}".format
    page = environment.get_template("card.md.jinja").render(
        metadata=render_metadata(infos, stats, media, gated),
        name=name,
        media=media,
        stats=stats,
        infos=infos,
        tasks=TASKS,
        splits=SPLITS,
        counts=counts,
        labels=label_tables(stats),
        samples=sum(count["kept"] for _, _, _, count in counts),
        rows=sum(count["rows"] for _, _, _, count in counts),
        sources=read,
        missing=[reader.SOURCE for source, reader in READERS.items() if source not in sources],
        published={source: reader.SOURCE.published for source, reader in READERS.items()} | {"drawn": {}},
        pictures=[source for source in read if source.name in filled and not source.clips],
        clips=[source for source in read if source.name in filled and source.clips],
        filled=filled,
        drawn=[config for config in infos if "drawn" in stats["configs"][config]["sources"]],
        offensive=[source.name for source in read if source.offensive],
        side=FRAME_SIDE,
        figure=FIGURE,
    )
    # parts that are left out leave their empty lines
    return re.sub(r"\n{3,}", "\n\n", page).strip() + "\n"


def draw_counts(stats, path):
    """Draw how many samples each source gave to each split, and how many of them have each label.

    The same stats give the same bytes.

    Args:
        stats (`dict`): What stats.json holds.
        path (`Path`): The PNG to write.
    """
    with style.context("default"):
        # without the default of naming matplotlib's version
        draw_sheet(stats).savefig(path, dpi=150, format="png", metadata={"Software": None})


# inches: a bar and its gap, the title of a panel, its axis below it, the heading of a task
ROW, TITLE, AXIS, HEADING = 0.18, 0.3, 0.24, 0.4
MARGIN, COLUMN = 0.3, 4.4  # around everything, and a column of panels
NAME, NUMBER = 0.06, 0.5  # a letter of a label's name, and the room for a number behind a bar


def draw_sheet(stats):
    """The figure: sizes of splits on top, below them a column or more of panels with the labels of each source."""
    labels, sizes = label_tables(stats), list(counts_of(stats))
    sources = len({(config, source) for config, source, _, _ in sizes})
    top = 1.0 + ROW * 1.2 * sources
    heights = {
        config: HEADING + sum(TITLE + ROW * len(counts) + AXIS for counts in by_source.values())
        for config, by_source in labels.items()
    }
    columns = [[] for _ in range(3)]
    for config in sorted(heights, key=lambda config: -heights[config]):
        min(columns, key=lambda column: sum(heights[other] for other in column)).append(config)
    order = list(labels).index
    columns = sorted((sorted(column, key=order) for column in columns if column), key=lambda column: order(column[0]))
    height = top + 0.85 + max(sum(heights[config] for config in column) for column in columns)
    figure = Figure(figsize=(2 * MARGIN + 3 * COLUMN, height), facecolor="white")

    def axes(x, y, width, height):
        """Axes whose top left corner is x and y inches from the figure's."""
        whole_width, whole_height = figure.get_size_inches()
        place = (x / whole_width, 1 - (y + height) / whole_height, width / whole_width, height / whole_height)
        axes = figure.add_axes(place)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color("#999999")
        axes.tick_params(axis="y", length=0, labelsize=8)
        axes.tick_params(axis="x", which="both", labelsize=7, labelcolor="#555555", color="#999999")
        axes.grid(axis="x", color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
        return axes

    def text(x, y, content, **style):
        whole_width, whole_height = figure.get_size_inches()
        figure.text(x / whole_width, 1 - y / whole_height, content, va="baseline", **style)

    text(MARGIN, 0.4, "Samples of each source by split, on a logarithmic axis", size=12, weight="bold")
    draw_sizes(axes(MARGIN + 2.6, 0.6, 3 * COLUMN - 2.7, ROW * 1.2 * sources), sizes)
    text(MARGIN, top + 0.4, "Samples with each label, the splits end to end", size=12, weight="bold")
    for number, column in enumerate(columns):
        left, y = MARGIN + number * COLUMN, top + 0.45
        for config in column:
            y += HEADING
            text(left, y - 0.08, config.replace("_", " "), size=11, weight="bold", color="#555555")
            names = NAME * max(len(label) for counts in labels[config].values() for label in counts) + 0.1
            for source, counts in labels[config].items():
                text(left + names, y + TITLE - 0.07, source, size=9, weight="bold")
                width = COLUMN - names - NUMBER - 0.2
                draw_labels(axes(left + names, y + TITLE, width, ROW * len(counts)), counts)
                y += TITLE + ROW * len(counts) + AXIS
    return figure


def draw_sizes(axes, sizes):
    """Draw a row for each source and task, with a mark for each split; `sizes` is what `counts_of` yields."""
    rows = {}
    for config, source, _, _ in sizes:
        rows.setdefault((config, source), len(rows))
    for shift, split in zip((0, -0.15, 0.15), SPLITS, strict=True):  # equal splits do not hide each other
        marks = [(count["kept"], rows[config, source]) for config, source, name, count in sizes if name == split]
        numbers, places = [number or nan for number, _ in marks], [place + shift for _, place in marks]
        axes.scatter(numbers, places, s=30, marker=MARKERS[split], color=COLOURS[split], label=split, clip_on=False)
    for row in rows.values():
        axes.axhline(row, color="#eeeeee", linewidth=0.7, zorder=0)
    numbers = [count["kept"] for _, _, _, count in sizes if count["kept"]]
    axes.set_xscale("log")
    least = floor(log10(min(numbers)))
    axes.set_xlim(10**least, 10 ** max(ceil(log10(max(numbers))), least + 1))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(list(rows.values()), [f"{source}, {config.replace('_', ' ')}" for config, source in rows])
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1.0), ncols=3, frameon=False, fontsize=9, handletextpad=0.2)


def draw_labels(axes, counts):
    """Draw a bar for each label, its splits end to end, with their sum; `counts` is label → split → number."""
    ends = [0] * len(counts)
    for split in SPLITS:
        numbers = [by_split[split] for by_split in counts.values()]
        axes.barh(range(len(counts)), numbers, left=ends, height=0.72, color=COLOURS[split])
        ends = [end + number for end, number in zip(ends, numbers, strict=True)]
    for row, end in enumerate(ends):
        axes.annotate(f"{end:,}", (end, row), (3, 0), textcoords="offset points", va="center", size=7)
    axes.set_ylim(len(counts) - 0.5, -0.5)
    axes.set_yticks(range(len(counts)), list(counts))
    axes.set_xlim(0, max(*ends, 1))
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
