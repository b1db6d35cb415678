"""The figure of `evaluation.explain`: what each perspective of MVP looked at, its gates, and the answer."""

import math
import re
from bisect import bisect_right
from unicodedata import category

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.textpath import text_to_path
from torch.nn import functional as F


FINEST = 14  # cells a side that an eye can follow; finer maps are averaged first
MOST_LABELS = 8  # that are drawn one by one, the likeliest
INK, GREY, PALE, ACCENT = "#1f2933", "#64707d", "#ccd4dc", "#1f6fb2"
# Found by search: 24 CIE76 steps or more apart, for the colour-blind too, and dark enough for white letters.
SLOTS = dict(zip("ABCDEFGH", "#5e2fc8 #c37c55 #365a0d #b6820d #11a08e #90274a #4980d8 #872d85".split(), strict=True))
HEAT = LinearSegmentedColormap.from_list("heat", ["#fff3c400", "#ffc94a70", "#e8602ccc", "#8c1430ee"])
STYLE = {"text.parse_math": False, "font.size": 9, "text.color": INK}  # a question about $5 and $6 has no formula
NOTE = {"color": GREY, "size": 8}
MARGIN, GAP, BAR = 0.45, 0.15, 0.34  # inches
CAVEAT = (
    "MVP looks before the question is read. The maps show what was read, which is no proof of why it was answered so."
)


def enlarge(grid: torch.Tensor, ground: torch.Tensor) -> torch.Tensor:
    """Attention `(..., rows, columns)` as smooth maps `(..., H, W)` over the ground `(3, H, W)`."""
    coarse = F.adaptive_avg_pool2d(grid.view(1, -1, *grid.shape[-2:]), [min(n, FINEST) for n in grid.shape[-2:]])
    smooth = F.interpolate(coarse, ground.shape[1:], mode="bicubic").clamp(min=0)
    return smooth.view(*grid.shape[:-2], *ground.shape[1:])


def slot_shares(attention: torch.Tensor) -> torch.Tensor:
    """
    The share `(K,)` of the picture that each slot won. Slots compete with weights that sum to 1 at every token, and
    only then is `attention` `(K, rows, columns)` scaled to a mean of 1; the shares are what undoes this scaling (the
    most even ones that do, where there are fewer tokens than slots).
    """
    tokens = attention.flatten(1).T.double()
    ones = torch.ones(len(tokens), 1, dtype=torch.double)
    scales = torch.linalg.lstsq(tokens, ones, rcond=1e-3, driver="gelsd").solution[:, 0].clamp(min=0)
    return (scales / scales.sum()).float()


