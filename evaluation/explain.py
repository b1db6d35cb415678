"""
Ask an EmoLLM about a picture or a clip, and draw what Multi-perspective Visual Projection (MVP) looked at.

python -m evaluation.explain --model models/EmoLLM --image picture.png --question "How does she feel?" \
    --labels happiness sadness anger fear --output explanation.png

Several files after --image are the frames of a clip, in the order of time. Without --labels the answer is generated.

How far to trust the figure: MVP is our own design. It looks before the question is read, so the maps of a picture are
the same for every question. Attention weights tell what was read, not why an answer came out: "Attention is not
Explanation" (Jain & Wallace 2019, arXiv 1902.10186). Take the figure as a hint, never as a proof of causes.
"""

import argparse
import math
import warnings
from bisect import bisect_right
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.textpath import text_to_path
from PIL import Image, ImageOps
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, BatchFeature, ProcessorMixin

from dataset_scripts.media import BROKEN
from modeling_emollm.emoprompt import EMOTION_TASKS, attach_emoprompt, encode_chats

from .scoring import answer_rows


SIDE = 480  # pixels of a view's longer side in the figure
FINEST = 14  # cells a side that an eye can follow; finer maps are averaged first
DARKEST = 4  # times an even share, where a holistic map is darkest
MOST_LABELS = 10  # that are drawn, the likeliest
INK, GREY, PALE, ACCENT = "#1f2933", "#64707d", "#ccd4dc", "#1f6fb2"
# After Paul Tol's "muted", told apart by the colour-blind too, and dark enough for white letters.
SLOT_COLOURS = ("#332288", "#c4586b", "#117733", "#8a7a1c", "#2a8c80", "#882255", "#3d83b8", "#a8489a")
HEAT = LinearSegmentedColormap.from_list("heat", ["#fff3c400", "#ffc94a90", "#e8602ccc", "#8c1430ee"])
STYLE = {"text.parse_math": False, "font.size": 9, "text.color": INK}  # a question about $5 and $6 has no formula
HEADING = {"weight": "bold", "fontsize": 10}
NOTE = {"color": GREY, "fontsize": 8}
MARGIN, GAP, BAR = 0.45, 0.15, 0.34  # inches
CAVEAT = (
    "MVP looks before the question is read. The maps show what was read, which is no proof of why it was answered so."
)


def read_picture(path: Path) -> Image.Image:
    """A picture upright and in RGB. Raises a `ValueError` if it is missing or can't be decoded."""
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except BROKEN as error:
        raise ValueError(f"--image {path} can't be read ({error}); give a whole picture, e.g. PNG or JPEG.") from error


def to_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


def model_views(inputs: BatchFeature, processor: ProcessorMixin, pictures: list[Image.Image]) -> list[torch.Tensor]:
    """What the model sees, each `(3, H, W)` in 0..1: the pictures as its processor crops, stretches or tiles them."""
    pixels, eye = inputs["pixel_values"].float().cpu(), processor.image_processor
    if pixels.ndim < 4 or pixels.shape[-3] != 3:  # loose patches of whole pictures, as Qwen's processors make them
        return [to_tensor(picture) for picture in pictures]
    pixels = pixels.flatten(0, -4)
    if eye.do_normalize:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (eye.image_mean, eye.image_std))
        pixels = pixels * std + mean
    return list(pixels.clamp(0, 1))


def make_ground(view: torch.Tensor, pictures: list[Image.Image]) -> torch.Tensor:
    """What a view's maps are drawn on, `(3, H, W)`: the picture that the view shows all of, else the view itself."""

    def distance(whole: torch.Tensor) -> float:
        return (F.interpolate(whole[None], view.shape[1:], mode="bicubic", antialias=True)[0] - view).abs().mean()

    nearest = min(map(to_tensor, pictures), key=distance)
    ground = nearest if distance(nearest) < 0.04 else view
    scale = SIDE / max(ground.shape)
    return F.interpolate(ground[None], scale_factor=scale, mode="bicubic", antialias=True)[0].clamp(0, 1)


