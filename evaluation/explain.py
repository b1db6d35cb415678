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
import os
import textwrap
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, BatchFeature, ProcessorMixin

from dataset_scripts.media import BROKEN
from modeling_emollm.emoprompt import EMOTION_TASKS, attach_emoprompt, encode_chats

from .scoring import answer_rows


SIDE = 320  # pixels of a view's longer side in the figure
FINEST = 14  # cells a side that an eye can follow; finer maps are averaged first
INK, GREY, PALE, ACCENT = "#1f2933", "#6b7785", "#ccd4dc", "#2f6fb5"
SLOT_COLOURS = ("#2f6fb5", "#e08a2e", "#3f9c6d", "#b3508f", "#6b5bb5", "#c4453c", "#2196a3", "#8a6d3b")
HEAT = LinearSegmentedColormap.from_list("heat", ["#ffe08a00", "#ffcf6e50", "#ea6a31c8", "#9b1b30f0"])
STYLE = {
    "text.parse_math": False,  # a question about $5 and $6 has no formula
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": PALE,
    "xtick.color": GREY,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
HEADING = {"weight": "bold", "fontsize": 10}
NOTE = {"color": GREY, "fontsize": 8}
LEFT = 0.45  # inches of margin
PANELS = {
    "holistic": "where the mood\nis read from",
    "content": "where slots look,\nand their shares",
    "relation": "from a slot to those\nthat listen to it",
}
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


def model_views(inputs: BatchFeature, processor: ProcessorMixin, pictures: list[Image.Image]) -> list[torch.Tensor]:
    """What the model sees, each `(3, H, W)` in 0..1: the pictures as its processor crops, stretches or tiles them."""
    pixels, eye = inputs["pixel_values"].float().cpu(), processor.image_processor
    if pixels.shape[-3:-2] != (3,):  # loose patches of whole pictures, as Qwen's processors make them
        return [to_tensor(picture) for picture in pictures]
    pixels = pixels.flatten(0, -4)
    if eye.do_normalize:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (eye.image_mean, eye.image_std))
        pixels = pixels * std + mean
    return list(pixels.clamp(0, 1))


def to_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


def make_ground(view: torch.Tensor, picture: Image.Image | None) -> torch.Tensor:
    """What a view's maps are drawn on, `(3, H, W)`: the picture itself if the view is all of it, else the view."""
    if picture is not None:
        whole = to_tensor(picture)
        same = F.interpolate(whole[None], view.shape[1:], mode="bicubic", antialias=True)[0]
        view = whole if (same - view).abs().mean() < 0.04 else view
    scale = SIDE / max(view.shape)
    return F.interpolate(view[None], scale_factor=scale, mode="bicubic", antialias=True)[0].clamp(0, 1)


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


def enlarge(grid: torch.Tensor, ground: torch.Tensor) -> torch.Tensor:
    """Attention `(rows, columns)` as a smooth map `(H, W)` over the ground `(3, H, W)`."""
    coarse = F.adaptive_avg_pool2d(grid[None, None], [min(size, FINEST) for size in grid.shape])
    return F.interpolate(coarse, ground.shape[1:], mode="bicubic")[0, 0].clamp(min=0)


def slot_shares(attention: torch.Tensor) -> torch.Tensor:
    """
    The share `(K,)` of the picture that each slot won. Slots compete with weights that sum to 1 at every token, and
    only then is `attention` `(K, rows, columns)` scaled to a mean of 1; the shares are what undoes this scaling (the
    most even ones that do, where there are fewer tokens than slots).
    """
    tokens = attention.flatten(1).T.double()
    ones = torch.ones(len(tokens), 1, dtype=torch.double)
    scales = torch.linalg.lstsq(tokens, ones, rcond=1e-3, driver="gelsd").solution[:, 0].clamp(min=0)
    return scales / scales.sum()