def slot_centres(attention: torch.Tensor, ground: torch.Tensor) -> torch.Tensor:
    """Where the slots look most, x and y `(K, 2)`, then moved apart as far as needed to hide none."""
    _, height, width = ground.shape
    peaks = enlarge(attention, ground).flatten(1).argmax(1)
    centres = torch.stack([peaks % width, peaks // width], dim=1).float()
    angles = torch.arange(len(centres)) * 2.4
    ties = torch.stack([angles.cos(), angles.sin()], dim=1)  # a way apart for two that are at the same place
    room, shape = 0.1 * width, torch.tensor([2.0, 1.0])  # a tag is about twice as wide as high
    low, high = 0.6 * room * shape, torch.tensor([width, height]) - 0.6 * room * shape
    for _ in range(60):
        apart = (centres[:, None] - centres + ties[:, None] - ties) / shape
        distance = apart.abs().amax(-1, keepdim=True).clamp(min=1e-6)
        centres = centres + (apart / distance * (room - distance).clamp(min=0) / 3).sum(1) * shape
        centres = centres.maximum(low).minimum(high)
    return centres


def draw_tag(axes: Axes, place: tuple, text: str, colour: str, **style) -> None:
    box = {"boxstyle": "round,pad=0.25", "facecolor": colour, "edgecolor": "white", "linewidth": 0.7}
    style = {"ha": "center", "va": "center"} | style
    axes.text(*place, text, color="white", size=6.5, weight="bold", bbox=box, zorder=5, **style)


def draw_holistic(axes: Axes, ground: torch.Tensor, maps: dict) -> None:
    heat = enlarge(maps["holistic"], ground).numpy()
    # Four times an even share or more is darkest; even weights are an even light tint, not noise blown up.
    axes.imshow(heat, cmap=HEAT, vmin=0, vmax=max(4, heat.max()))


def draw_content(axes: Axes, ground: torch.Tensor, maps: dict) -> None:
    """Every place in the colour of the slot that won most of it, outlined, and a tag where a slot looks most."""
    shares, centres = slot_shares(maps["content"]), slot_centres(maps["content"], ground).tolist()
    won = enlarge(maps["content"] * shares[:, None, None], ground)
    most, winner = won.max(0)
    colours = torch.tensor([to_rgb(colour) for colour in SLOTS.values()])[winner]
    axes.imshow(torch.cat([colours, 0.5 * most.clamp(max=1)[..., None]], dim=-1).numpy())
    for slot, (letter, colour) in enumerate(SLOTS.items()):
        if (winner == slot).any():
            lead = won[slot] - torch.cat([won[:slot], won[slot + 1 :]]).amax(0)
            axes.contour(lead.numpy(), levels=[0], colors=[colour], linewidths=1.2)
        draw_tag(axes, centres[slot], f"{letter} {shares[slot]:.0%}", colour)


def draw_relation(axes: Axes, ground: torch.Tensor, maps: dict) -> None:
    """As many arrows as there are slots: the strongest."""
    edges, centres = maps["relation"], slot_centres(maps["content"], ground).tolist()
    for edge in edges.flatten().topk(len(edges)).indices.tolist():
        receiver, sender = divmod(edge, len(edges))
        arrow = {
            "arrowstyle": "-|>,head_length=0.5,head_width=0.22",
            "connectionstyle": "arc3,rad=0.2",
            "color": list(SLOTS.values())[sender],
            "linewidth": 0.5 + 2 * edges[receiver, sender].item(),
            "shrinkA": 6,
            "shrinkB": 8,
        }
        drawn = axes.annotate("", centres[receiver], centres[sender], arrowprops=arrow, zorder=4)
        drawn.arrow_patch.set_clip_path(axes.patch)  # an arc along the edge would bulge out of the picture
    for centre, (letter, colour) in zip(centres, SLOTS.items(), strict=True):
        draw_tag(axes, centre, letter, colour)


PANELS = {
    "picture": (None, "as the model sees it"),
    "holistic": (draw_holistic, "where the mood is read from"),
    "content": (draw_content, "where slots look, their shares"),
    "relation": (draw_relation, "from slots to their listeners"),
}


def find_fonts(text: str) -> tuple[list[str], str]:
    """DejaVu Sans and the installed fonts that have what it lacks of the text, and the characters that none has."""
    unseen = ("Cc", "Cf", "Zs")  # control and format characters, and spaces
    families, missing = [], {character for character in text if category(character) not in unseen}
    for font in sorted(fontManager.ttflist, key=lambda font: font.name != "DejaVu Sans"):
        if missing and not font.name.startswith("Last Resort"):  # which has a box for everything
            charmap = get_font(font.fname).get_charmap()
            if has := {character for character in missing if ord(character) in charmap}:
                families.append(font.name)
                missing -= has
    return families, "".join(sorted(missing))


def measure(text: str, **font) -> float:
    """Width in inches."""
    return text_to_path.get_text_width_height_descent(text, FontProperties(**font), ismath=False)[0] / 72


def wrap(text: str, width: float, **font) -> list[str]:
    """Lines of at most `width` inches, broken between words, or anywhere in a script without spaces."""
    lines = []
    for line in text.splitlines():
        rest = re.sub(r"[\x00-\x1f\x7f]+", " ", line).strip()
        while rest:
            end = max(1, bisect_right(range(1, len(rest) + 1), width, key=lambda n: measure(rest[:n], **font)))
            space = rest.rfind(" ", 0, end + 1)
            if end < len(rest) and space > end / 2:
                end = space
            lines.append(rest[:end].strip())
            rest = rest[end:].strip()
    return lines


def write(figure: Figure, x: float, y: float, lines: list[str], **style) -> float:
    """Lines of text from their left top corner, in inches from that of the figure; returns where they end."""
    points = style.setdefault("size", 9)
    for line in lines:  # one by one, so that all baselines are where they should be
        y += 1.45 * points / 72
        figure.text(x, figure.get_figheight() - y, line, transform=figure.dpi_scale_trans, **style)
    return y


def place(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes likewise."""
    whole, tall = figure.get_size_inches()
    return figure.add_axes((x / whole, 1 - (y + height) / tall, width / whole, height / tall))


def draw_bars(figure: Figure, x: float, y: float, width: float, bars: list, form: str, limit: float) -> None:
    """Horizontal `bars` `(name, value, colour)` with their values, from 0 to `limit` or on both sides of it."""
    names, values, colours = zip(*bars, strict=True)
    lines = [wrap(name, width / 2, size=9) for name in names]
    indent = max(measure(line, size=9) for two in lines for line in two[:2]) + 0.15
    axes = place(figure, x + indent, y, width - indent, BAR * len(bars))
    axes.bar_label(axes.barh(range(len(bars)), values, height=0.66, color=colours), fmt=form, padding=4, size=8)
    axes.set_yticks(range(len(bars)), ["\n".join(two[:2]) + " …" * (len(two) > 2) for two in lines])
    axes.set(xlim=(-limit if min(values) < 0 else 0, limit), ylim=(len(bars) - 0.5, -0.5), xticks=[])
    axes.tick_params(length=0, labelcolor=INK)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.spines[:].set_visible(False)


def draw_temporal(figure: Figure, x: float, y: float, side: float, matrix: torch.Tensor, unit: str) -> None:
    """How much each of I frames (a row) looks at each (a column), `(I, I)`."""
    axes = place(figure, x + 0.4, y, side, side)
    darkest = max(2 / len(matrix), matrix.max().item())  # even attention is half as dark
    axes.imshow(matrix.numpy(), cmap="Blues", vmin=0, vmax=darkest)
    axes.set_xlabel(f"{unit} looked at", **NOTE)
    axes.set_ylabel(f"{unit} that looks", **NOTE)
    ticks = {"ticks": range(len(matrix)), "labels": range(1, len(matrix) + 1)}
    axes.set_xticks(**ticks)
    axes.set_yticks(**ticks)
    axes.tick_params(length=0, labelcolor=GREY, labelsize=8)
    axes.spines[:].set_visible(False)
    if side / len(matrix) > 0.25:  # inches that a number needs
        for (i, j), share in np.ndenumerate(matrix.numpy()):
            colour = "white" if share > 0.6 * darkest else INK
            axes.text(j, i, f"{100 * share:.0f}", ha="center", va="center", size=8, color=colour)


@rc_context(STYLE)
def make_figure(
    question: str,
    record: dict,
    grounds: list,
    maps: list[dict],
    gates: dict,
    temporal: torch.Tensor | None,
    unit: str,
    trained: bool = True,
) -> Figure:
    """
    Args:
        question (`str`): as it was asked.
        record (`dict`): the answer, as in a predictions file.
        grounds (`list[torch.Tensor]`): what is drawn on, one `(3, H, W)` for each of I views.
        maps (`list[dict[str, torch.Tensor]]`): as [`maps_by_view`] makes them.
        gates (`dict[str, float]`): the gate of each perspective that the model has.
        temporal (`torch.Tensor` of shape `(I, K, I)`, *optional*): attention between the views.
        unit (`str`): what a view is, a frame or a part.
        trained (`bool`, *optional*, defaults to `True`): whether MVP adds anything to what is looked at.

    Returns:
        `matplotlib.figure.Figure`: a row for each view, a column for each perspective, and beneath them charts.
    """
    number, names = len(grounds), [name for name in PANELS if name in ("picture", *gates)]
    blocks = min(number, max(4 // len(names), 1 + (number > 4)))  # of rows, side by side
    rows = math.ceil(number / blocks)
    ratios = [ground.shape[1] / ground.shape[2] for ground in grounds]
    cell = max(2.0, min(13 / blocks / len(names), 4.5, 4.5 / max(ratios)))
    tall = [min(4.5, cell * max(ratios[row::rows])) for row in range(rows)]
    width = max(10.0, 2 * MARGIN + blocks * len(names) * (cell + GAP) - GAP)
    column = (width - 2 * MARGIN + GAP) / 4  # of the charts: the answer takes two
    side = min(column - 0.5, max(1.4, 0.3 * number)) if number > 1 and temporal is not None else 0

    answer = record["prediction"] or ("none of the labels" if record["choices"] else record["text"])
    bars = sorted(zip(record["choices"], record["probabilities"] or [], strict=False), key=lambda bar: -bar[1])
    if bars:
        answer += f" · {bars[0][1]:.0%}"
    if others := bars[MOST_LABELS:]:
        bars = [*bars[:MOST_LABELS], (f"{len(others)} others together", sum(share for _, share in others))]
    bars = [(name, share, ACCENT if name == record["prediction"] else PALE) for name, share in bars]
    heading = [
        (wrap(question, width - 2 * MARGIN, size=12, weight="bold"), {"size": 12, "weight": "bold"}),
        (wrap(answer, width - 2 * MARGIN, size=15), {"size": 15, "color": ACCENT}),
        (wrap(record["text"] or "", width - 2 * MARGIN) if record["choices"] else [], {"size": 9}),
    ]
    top = 0.65 + sum(len(lines) * 1.45 * style["size"] / 72 for lines, style in heading)
    charts = top + 0.9 + sum(tall) + rows * GAP
    height = charts + 1.35 + max(BAR * max(len(bars), len(gates)), side + 0.4)
    figure = Figure(figsize=(width, height), facecolor="white")

    def head(x: float, y: float, name: str, note: str) -> None:
        write(figure, x, write(figure, x, y, [name], size=10, weight="bold"), [note], **NOTE)

    y = 0.35
    for lines, style in heading:
        y = write(figure, MARGIN, y, lines, **style)
    for i, (ground, over) in enumerate(zip(grounds, maps, strict=True)):
        block, row = divmod(i, rows)
        for j, name in enumerate(names):
            draw, note = PANELS[name]
            x = MARGIN + (block * len(names) + j) * (cell + GAP)
            if row == 0:
                head(x, top, name, note)
            axes = place(figure, x, top + 0.6 + sum(tall[:row]) + row * GAP, cell, tall[row])
            axes.set(label=f"{name} {i + 1}", anchor="NW")
            axes.set_axis_off()
            if draw:
                grey = torch.einsum("chw,c->hw", ground, torch.tensor([0.299, 0.587, 0.114]))
                axes.imshow(0.45 + 0.55 * grey.numpy(), cmap="gray", vmin=0, vmax=1)
                draw(axes, ground, over)
            else:
                axes.imshow(ground.permute(1, 2, 0).numpy())
                if number > 1:
                    where = {"transform": axes.transAxes, "ha": "left", "va": "top"}
                    draw_tag(axes, (0.03, 0.97), f"{unit} {i + 1}", INK, **where)

    x, y = MARGIN, charts + 0.55
    if bars:
        head(x, charts, "answer", "how likely each label is")
        draw_bars(figure, x, y, 2 * column - 3 * GAP, bars, "{:.0%}", 1.1)
        x += 2 * column
    head(x, charts, "gates", "how much is let through" if trained else "untrained: MVP adds nothing")
    bars = [(name, value, PALE) for name, value in gates.items()]
    draw_bars(figure, x, y, column - 3 * GAP, bars, "{:+.3f}", 1.4 * max(0.1, *map(abs, gates.values())))
    if temporal is not None:
        head(x + column, charts, "temporal", "what looks at what, in %" if side else "one picture: nothing to compare")
    if side:
        draw_temporal(figure, x + column, y, side, temporal.mean(1), unit)
    write(figure, MARGIN, height - 0.5, [CAVEAT], **NOTE)
    return figure