def find_grid(number: int, view: torch.Tensor) -> tuple[int, int]:
    """
    Rows and columns of `number` visual tokens, in the proportion nearest to that of the view `(3, H, W)`.

    Raises:
        `ValueError`: if none is near: then the tokens are not one for each cell of the picture.
    """
    _, height, width = view.shape

    def distance(rows: int) -> float:
        return abs(math.log(number / rows**2 * height / width))

    rows = min((rows for rows in range(1, number + 1) if number % rows == 0), key=distance)
    if distance(rows) > math.log(2):
        raise ValueError(
            f"{number} visual tokens form no grid over a view of {width} x {height} pixels, so what was looked at "
            "can't be drawn; use a foundation with a token for each cell of a picture, e.g. LLaVA-1.5 or Gemma 3."
        )
    return rows, number // rows


def maps_by_view(seen: dict[str, torch.Tensor], views: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """For each view its `holistic` `(rows, columns)` and `content` `(K, rows, columns)`, scaled to a mean of 1, and
    `relation` `(K, K)`, as far as the model has them."""
    maps = []
    for i, (view, length) in enumerate(zip(views, seen["lengths"].int().tolist(), strict=True)):
        grid = find_grid(length, view)
        over = {name: seen[name][i, ..., :length] * length for name in ("holistic", "content") if name in seen}
        over = {name: value.unflatten(-1, grid) for name, value in over.items()}
        maps.append(over | {name: seen[name][i] for name in ("relation",) if name in seen})
    return maps


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
    room, shape = 0.09 * width, torch.tensor([2.0, 1.0])  # a tag is about twice as wide as high
    low, high = 0.6 * room * shape, torch.tensor([width, height]) - 0.6 * room * shape
    for _ in range(60):
        apart = (centres[:, None] - centres + ties[:, None] - ties) / shape
        distance = apart.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        centres = centres + (apart / distance * (room - distance).clamp(min=0) / 3).sum(1) * shape
        centres = centres.maximum(low).minimum(high)
    return centres


def draw_tag(axes: Axes, centre: tuple, text: str, colour: str, **style) -> None:
    box = {"boxstyle": "round,pad=0.25", "facecolor": colour, "edgecolor": "white", "linewidth": 0.7}
    style = {"ha": "center", "va": "center"} | style
    axes.text(*centre, text, color="white", fontsize=7, weight="bold", bbox=box, zorder=5, **style)


def draw_holistic(axes: Axes, ground: torch.Tensor, seen: dict) -> None:
    axes.imshow(enlarge(seen["holistic"], ground), cmap=HEAT, vmin=0, vmax=DARKEST)


def draw_content(axes: Axes, ground: torch.Tensor, seen: dict) -> None:
    """Every place in the colour of the slot that won most of it, and an outline around what a slot won."""
    shares, centres = slot_shares(seen["content"]), slot_centres(seen["content"], ground).tolist()
    won = enlarge(seen["content"] * shares[:, None, None], ground)
    most, winner = won.max(0)
    colours = torch.tensor([to_rgb(colour) for colour in SLOT_COLOURS])[winner]
    axes.imshow(torch.cat([colours, 0.55 * most.clamp(max=1)[..., None]], dim=-1))
    for slot, colour in enumerate(SLOT_COLOURS):
        if (winner == slot).any():
            lead = won[slot] - torch.cat([won[:slot], won[slot + 1 :]]).amax(0)
            axes.contour(lead, levels=[0], colors=[colour], linewidths=1.2)
        draw_tag(axes, centres[slot], f"{'ABCDEFGH'[slot]} {shares[slot]:.0%}", colour)


def draw_relation(axes: Axes, ground: torch.Tensor, seen: dict) -> None:
    """As many arrows as there are slots: the strongest."""
    edges, centres = seen["relation"], slot_centres(seen["content"], ground).tolist()
    for edge in edges.flatten().topk(len(edges)).indices.tolist():
        receiver, sender = divmod(edge, len(edges))
        arrow = {
            "arrowstyle": "-|>,head_length=0.5,head_width=0.22",
            "connectionstyle": "arc3,rad=0.2",
            "color": SLOT_COLOURS[sender],
            "linewidth": 0.5 + 2 * edges[receiver, sender].item(),
            "shrinkA": 6,
            "shrinkB": 8,
        }
        drawn = axes.annotate("", centres[receiver], centres[sender], arrowprops=arrow, zorder=4)
        drawn.arrow_patch.set_clip_path(axes.patch)  # an arc along the edge would bulge out of the picture
    for centre, letter, colour in zip(centres, "ABCDEFGH", SLOT_COLOURS, strict=True):
        draw_tag(axes, centre, letter, colour)


PANELS = {
    "holistic": (draw_holistic, f"where the mood is read from, darkest at {DARKEST} times an even share"),
    "content": (draw_content, "what each slot won, and its share of the picture"),
    "relation": (draw_relation, "from a slot to those that listen to it, the strongest edges"),
}


def find_fonts(text: str) -> tuple[list[str], str]:
    """Font families that can write the text, as few as can be, and the characters that none has."""
    families, missing = [], {character for character in text if not character.isspace()}
    fonts = [font for font in fontManager.ttflist if not font.name.startswith("Last Resort")]
    for font in sorted(fonts, key=lambda font: font.name != "DejaVu Sans"):
        has = missing & set(map(chr, get_font(font.fname).get_charmap()))
        if has or not families:
            families.append(font.name)
        missing -= has
        if not missing:
            break
    return families, "".join(sorted(missing))


def measure(text: str, **font) -> float:
    """Width in inches."""
    return text_to_path.get_text_width_height_descent(text, FontProperties(**font), ismath=False)[0] / 72


def wrap(text: str, width: float, **font) -> list[str]:
    """Lines of at most `width` inches, broken between words, or anywhere in a script without spaces."""
    lines = []
    for rest in filter(None, map(str.strip, text.splitlines())):
        while rest:
            end = max(1, bisect_right(range(1, len(rest) + 1), width, key=lambda n: measure(rest[:n], **font)))
            space = rest.rfind(" ", 0, end + 1)
            if end < len(rest) and space > end / 2:
                end = space
            lines.append(rest[:end].strip())
            rest = rest[end:].strip()
    return lines


def place(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes by their left top corner and size, in inches from the left top corner of the figure."""
    whole, tall = figure.get_size_inches()
    return figure.add_axes((x / whole, 1 - (y + height) / tall, width / whole, height / tall))


def write(figure: Figure, x: float, y: float, lines: list[str], fontsize: float = 9, **style) -> None:
    """Lines of text by their left top corner, likewise; line by line, so that all baselines are where they should."""
    whole, tall = figure.get_size_inches()
    for i, line in enumerate(lines):
        baseline = y + (1 + 1.45 * i) * fontsize / 72
        figure.text(x / whole, 1 - baseline / tall, line, fontsize=fontsize, **style)


def draw_bars(
    figure: Figure, x: float, y: float, width: float, bars: list, chosen: str | None, form: str, limit: float
):
    """Horizontal `bars` `(name, value)` with their values behind them, from 0 to `limit` or on both sides of it."""
    names = [wrap(name, width / 2, fontsize=9) for name, _ in bars]
    names = [[*lines[:1], lines[1] + " …" * (len(lines) > 2)] if lines[1:] else lines for lines in names]
    indent = max(measure(line, fontsize=9) for lines in names for line in lines) + 0.1
    axes = place(figure, x + indent, y, width - indent, BAR * len(bars))
    low = -limit if min(value for _, value in bars) < 0 else 0
    for row, (name, value) in enumerate(bars):
        side = 1 if value >= 0 else -1
        axes.barh(row, value, height=0.66, color=ACCENT if name == chosen else PALE)
        text_x = value + side * 0.02 * (limit - low)
        axes.text(text_x, row, form.format(value), va="center", ha="left" if side > 0 else "right", fontsize=8)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set(xlim=(low, limit), ylim=(len(bars) - 0.5, -0.5), xticks=[])
    axes.set_yticks(range(len(bars)), ["\n".join(lines) for lines in names])
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)


def draw_temporal(figure: Figure, x: float, y: float, side: float, matrix: torch.Tensor, unit: str) -> None:
    """How much each of I frames (a row) looks at each (a column), `(I, I)`."""
    axes = place(figure, x + 0.4, y, side, side)
    darkest = max(2 / len(matrix), matrix.max().item())  # even attention is half as dark
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=darkest)
    axes.set_xlabel(f"{unit} looked at", color=GREY, fontsize=8)
    axes.set_ylabel(f"{unit} that looks", color=GREY, fontsize=8)
    numbers = [str(i + 1) for i in range(len(matrix))]
    axes.set_xticks(range(len(matrix)), numbers)
    axes.set_yticks(range(len(matrix)), numbers)
    axes.tick_params(length=0, labelcolor=GREY, labelsize=8)
    axes.spines[:].set_visible(False)
    if side / len(matrix) > 0.25:  # inches that a number needs
        for (i, j), share in np.ndenumerate(matrix.numpy()):
            colour = "white" if share > 0.6 * darkest else INK
            axes.text(j, i, f"{share:.0%}".rstrip("%"), ha="center", va="center", fontsize=8, color=colour)


@rc_context(STYLE)
def make_figure(
    question: str, record: dict, grounds: list, seen: list[dict], gates: dict, temporal: torch.Tensor | None, unit: str
) -> Figure:
    """
    Args:
        question (`str`): as it was asked.
        record (`dict`): the answer, as in a predictions file.
        grounds (`list[torch.Tensor]`): what is drawn on, one `(3, H, W)` for each of I views.
        seen (`list[dict[str, torch.Tensor]]`): as [`maps_by_view`] makes it.
        gates (`dict[str, float]`): the gate of each perspective that the model has.
        temporal (`torch.Tensor` of shape `(I, K, I)`, *optional*): attention between the views.
        unit (`str`): what a view is, a frame or a part.

    Returns:
        `matplotlib.figure.Figure`: a row for each view, a column for each perspective, and beneath them charts.
    """
    number, names = len(grounds), ["picture", *(name for name in PANELS if name in gates)]
    blocks = 1 if number <= 4 else 2  # side by side, so that a long clip makes no endless scroll
    cell = min(3.0, max(2.0, 13 / blocks / len(names)))
    tall = cell * min(1.4, max(height / width for _, height, width in (ground.shape for ground in grounds)))
    width = max(10.0, 2 * MARGIN + blocks * (len(names) * (cell + GAP) + GAP) - 2 * GAP)
    column = (width - 2 * MARGIN + GAP) / 4  # of the charts

    answer = record["prediction"] or ("none of the labels" if record["choices"] else record["text"])
    bars = sorted(zip(record["choices"], record["probabilities"] or [], strict=False), key=lambda bar: -bar[1])
    if bars:
        answer += f" · {bars[0][1]:.0%}"
        rest = [value for _, value in bars[MOST_LABELS:]]
        bars = bars[:MOST_LABELS] + ([(f"{len(rest)} others together", sum(rest))] if rest else [])
    question = wrap(question, width - 2 * MARGIN, fontsize=12, weight="bold")
    answer = wrap(answer, width - 2 * MARGIN, fontsize=15)
    text = wrap(record["text"] or "", 2 * column - 3 * GAP, fontsize=9)[:25] if record["choices"] else []
    side = min(column - 0.5, max(1.4, 0.3 * number)) if number > 1 and temporal is not None else 0

    top = 0.55 + 0.242 * len(question) + 0.302 * len(answer)
    charts_top = top + 0.75 + math.ceil(number / blocks) * (tall + GAP) + 0.3
    height = (
        charts_top + 0.55 + max(BAR * max(len(bars), len(gates)), 0.18 * len(text), side + 0.4 * (side > 0)) + 0.75
    )
    figure = Figure(figsize=(width, height), facecolor="white")
    write(figure, MARGIN, 0.4, question, fontsize=12, weight="bold")
    write(figure, MARGIN, 0.45 + 0.242 * len(question), answer, fontsize=15, color=ACCENT)
    write(figure, MARGIN, height - 0.4, [CAVEAT], **NOTE)

    def head(x: float, y: float, name: str, note: str, room: float) -> None:
        write(figure, x, y, [name], **HEADING)
        write(figure, x, y + 0.22, wrap(note, room, fontsize=8), **NOTE)

    for i, (ground, maps) in enumerate(zip(grounds, seen, strict=True)):
        block, row = divmod(i, math.ceil(number / blocks))
        for j, name in enumerate(names):
            draw, note = PANELS.get(name, (None, "as the model sees it"))
            x = MARGIN + block * GAP + (block * len(names) + j) * (cell + GAP)
            if row == 0:
                head(x, top, name, note, cell)
            axes = place(figure, x, top + 0.75 + row * (tall + GAP), cell, tall)
            axes.set_label(f"{name} {i + 1}")
            axes.set_axis_off()
            axes.set_anchor("NW")
            if draw:
                grey = torch.einsum("chw,c->hw", ground, torch.tensor([0.299, 0.587, 0.114]))
                axes.imshow(0.45 + 0.55 * grey, cmap="gray", vmin=0, vmax=1)
                draw(axes, ground, maps)
            else:
                axes.imshow(ground.permute(1, 2, 0))
                if number > 1:
                    draw_tag(axes, (0.03, 0.97), f"{unit} {i + 1}", INK, transform=axes.transAxes, ha="left", va="top")

    x, y = MARGIN, charts_top + 0.55
    if bars:
        head(x, charts_top, "answer", "how likely each label is", column)
        draw_bars(figure, x, y, 2 * column - 3 * GAP, bars, record["prediction"], "{:.0%}", 1.1)
    elif text:
        head(x, charts_top, "answer", "as it was generated", column)
        write(figure, x, y, text)
    x += 2 * column * bool(bars or text)
    is_open = any(gates.values())
    head(x, charts_top, "gates", "how much of each is let through" if is_open else "closed: MVP adds nothing", column)
    draw_bars(
        figure, x, y, column - 3 * GAP, list(gates.items()), None, "{:+.3f}", 1.4 * max(0.1, *map(abs, gates.values()))
    )
    if temporal is not None:
        x += column
        head(
            x,
            charts_top,
            "temporal",
            f"what looks at what, in %" if side else "one picture: nothing to compare",
            column,
        )
        if side:
            draw_temporal(figure, x, y, side, temporal.mean(1), unit)
    return figure


def main(args: argparse.Namespace) -> None:
    if args.output.suffix != ".png":
        raise ValueError(f"--output {args.output} must be a .png file.")
    pictures = [read_picture(path) for path in args.image]
    model_type = AutoConfig.from_pretrained(args.model, trust_remote_code=True).model_type
    if model_type != "emollm":
        raise ValueError(
            f"{args.model} is no EmoLLM but {model_type}, which has no perspectives to show; upgrade it with "
            "EmoLLMForConditionalGeneration.from_foundation and train that."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForImageTextToText.from_pretrained(args.model, trust_remote_code=True).to(device).eval()
    processor = attach_emoprompt(AutoProcessor.from_pretrained(args.model, trust_remote_code=True))

    content = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": args.question}]
    row = {
        "id": args.question,
        "source": None,
        "task": args.task,
        "setting": "closed" if args.labels else "open",
        "images": pictures,
        "choices": args.labels,
        "answer": None,
        "label_distribution": [],
        "messages": [{"role": "user", "content": content}],
    }
    (record,) = answer_rows(model, processor, [row], None if args.emoprompt == "none" else args.emoprompt)
    inputs = encode_chats(processor, [row["messages"]], [pictures]).to(model.device, model.dtype)
    with torch.inference_mode():
        seen = model(**inputs, output_perspectives=True).perspectives["image"]
    seen = {name: value.float().cpu() for name, value in seen.items()}
    views = model_views(inputs, processor, pictures)
    if len(views) != len(seen["lengths"]):
        raise ValueError(
            f"{args.model} cuts {len(pictures)} pictures into {len(views)} views but joins their tokens to "
            f"{len(seen['lengths'])} pictures, so what was looked at can't be drawn; use a foundation with a token "
            "for each cell of a picture, e.g. LLaVA-1.5 or Gemma 3."
        )
    gates = dict(zip(model.config.perspectives, seen["gates"].tolist(), strict=True))
    fonts, missing = find_fonts("".join([args.question, *args.labels, record["text"] or "", CAVEAT]))
    if missing:
        print(f"No font here has {missing}: boxes stand for them. Install one that does, e.g. of the Noto family.")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"font.family": fonts}), warnings.catch_warnings(action="ignore", category=UserWarning):
        make_figure(
            args.question,
            record,
            [make_ground(view, pictures) for view in views],
            maps_by_view(seen, views),
            gates,
            seen.get("temporal"),
            unit="frame" if len(views) == len(pictures) else "part",
        ).savefig(args.output, dpi=160)
    print(f"Answer: {record['prediction'] or record['text']}")
    for label, share in zip(args.labels, record["probabilities"] or [], strict=False):
        print(f"{share:6.1%}  {label}")
    print(f"Drawn in {args.output}")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of an EmoLLM; its own code is trusted")
    parser.add_argument("--image", required=True, nargs="+", type=Path, help="a picture, or the frames of a clip")
    parser.add_argument("--question", required=True)
    parser.add_argument("--labels", nargs="+", default=[], help="answers to choose from")
    parser.add_argument("--task", default="emotion_recognition", choices=EMOTION_TASKS, help="for EmoPrompt")
    parser.add_argument("--emoprompt", default="none", choices=["none", "answer", "reason"])
    parser.add_argument("--output", required=True, type=Path, help="the figure, .png")
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