def slot_centres(attention: torch.Tensor, ground: torch.Tensor) -> torch.Tensor:
    """Where the slots look most, x and y `(K, 2)`, then moved apart as far as needed to hide none."""
    _, height, width = ground.shape
    peaks = torch.stack([enlarge(grid, ground).argmax() for grid in attention])
    centres = torch.stack([peaks % width, peaks // width], dim=1).float()
    angles = torch.arange(len(centres)) * 2.4
    ties = torch.stack([angles.cos(), angles.sin()], dim=1)  # a way apart for two that are at the same place
    room, shape = 0.08 * width, torch.tensor([2.0, 1.0])  # a tag is about twice as wide as high
    low, high = 0.6 * room * shape, torch.tensor([width, height]) - 0.6 * room * shape
    for _ in range(60):
        apart = (centres[:, None] - centres + ties[:, None] - ties) / shape
        distance = apart.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        centres = centres + (apart / distance * (room - distance).clamp(min=0) / 3).sum(1) * shape
        centres = centres.maximum(low).minimum(high)
    return centres


def draw_holistic(axes: Axes, ground: torch.Tensor, weights: torch.Tensor) -> None:
    heat = enlarge(weights, ground).numpy()
    # Three times an even share or more is deep red; even weights are an even light tint, not noise blown up.
    axes.imshow(heat, cmap=HEAT, vmin=0, vmax=max(3, heat.max()))


def draw_tag(axes: Axes, centre: torch.Tensor, text: str, slot: int) -> None:
    box = {"boxstyle": "round,pad=0.28", "facecolor": SLOT_COLOURS[slot], "edgecolor": "white", "linewidth": 0.8}
    size = min(7, 2.9 * axes.get_position().width * axes.get_figure().get_figwidth())
    axes.text(*centre.tolist(), text, color="white", fontsize=size, ha="center", va="center", bbox=box, zorder=5)


def draw_content(axes: Axes, ground: torch.Tensor, attention: torch.Tensor) -> None:
    shares, centres = slot_shares(attention), slot_centres(attention, ground)
    for slot, grid in enumerate(attention):
        heat, colour = enlarge(grid, ground).numpy(), SLOT_COLOURS[slot]
        half = (1 + heat.max()) / 2  # way from an even share to the peak
        if half > 1.05:  # a slot that looks everywhere alike has no outline
            axes.contourf(heat, levels=[half, 2 * half], colors=[colour], alpha=0.18)
            axes.contour(heat, levels=[half], colors=[colour], linewidths=0.7 + 3 * min(shares[slot].item(), 0.5))
        draw_tag(axes, centres[slot], f"{'ABCDEFGH'[slot]} {shares[slot]:.0%}", slot)


def draw_relation(axes: Axes, ground: torch.Tensor, edges: torch.Tensor, attention: torch.Tensor) -> None:
    """As many arrows as there are slots: the strongest."""
    centres = slot_centres(attention, ground)
    for edge in edges.flatten().topk(len(edges)).indices.tolist():
        receiver, sender = divmod(edge, len(edges))
        arrow = {
            "arrowstyle": "-|>,head_length=0.5,head_width=0.22",
            "connectionstyle": "arc3,rad=0.22",
            "color": SLOT_COLOURS[sender],
            "linewidth": 0.5 + 3 * edges[receiver, sender].item(),
            "shrinkA": 6,
            "shrinkB": 8,
        }
        drawn = axes.annotate("", centres[receiver].tolist(), centres[sender].tolist(), arrowprops=arrow, zorder=4)
        drawn.arrow_patch.set_clip_path(axes.patch)  # an arc along the edge would bulge out of the picture
    for slot, centre in enumerate(centres):
        draw_tag(axes, centre, "ABCDEFGH"[slot], slot)


def draw_bars(axes: Axes, names: list[str], values: list[float], chosen: str | None, form: str, limit: float) -> None:
    """Horizontal bars with their values behind them, from 0 to `limit` or on both sides of it."""
    colours = [ACCENT if name == chosen else PALE for name in names]
    axes.barh(range(len(names)), values, height=0.62, color=colours)
    axes.set_yticks(range(len(names)), names)
    low = -limit if min(values) < 0 else 0
    for y, value in enumerate(values):
        side = 1 if value >= 0 else -1
        x = value + side * 0.02 * (limit - low)
        axes.text(x, y, form.format(value), va="center", ha="left" if side > 0 else "right", fontsize=8)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_xlim(low, limit)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)


def draw_temporal(axes: Axes, attention: torch.Tensor) -> None:
    """`attention` `(I, K, I)` as a matrix of the frames, mean over the slots."""
    matrix = attention.mean(1)
    darkest = max(2 / len(matrix), matrix.max().item())  # even attention is half as dark
    axes.imshow(matrix.numpy(), cmap="Blues", vmin=0, vmax=darkest)
    frames = range(len(matrix))
    axes.set_xticks(frames, [str(i + 1) for i in frames])
    axes.set_yticks(frames, [str(i + 1) for i in frames])
    axes.spines[:].set_visible(False)
    axes.set_xlabel("frame looked at", color=GREY, fontsize=8)
    axes.set_ylabel("frame that looks", color=GREY, fontsize=8)
    if len(matrix) <= 6:
        for i in frames:
            for j in frames:
                share = matrix[i, j].item()
                colour = "white" if share > 0.65 * darkest else INK
                axes.text(j, i, f"{share:.0%}", ha="center", va="center", fontsize=8, color=colour)


def place(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes by their left top corner and size, in inches from the left top corner of the figure."""
    whole, tall = figure.get_size_inches()
    return figure.add_axes((x / whole, 1 - (y + height) / tall, width / whole, height / tall))


def write(figure: Figure, x: float, y: float, text: str, fontsize: float = 9, **style) -> None:
    """Lines of text by their left top corner, likewise; line by line, so that all baselines are where they should."""
    whole, tall = figure.get_size_inches()
    for i, line in enumerate(text.split("\n")):
        baseline = y + (1 + 1.45 * i) * fontsize / 72
        figure.text(x / whole, 1 - baseline / tall, line, fontsize=fontsize, **style)


def draw_panel(axes: Axes, name: str, ground: torch.Tensor, seen: dict) -> None:
    """One perspective, over a pale ground of which `seen` has what was looked at."""
    grey = torch.einsum("chw,c->hw", ground, torch.tensor([0.299, 0.587, 0.114]))
    axes.imshow(0.3 + 0.7 * grey.numpy(), cmap="gray", vmin=0, vmax=1)
    if name == "holistic":
        draw_holistic(axes, ground, seen["holistic"])
    elif name == "content":
        draw_content(axes, ground, seen["content"])
    else:
        draw_relation(axes, ground, seen["relation"], seen["content"])


def draw_charts(figure: Figure, top: float, height: float, record: dict, gates: dict, temporal: torch.Tensor | None):
    """The answer, the gates and how frames are compared, side by side; without the last if `temporal` is None."""
    column = (figure.get_figwidth() - 2 * LEFT - 2 * 0.5) / 3
    charts = {
        "answer": "as it was generated" if record["probabilities"] is None else "how likely each label is",
        "gates": "how much of each perspective is let through" if any(gates.values()) else "closed: MVP adds nothing",
        "temporal": "how frames are compared, mean of the slots",
    }
    for i, name in enumerate(charts if temporal is not None else ("answer", "gates")):
        x = LEFT + i * (column + 0.5)
        write(figure, x, top - 0.55, name, **HEADING)
        write(figure, x, top - 0.32, charts[name], **NOTE)
        if name == "answer" and record["probabilities"] is None:
            lines = [line for part in record["text"].splitlines() for line in textwrap.wrap(part, int(column * 12))]
            write(figure, x, top, "\n".join(lines[: int(height / 0.18)]))
        elif name == "answer":
            indent = min(0.08 * max(map(len, record["choices"])) + 0.1, column / 2)
            axes = place(figure, x + indent, top, column - indent, min(height, 0.36 * len(record["choices"])))
            draw_bars(axes, record["choices"], record["probabilities"], record["prediction"], "{:.0%}", 1.2)
        elif name == "gates":
            axes = place(figure, x + 0.7, top, column - 0.7, 0.36 * len(gates))
            values = list(gates.values())
            draw_bars(axes, list(gates), values, None, "{:+.3f}", 1.3 * max(0.1, *map(abs, values)))
        elif len(temporal) == 1:
            write(figure, x, top, "one picture: nothing to compare", color=GREY, style="italic")
        else:
            draw_temporal(place(figure, x + 0.35, top, min(height, column), min(height, column)), temporal)


@rc_context(STYLE)
def make_figure(question: str, record: dict, pictures: list, grounds: list, seen: list[dict], gates: dict, temporal):
    """
    Args:
        question (`str`): as it was asked.
        record (`dict`): the answer, as in a predictions file.
        pictures (`list[PIL.Image.Image]`): as the user gave them.
        grounds (`list[torch.Tensor]`): what is drawn on, one `(3, H, W)` for each of I views.
        seen (`list[dict[str, torch.Tensor]]`): for each view its `holistic` `(rows, columns)` and `content`
            `(K, rows, columns)`, both with mean 1, and `relation` `(K, K)`, as far as the model has them.
        gates (`dict[str, float]`): the gate of each perspective that the model has.
        temporal (`torch.Tensor` of shape `(I, K, I)`, *optional*): attention between the views.

    Returns:
        `matplotlib.figure.Figure`: the perspectives, beside the picture or below the frames, and beneath them charts.
    """
    number, clip = len(grounds), len(grounds) > 1
    whole = len(pictures) == number  # else the processor cut a picture into several views
    shown = (
        [np.asarray(picture) for picture in pictures]
        if whole
        else [ground.permute(1, 2, 0).numpy() for ground in grounds]
    )
    names = ["clip" if clip else "picture", *(name for name in PANELS if name in gates)]
    cell = max(1.5, min(2.6, 10.4 / number)) if clip else min(3.3, 12.6 / len(names))
    tall = cell * min(1.4, max(height / width for _, height, width in (ground.shape for ground in grounds)))
    label, head, gap = (1.75, 0.25, 0.15) if clip else (0, 0.55, 0.15)
    width = max(9.0, 2 * LEFT + label + (number if clip else len(names)) * (cell + gap) - gap)
    lines = [line for part in question.splitlines() for line in textwrap.wrap(part, int(width * 8.5))]
    top = 0.95 + 0.262 * len(lines) + head
    charts_top = top + (len(names) if clip else 1) * (tall + gap) + 0.85
    chart = max(1.5, 0.27 * len(record["choices"]), 0.32 * number)
    figure = Figure(figsize=(width, charts_top + chart + 0.85), facecolor="white")

    answer = record["prediction"] or ("none of the labels" if record["choices"] else record["text"])
    if record["probabilities"]:
        answer += f" · {max(record['probabilities']):.0%}"
    answer = textwrap.shorten(answer, int(width * 8.5), placeholder=" …")
    write(figure, LEFT, 0.4, "\n".join(lines), fontsize=13, weight="bold")
    write(figure, LEFT, 0.5 + 0.262 * len(lines), answer, fontsize=13, color=ACCENT)
    for row, name in enumerate(names):
        x, y = (LEFT, top + row * (tall + gap)) if clip else (LEFT + row * (cell + gap), top)
        write(figure, x, y if clip else y - head, name, **HEADING)
        note = PANELS.get(name, "")
        write(figure, x, y + 0.23 if clip else y - head + 0.23, note if clip else note.replace("\n", " "), **NOTE)
        for i, ground in enumerate(grounds):
            left = x + label + i * (cell + gap)
            if clip and row == 0:
                write(figure, left, y - 0.2, f"{'frame' if whole else 'part'} {i + 1}", **NOTE)
            axes = place(figure, left, y, cell, tall)
            axes.set_label(f"{name} {i + 1}")
            axes.set_axis_off()
            axes.set_anchor("NW")
            if row == 0:
                axes.imshow(shown[i], interpolation="bicubic")
            else:
                draw_panel(axes, name, ground, seen[i])
    draw_charts(figure, charts_top, chart, record, gates, temporal)
    write(figure, LEFT, figure.get_figheight() - 0.4, CAVEAT, fontsize=7.5, color=GREY, style="italic")
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
    seen = {name: value.float().cpu() if torch.is_tensor(value) else value for name, value in seen.items()}
    views = model_views(inputs, processor, pictures)
    if len(views) != len(seen["lengths"]):
        raise ValueError(
            f"{args.model} cuts {len(pictures)} pictures into {len(views)} views but joins their tokens to "
            f"{len(seen['lengths'])} pictures, so what was looked at can't be drawn; use a foundation with a token "
            "for each cell of a picture, e.g. LLaVA-1.5 or Gemma 3."
        )
    whole = pictures if len(pictures) == len(views) else [None] * len(views)
    grounds = [make_ground(view, picture) for view, picture in zip(views, whole, strict=True)]
    by_view = []
    for i, (view, length) in enumerate(zip(views, seen["lengths"], strict=True)):
        maps = {name: seen[name][i, ..., :length] * length for name in ("holistic", "content") if name in seen}
        maps = {name: value.unflatten(-1, find_grid(length, view)) for name, value in maps.items()}
        by_view.append(maps | {name: seen[name][i] for name in ("relation",) if name in seen})
    gates = dict(zip(model.config.perspectives, seen["gates"].tolist(), strict=True))
    figure = make_figure(args.question, record, pictures, grounds, by_view, gates, seen.get("temporal"))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.output.with_suffix(".tmp")
    figure.savefig(temporary, dpi=160, format="png")
    os.replace(temporary, args.output)
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
