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
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from PIL import Image, ImageOps
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, BatchFeature, ProcessorMixin

from dataset_scripts.media import BROKEN
from modeling_emollm.emoprompt import EMOTION_TASKS, answer_token_ids, attach_emoprompt, encode_chats

from .explanation_figure import CAVEAT, find_fonts, make_figure
from .rows import COPIED, Batch, Question
from .scoring import Prepared, answer_batch


SIDE = 480  # pixels of a view's longer side in the figure


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


def main(args: argparse.Namespace) -> None:
    if args.output.suffix != ".png":
        raise ValueError(f"--output {args.output} must be a .png file.")
    if not all(map(str.strip, args.labels)) or len(set(args.labels)) < len(args.labels):
        raise ValueError(f"--labels {args.labels} has an empty or a double one; leave it out.")
    pictures = [read_picture(path) for path in args.image]
    try:
        model_type = AutoConfig.from_pretrained(args.model, trust_remote_code=True).model_type
    except OSError as error:
        raise ValueError(f"--model {args.model} can't be loaded ({error}); give the folder of an EmoLLM.") from error
    if model_type != "emollm":
        raise ValueError(
            f"{args.model} is no EmoLLM but {model_type}, which has no perspectives to show; upgrade it with "
            "EmoLLMForConditionalGeneration.from_foundation and train that."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForImageTextToText.from_pretrained(args.model, trust_remote_code=True).to(device).eval()
    processor = attach_emoprompt(AutoProcessor.from_pretrained(args.model, trust_remote_code=True))

    question, options = args.question, f"Answer with one of: {', '.join(args.labels)}."
    if args.labels and options not in question:  # as EmoBench asks, and as EmoLLMs are trained
        question += f" {options}"
    content = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": question}]
    messages, mode = [{"role": "user", "content": content}], None if args.emoprompt == "none" else args.emoprompt
    row = {"task": args.task, "setting": "closed" if args.labels else "open", "choices": args.labels}
    row = dict.fromkeys(COPIED) | row
    guidance = [{"emotion_task": args.task, "emotion_mode": mode}] if mode else None
    prepared = Prepared(
        Batch(None, (Question(row["setting"], mode, greedy=False),), [(0,)]),
        "all",
        rows=[[row]],
        inputs=[encode_chats(processor, [messages], [pictures], guidance)],
        labels=[answer_token_ids(processor, messages, label) for label in args.labels],
    )
    (record,) = answer_batch(model, processor, prepared)
    inputs = encode_chats(processor, [messages], [pictures]).to(model.device, model.dtype)
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
    unfinished = args.output.with_suffix(".tmp")
    with rc_context({"font.family": fonts}), warnings.catch_warnings(action="ignore", category=UserWarning):
        make_figure(
            args.question,
            record,
            [make_ground(view, pictures) for view in views],
            maps_by_view(seen, views),
            gates,
            seen.get("temporal"),
            unit="frame" if len(views) == len(pictures) else "part",
        ).savefig(unfinished, dpi=160, format="png")
    unfinished.replace(args.output)
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
