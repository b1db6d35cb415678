"""
What MVP costs and what compact mode saves, as ratios measured in turns in one run: time of a prefill and of a training
step, and peak memory of the step. On a GPU where there is one, else on the CPU.

python -m benchmarks.overhead

The foundation is a LLaVA of random weights with LLaVA-1.5's proportions: an eye of about a twentieth of the
parameters, which is frozen, and a language model, which is trained together with MVP.
"""

import argparse
import json
import multiprocessing
import os
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel

from modeling_emollm import EmoLLMForConditionalGeneration


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
PATCH, IMAGE, VOCABULARY, WORDS = 14, 2, 8000, 64


def build(args: argparse.Namespace, tokens_per_side: int, compact: int | None = None, mvp: bool = True):
    """A foundation whose images have `tokens_per_side` squared visual tokens, or an EmoLLM of it."""
    size, layers = args.hidden_size, args.num_layers
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=size // 4,
                intermediate_size=size,
                num_hidden_layers=layers,
                num_attention_heads=size // 128,
                image_size=tokens_per_side * PATCH,
                patch_size=PATCH,
            ),
            text_config=LlamaConfig(
                hidden_size=size,
                intermediate_size=8 * size // 3,
                num_hidden_layers=layers,
                num_attention_heads=size // 64,
                vocab_size=VOCABULARY,
            ),
            image_token_index=IMAGE,
        )
    ).to(DEVICE, DTYPE)
    model.eval()  # as an upgrade is
    model.model.vision_tower.requires_grad_(False)
    if not mvp:
        return model
    return EmoLLMForConditionalGeneration.from_foundation(model, mvp_size=size // 8, visual_tokens_per_image=compact)


def make_batch(images: int, tokens_per_side: int, tokens_per_image: int) -> dict[str, torch.Tensor]:
    words = torch.randint(10, VOCABULARY, (WORDS,), generator=torch.Generator().manual_seed(0))
    ids = torch.cat([torch.full((images * tokens_per_image,), IMAGE), words])[None]
    side = tokens_per_side * PATCH
    pixels = torch.randn(images, 3, side, side, generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids.to(DEVICE), "pixel_values": pixels.to(DEVICE, DTYPE)}


def make_prefill(model: PreTrainedModel, batch: dict) -> Callable[[], None]:
    def prefill():
        with torch.no_grad():
            model(**batch, logits_to_keep=1)

    return prefill


def make_step(model: PreTrainedModel, batch: dict) -> Callable[[], None]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    labels = batch["input_ids"].masked_fill(batch["input_ids"] == IMAGE, -100)

    def step():
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def ratio(slow: Callable[[], None], fast: Callable[[], None], rounds: int, title: str) -> float:
    """Median over the rounds of the first time over the second, who begin by turns; the first round warms up."""
    ratios = []
    for i in tqdm(range(rounds + 1), desc=title):
        times = {work: seconds(work) for work in ((slow, fast), (fast, slow))[i % 2]}
        ratios.append(times[slow] / times[fast])
    return round(statistics.median(ratios[1:]), 3)


def peak_of_step(args: argparse.Namespace, images: int, mvp: bool) -> int:
    """Bytes at the peak of two training steps, above those before the model exists; in a process of its own."""
    # Freed tensors go back to the system at once; else how much of them lingers differs by a tenth from run to run.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    processes = multiprocessing.get_context("spawn" if DEVICE.type == "cuda" else "forkserver")
    if DEVICE.type != "cuda":  # which can't be forked
        processes.set_forkserver_preload(["benchmarks.overhead"])
    with processes.Pool(1) as pool:
        return pool.apply(_measure_peak, (args, images, mvp))


def _measure_peak(args: argparse.Namespace, images: int, mvp: bool) -> int:
    before = _peak_of_process()
    side = args.tokens_per_side
    step = make_step(build(args, side, mvp=mvp), make_batch(images, side, side**2))
    for _ in range(2):
        step()
    return torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else _peak_of_process() - before


def _peak_of_process() -> int:
    # Linux only. Not getrusage, whose peak a new process inherits from the one that started it.
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=512, help="of the language model; a multiple of 128")
    parser.add_argument("--num-layers", type=int, default=8)
    parser.add_argument("--tokens-per-side", type=int, default=16, help="of an image, where MVP's cost is measured")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    side = args.tokens_per_side
    foundation, emollm = build(args, side, mvp=False), build(args, side)
    mvp = sum(p.numel() for p in emollm.model.multi_perspective_projection.parameters())
    results = {"device": DEVICE.type, "mvp_parameters": round(mvp / foundation.num_parameters(), 4)}
    for images, name in ((1, "1_image"), (8, "8_frames")):
        batch = make_batch(images, side, side**2)
        for kind, make in (("prefill", make_prefill), ("training_step", make_step)):
            key = f"{kind}_{name}"
            results[key] = ratio(make(emollm, batch), make(foundation, batch), args.rounds, key)
        peaks = [peak_of_step(args, images, mvp) for mvp in (True, False)]
        results[f"peak_memory_{name}"] = round(peaks[0] / peaks[1], 3)
    full, compact = build(args, 24), build(args, 24, compact=64)
    for kind, make in (("prefill", make_prefill), ("training_step", make_step)):
        work = [make(model, make_batch(1, 24, tokens)) for model, tokens in ((full, 576), (compact, 64))]
        key = f"{kind}_576_over_64_tokens"
        results[key] = ratio(*work, args.rounds, key)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
