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
from pathlib import Path

import torch
from PIL import Image, ImageOps
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from dataset_scripts.media import BROKEN, MediaError, open_picture
from modeling_emollm.emoprompt import EMOTION_TASKS, attach_emoprompt

from .explanation import answer_question, draw_explanation


def read_picture(path: Path) -> Image.Image:
    """A picture upright and in RGB. Raises a `ValueError` if it is missing or can't be decoded."""
    try:
        with open_picture(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (MediaError, *BROKEN) as error:
        raise ValueError(f"--image {path} can't be read ({error}); give a whole picture, e.g. PNG or JPEG.") from error


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
    model = AutoModelForImageTextToText.from_pretrained(args.model, trust_remote_code=True, use_safetensors=True)
    model = model.to(device).eval()
    processor = attach_emoprompt(AutoProcessor.from_pretrained(args.model, trust_remote_code=True))

    question, options = args.question, f"Answer with one of: {', '.join(args.labels)}."
    if args.labels and options not in question:
        question += f" {options}"
    mode = None if args.emoprompt == "none" else args.emoprompt
    record = answer_question(model, processor, pictures, question, args.labels, args.task, mode)
    figure, missing = draw_explanation(model, processor, pictures, args.question, record)
    if missing:
        print(f"No font here has {missing}: boxes stand for them. Install one that does, e.g. of the Noto family.")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = args.output.with_suffix(".tmp")
    unfinished.write_bytes(figure)
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
