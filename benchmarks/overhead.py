"""
What MVP costs: time of an EmoLLM over its foundation's, for a prefill and a training step, measured in turns.

python -m benchmarks.overhead
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch
from PIL import Image
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_emollm import EmoLLMForConditionalGeneration, encode_chats


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def make_foundation(folder: str, options: str) -> str:
    """A folder with a foundation of random weights, made by the commands that a user types."""
    for command in (
        f"dataset_scripts.build_emobench --source drawn --drawn-size 16 --tasks hate_detection --output {folder}/data",
        f"benchmarks.tiny_foundations --kind llava --dataset {folder}/data --output {folder}/foundation {options}",
    ):
        subprocess.run([sys.executable, "-m", *shlex.split(command)], check=True, stdout=subprocess.DEVNULL)
    return f"{folder}/foundation"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--num-layers", type=int, default=8)
    parser.add_argument("--mvp-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    question = "How does the person feel, and why does it look that way?"
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_foundation(scratch, f"--hidden-size {args.hidden_size} --num-layers {args.num_layers}")
        processor = AutoProcessor.from_pretrained(folder)
        foundation = AutoModelForImageTextToText.from_pretrained(folder)
        emollm = EmoLLMForConditionalGeneration.from_foundation(folder, mvp_size=args.mvp_size)
    mvp = sum(parameter.numel() for parameter in emollm.model.multi_perspective_projection.parameters())
    results = {"mvp_parameters_share": round(mvp / foundation.num_parameters(), 4)}
    for images in (1, 8):
        content = [*[{"type": "image"}] * images, {"type": "text", "text": question}]
        pictures = [Image.linear_gradient("L").rotate(20 * i) for i in range(images)]
        batch = encode_chats(processor, [[{"role": "user", "content": content}]] * 4, [pictures] * 4)

        def prefill(model, batch=batch):
            with torch.no_grad():
                model(**batch)

        def step(model, batch=batch):
            model(**batch, labels=batch["input_ids"]).loss.backward()
            model.zero_grad()

        for name, work in (("prefill", prefill), ("training_step", step)):
            ratios = []
            for _ in tqdm(range(args.rounds + 1), desc=f"{name}, {images} images"):
                ratios.append(seconds(lambda: work(emollm)) / seconds(lambda: work(foundation)))  # noqa: B023
            results[f"{name}_{images}_images"] = round(statistics.median(ratios[1:]), 3)  # the first warms up
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
