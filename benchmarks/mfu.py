"""
Model FLOPs utilization: how much of what a GPU's matrix units can do in bfloat16 a training step of ours makes use of,
and where the rest of the time goes. The foundation is a LLaVA of random weights of two billion parameters
(SmolLM2-1.7B and CLIP-L by their configs), so that nothing has to be downloaded.

python -m benchmarks.mfu
python -m benchmarks.mfu --train mvp+lora --compile

No figures of a GPU exist yet: none was at hand. Without one the command still runs, on sizes given to it, and says so.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)
from trl import ModelConfig, SFTConfig
from trl.trainer.utils import get_peak_flops

from modeling_emollm import EmoLLMForConditionalGeneration
from training.model import choose_trainable
from training.trainer import EmoLLMTrainer


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PATCH, IMAGE, WORDS, ANSWER = 14, 6, 64, 8
WARM_UP, PROFILED = 3, 2


def build_model(args: argparse.Namespace) -> EmoLLMForConditionalGeneration:
    torch.manual_seed(0)
    with torch.device(DEVICE):
        foundation = LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config=CLIPVisionConfig(
                    hidden_size=args.vision_size,
                    intermediate_size=4 * args.vision_size,
                    num_hidden_layers=args.vision_layers,
                    num_attention_heads=args.vision_size // 64,
                    image_size=args.tokens_per_side * PATCH,
                    patch_size=PATCH,
                ),
                text_config=LlamaConfig(
                    hidden_size=args.hidden_size,
                    intermediate_size=4 * args.hidden_size,
                    num_hidden_layers=args.num_layers,
                    num_attention_heads=args.hidden_size // 64,
                    vocab_size=24 * args.hidden_size,
                    tie_word_embeddings=True,
                ),
                image_token_index=IMAGE,
                vision_feature_layer=-1,
                tie_word_embeddings=True,
            )
        )
    return EmoLLMForConditionalGeneration.from_foundation(foundation)


def make_batch(args: argparse.Namespace) -> dict[str, torch.Tensor]:
    """One picture a sample, a question and an answer."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(10, 24 * args.hidden_size, (args.batch_size, WORDS), generator=generator)
    ids = torch.cat([torch.full((args.batch_size, args.tokens_per_side**2), IMAGE), words], dim=1)
    labels = ids.clone()
    labels[:, :-ANSWER] = -100
    side = args.tokens_per_side * PATCH
    pixels = torch.randn(args.batch_size, 3, side, side, generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "pixel_values": pixels}


def synchronize() -> float:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Watch(TrainerCallback):
    """
    Times the steps behind the warm-up, profiles those after them, and counts the FLOPs of the last one: the counter is
    a dispatch mode, and what is first run under one is never compiled.
    """

    def __init__(self, steps: int):
        self.timed = WARM_UP + steps
        self.flops = FlopCounterMode(display=False)
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (DEVICE == "cuda")
        self.profile = profile(activities=activities)

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == WARM_UP:
            self.start = synchronize()
        elif state.global_step == self.timed:
            self.seconds = (synchronize() - self.start) / (self.timed - WARM_UP)
            self.profile.start()
        elif state.global_step == self.timed + PROFILED:
            self.flops.__enter__()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.timed + PROFILED:
            synchronize()
            self.profile.stop()
        elif state.global_step == state.max_steps:
            self.flops.__exit__(None, None, None)


def train(args: argparse.Namespace, folder: Path) -> Watch:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0})),
        pad_token="<pad>",
        eos_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    model = choose_trainable(build_model(args), args.train, ModelConfig())
    batch, watch = make_batch(args), Watch(args.steps)
    steps = watch.timed + PROFILED + 1
    trainer = EmoLLMTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(folder / "output"),
            per_device_train_batch_size=args.batch_size,
            max_steps=steps,
            gradient_checkpointing=False,
            bf16=True,
            use_cpu=DEVICE == "cpu",
            torch_compile=args.compile,
            max_length=None,
            remove_unused_columns=False,
            dataloader_pin_memory=DEVICE == "cuda",
            logging_steps=10 * steps,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        data_collator=lambda rows: dict(batch),
        train_dataset=Dataset.from_dict({"images": [[]] * steps * args.batch_size}),
        processing_class=LlavaProcessor(CLIPImageProcessorPil(), tokenizer),  # which TRL wants
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    watch.parameters = model.num_parameters()
    return watch


def matrix_peak(size: int) -> float:
    """FLOPs a second of a product of two matrices in bfloat16, as this device and library reach it."""
    one, other = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    one @ other
    rounds, start = 20, synchronize()
    for _ in range(rounds):
        one @ other
    return rounds * 2 * size**3 / (synchronize() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", default="full", choices=("mvp", "mvp+lora", "mvp+lora+projector", "full"))
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    parser.add_argument("--steps", type=int, default=10, help="that are timed")
    parser.add_argument("--hidden-size", type=int, default=2048, help="of the language model; a multiple of 64")
    parser.add_argument("--num-layers", type=int, default=24, help="of the language model")
    parser.add_argument("--vision-size", type=int, default=1024, help="of the vision tower; a multiple of 64")
    parser.add_argument("--vision-layers", type=int, default=24)
    parser.add_argument("--tokens-per-side", type=int, default=24, help="square root of a picture's visual tokens")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):  # what training prints
        watch = train(args, Path(folder))
        events = watch.profile.key_averages()
        by = "self_device_time_total" if DEVICE == "cuda" else "self_cpu_time_total"
        print(events.table(sort_by=by, row_limit=20))
    step, matrix = watch.flops.get_total_flops(), matrix_peak(4 * args.hidden_size)
    flops = step / watch.seconds
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"
    peak = get_peak_flops(device, "bfloat16")
    # Kernels on a GPU, operators on a CPU; what calls a kernel has its time as well, and so has an annotation.
    kind = DeviceType.CUDA if DEVICE == "cuda" else DeviceType.CPU
    kernels = [event for event in events if event.device_type == kind and not event.is_user_annotation]
    times = {event.key: getattr(event, by) / 1e6 / PROFILED for event in kernels}
    most = sorted(times, key=times.get, reverse=True)[:12]
    results = {
        "device": device,
        "parameters": watch.parameters,
        "seconds_a_step": watch.seconds,
        "tokens_a_second": args.batch_size * (args.tokens_per_side**2 + WORDS) / watch.seconds,
        "tflops_a_step": step / 1e12,
        "tflops_a_second": flops / 1e12,
        "matrix_peak_tflops": matrix / 1e12,
        "of_matrix_peak": flops / matrix,
        "mfu": flops / peak if peak else None,
        "busy": sum(times.values()) / watch.seconds,
        "share_of_step": {name: times[name] / watch.seconds for name in most},
    }
    if DEVICE == "cpu":
        results["note"] = (
            "not run on a GPU: this says that the benchmark works, and nothing about how fast training is"
        )
    elif peak is None:
        results["note"] = f"TRL knows no peak of {device}: give its data sheet's to tflops_a_second"
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
