"""An answer about pictures, and what Multi-perspective Visual Projection (MVP) looked at for it, as a PNG."""

import io
import math
import warnings

import numpy as np
import torch
from matplotlib import rc_context
from PIL import Image
from torch.nn import functional as F
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from modeling_emollm.emoprompt import answer_token_ids, encode_chats

from .explanation_figure import CAVEAT, find_fonts, make_figure
from .rows import COPIED, Batch, Question
from .scoring import Prepared, answer_batch


SIDE = 480  # pixels of a view's longer side in the figure


def to_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


def model_views(inputs: BatchFeature, processor: ProcessorMixin, pictures: list[Image.Image]) -> list[torch.Tensor]:
    """What the model sees, each `(3, H, W)` in 0..1: the pictures as its processor crops, stretches or tiles them."""
    pixels, eye = inputs["pixel_values"].float().cpu(), processor.image_processor
    loose = any(name.startswith("image_grid_") for name in inputs)  # patches of whole pictures, as with Qwen
    if loose or pixels.ndim < 4 or pixels.shape[-3] != 3:
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


def put_question(question: str, number: int) -> list[dict]:
    """The conversation that asks it about a number of pictures."""
    content = [{"type": "image"} for _ in range(number)] + [{"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def answer_question(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    pictures: list[Image.Image],
    question: str,
    labels: list[str],
    task: str,
    mode: str | None,
) -> dict:
    """
    What a model answers, as in a predictions file.

    Args:
        model (`PreTrainedModel`): a foundation or an EmoLLM.
        processor (`ProcessorMixin`): its processor, with EmoPrompt attached if there is a `mode`.
        pictures (`list[PIL.Image.Image]`): or the frames of a clip, in the order of time.
        question (`str`): the whole text; with labels they are named in it, as EmoBench does and EmoLLMs are trained.
        labels (`list[str]`): to choose from; without any, the answer is generated.
        task (`str`): for EmoPrompt, and for reading what is generated.
        mode (`str`, *optional*): of EmoPrompt.
    """
    messages = put_question(question, len(pictures))
    row = {"task": task, "setting": "closed" if labels else "open", "choices": labels}
    guidance = [{"emotion_task": task, "emotion_mode": mode}] if mode else None
    prepared = Prepared(
        Batch(None, (Question(row["setting"], mode, greedy=False),), [(0,)]),
        "all",
        rows=[[dict.fromkeys(COPIED) | row]],
        inputs=[encode_chats(processor, [messages], [pictures], guidance)],
        labels=[answer_token_ids(processor, messages, label) for label in labels],
    )
    (record,) = answer_batch(model, processor, prepared)
    return record


def draw_explanation(
    model: PreTrainedModel, processor: ProcessorMixin, pictures: list[Image.Image], question: str, record: dict
) -> tuple[bytes, str]:
    """
    The figure of what an EmoLLM looked at, as a PNG, and the characters in it that no font here has.

    Args:
        model, processor, pictures: as in [`answer_question`].
        question (`str`): as it is to be written above the figure.
        record (`dict`): the answer.

    Raises:
        `ValueError`: if the model has no perspectives, or its visual tokens can't be told apart by their place in a
            picture.
    """
    if not model.config.perspectives:
        raise ValueError("The MVP of this model has no perspectives to draw: upgrade its foundation with some.")
    inputs = encode_chats(processor, [put_question(question, len(pictures))], [pictures])
    inputs = inputs.to(model.device, model.dtype)
    with torch.inference_mode():
        seen = model(**inputs, output_perspectives=True).perspectives["image"]
    seen = {name: value.float().cpu() for name, value in seen.items()}
    views = model_views(inputs, processor, pictures)
    if len(views) != len(seen["lengths"]):
        raise ValueError(
            f"The model cuts {len(pictures)} pictures into {len(views)} views but joins their tokens to "
            f"{len(seen['lengths'])} pictures, so what was looked at can't be drawn; use a foundation with a token "
            "for each cell of a picture, e.g. LLaVA-1.5 or Gemma 3."
        )
    gates = dict(zip(model.config.perspectives, seen["gates"].tolist(), strict=True))
    fonts, missing = find_fonts("".join([question, *record["choices"], record["text"] or "", CAVEAT]))
    buffer = io.BytesIO()
    with rc_context({"font.family": fonts}), warnings.catch_warnings(action="ignore", category=UserWarning):
        make_figure(
            question,
            record,
            [make_ground(view, pictures) for view in views],
            maps_by_view(seen, views),
            gates,
            seen.get("temporal"),
            unit="frame" if len(views) == len(pictures) else "part",
            trained=bool(model.model.multi_perspective_projection.up.weight.any()),
        ).savefig(buffer, dpi=160, format="png")
    return buffer.getvalue(), missing
