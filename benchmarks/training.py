"""
What makes training fast: samples a second of stock TRL's SFTTrainer and of ours, lever by lever, measured in turns in
one run on the same EmoLLM, trainable weights, data and batches, and how far the losses are from stock's. On a GPU
where there is one, else on the CPU (some 18 minutes on two cores).

python -m benchmarks.training

The foundation is a LLaVA of random weights with 576 visual tokens a picture, and with the proportions of
LLaVA-OneVision-0.5B, whose vision tower has 411 million parameters and whose language model has 358 million and an
embedding of 136 million. `--vision-layers` makes it another: the less a model sees with, the less there is to cache.
Stock is TRL by its defaults. On a CPU bf16 has rows of its own, since without units for it that is slower in it.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import datasets
import torch
from datasets import Dataset, Features, Image, Json, List, concatenate_datasets
from tqdm import tqdm
from transformers import (
    PrinterCallback,
    TrainerCallback,
)
from transformers.utils import is_liger_kernel_available
from trl import ModelConfig, SFTConfig, SFTTrainer

from dataset_scripts.pipeline import build
from training.collator import EmoBenchCollator, token_lengths
from training.data import load_mixture
from training.features import FeatureCache, with_encoder_outputs
from training.model import choose_trainable, load_model
from training.trainer import EmoLLMTrainer

from .sized_llava import build_foundation, build_processor


COMPACT = 64
PICTURES = ("emotion_recognition", "hate_detection", "intent_understanding", "sarcasm_detection")
CLIPS = ("humor_detection",)
ALL = {"no checkpointing", "answer logits", "collator", "features"}
# What each row of the results changes of stock.
LEVERS = {
    "stock": set(),
    "no activation checkpointing": {"no checkpointing"},
    "answer-only logits": {"answer logits"},
    "our collator": {"collator"},
    "our collator, 2 workers": {"collator", "workers"},
    "feature cache": {"collator", "features"},
    "bf16 autocast (TRL's default)": {"autocast"},
    "bf16 autocast, frozen weights in bf16": {"autocast", "frozen bf16"},
    "torch.compile": {"compile"},
    "Liger kernels": {"liger"},
    "all but the feature cache": ALL - {"features"},
    "all": ALL,
    "all, 2 workers": {*ALL, "workers"},
    "all, bf16": {*ALL, "autocast", "frozen bf16"},
    "all, 64 visual tokens": {*ALL, "compact"},
}
GROUPING = {
    "stock": set(),
    "length-grouped batches": {"grouped"},
    "all, random batches": ALL,
    "all, length-grouped batches": {*ALL, "grouped"},
}
GPU = torch.cuda.is_available()
# Largest relative difference of a loss: of sums in another order, and of numbers with 8 bits.
TOLERANCE = {False: 1e-3, True: 2e-2}


def words(rows: Dataset) -> Dataset:
    """The same rows without their pictures."""

    def drop(row: dict) -> dict:
        question, *rest = row["messages"]
        content = [item for item in question["content"] if item["type"] != "image"]
        return {"images": [], "messages": [{**question, "content": content}, *rest]}

    return rows.map(drop, features=rows.features)


def as_prompts(rows: Dataset) -> Dataset:
    """The same rows in the format of which stock TRL learns the answers alone."""
    return rows.map(
        lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]},
        remove_columns=[name for name in rows.column_names if name != "images"],
        features=Features({"images": List(Image()), "prompt": List(Json()), "completion": List(Json())}),
    )


class Watch(TrainerCallback):
    """Times the epoch, from before its first batch is asked for; keeps its losses, and the tokens of its batches."""

    def __init__(self):
        self.losses = []
        self.tokens = self.places = 0

    def on_epoch_begin(self, *args, **kwargs):
        self.start = time.perf_counter()

    def on_epoch_end(self, *args, **kwargs):
        if GPU:
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self.start

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.losses.append(logs["loss"])

    def before_forward(self, model, args, inputs):
        self.tokens += inputs["attention_mask"].sum()
        self.places += inputs["attention_mask"].numel()


def train(args: argparse.Namespace, foundation: Path, rows: Dataset, levers: set[str]) -> dict:
    """Trains anew for one epoch."""
    torch.manual_seed(0)  # of MVP's weights, and of LoRA's
    model_args = ModelConfig(
        model_name_or_path=str(foundation),
        dtype="bfloat16" if "frozen bf16" in levers else "float32",
        lora_dropout=0.0,  # draws other numbers where rows are padded on the other side
    )
    model, processor = load_model(
        model_args,
        mvp_fields={
            "mvp_size": args.hidden_size // 8,
            "visual_tokens_per_image": COMPACT if "compact" in levers else None,
        },
        trust_remote_code=False,
    )
    if "liger" in levers:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance

        # As TRL does it, but of the foundation: EmoLLM is no family that Liger knows.
        _apply_liger_kernel_to_instance(model.foundation, fused_linear_cross_entropy=False)
    model = choose_trainable(model, "mvp+lora", model_args)
    with tempfile.TemporaryDirectory() as scratch:
        config = SFTConfig(
            output_dir=scratch,
            per_device_train_batch_size=args.batch_size,
            num_train_epochs=1,
            train_sampling_strategy="group_by_length" if "grouped" in levers else "sequential",  # of shuffled rows
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            max_length=None,
            gradient_checkpointing="no checkpointing" not in levers,
            bf16=GPU or "autocast" in levers,
            use_cpu=not GPU,  # or bf16 is refused
            torch_compile="compile" in levers,
            remove_unused_columns=not {"collator", "grouped"} & levers,
            dataloader_num_workers=2 if "workers" in levers else 0,
            # The cache's features can't be pinned as stock's compute_loss takes them.
            dataloader_pin_memory=GPU and ("features" not in levers or "answer logits" in levers),
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        collator = EmoBenchCollator(processor, None, emoprompt_share=0.0, reason_share=0.0, seed=0)
        kind, kwargs, start = SFTTrainer, {}, time.perf_counter()
        if "features" in levers:
            collator.features = FeatureCache(Path(scratch, "features"), model, processor, max_gigabytes=10)
            collator.features.fill(rows, model, config.device)
        filling = time.perf_counter() - start
        data = rows if "collator" in levers else as_prompts(rows)
        if "answer logits" in levers:
            kind, kwargs = EmoLLMTrainer, {}
        if "grouped" in levers and kind is EmoLLMTrainer:
            kwargs["lengths"] = token_lengths(rows, collator)
        elif "grouped" in levers:
            data = data.add_column("length", token_lengths(rows, collator))
        if "collator" in levers:
            kwargs["data_collator"] = collator
            if kind is SFTTrainer:
                kwargs["data_collator"] = lambda batch: with_encoder_outputs(collator(batch))
        watch = Watch()
        model.register_forward_pre_hook(watch.before_forward, with_kwargs=True)
        trainer = kind(
            model=model, args=config, train_dataset=data, processing_class=processor, callbacks=[watch], **kwargs
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return {
        "seconds": watch.seconds,
        "with filling": watch.seconds + filling,
        "losses": watch.losses,
        "padding": watch.places / int(watch.tokens),
    }


def missing(levers: set[str]) -> str | None:
    """Why a row can't be measured here."""
    if "liger" in levers and not GPU:
        return "not run: no GPU"
    if "liger" in levers and not is_liger_kernel_available():
        return "not run: liger-kernel is not installed"
    return None


def measure(args: argparse.Namespace, foundation: Path, rows: Dataset, table: dict[str, set[str]]) -> dict:
    """
    Every row of the table once a round, and every second round from the last to the first, so that a load that drifts
    falls on other rows; on a CPU bf16 in the first round alone, as it takes long there. Medians over rounds.
    """
    runs = {name: [] for name, levers in table.items() if not missing(levers)}
    for number in range(args.rounds):
        for name in tqdm(list(runs)[:: -1 if number % 2 else 1]):
            if number == 0 or GPU or "autocast" not in table[name]:
                runs[name].append(train(args, foundation, rows, table[name]))
    results = {}
    for name, levers in table.items():
        if name not in runs:
            results[name] = missing(levers)
            continue
        pairs = list(zip(runs["stock"], runs[name], strict=False))
        row = results[name] = {
            "samples_a_second": statistics.median(len(rows) / run["seconds"] for run in runs[name]),
            "to_stock": statistics.median(stock["seconds"] / run["seconds"] for stock, run in pairs),
            "padding": runs[name][0]["padding"],
            "mean_loss": statistics.mean(runs[name][0]["losses"]),
        }
        if "features" in levers:
            row["to_stock_with_filling"] = statistics.median(
                stock["seconds"] / run["with filling"] for stock, run in pairs
            )
        if not levers & {"compact", "grouped"}:  # which see other tokens, and other batches
            row["loss_difference"] = max(
                abs(loss / expected - 1)
                for stock, run in pairs
                for expected, loss in zip(stock["losses"], run["losses"], strict=True)
            )
            row["same_loss"] = row["loss_difference"] <= TOLERANCE[GPU or "autocast" in levers]
        results[name] = {
            key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=256, help="of the language model; a multiple of 64")
    parser.add_argument("--num-layers", type=int, default=3, help="of the language model")
    parser.add_argument("--vision-layers", type=int, default=3)
    parser.add_argument("--rows", type=int, default=16, help="that are trained on; four times as many for grouping")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=[*LEVERS, *GROUPING], help="rows to measure beside stock")
    args = parser.parse_args()
    # Compiling takes minutes, again for every shape of a batch.
    chosen = args.only or {*LEVERS, *GROUPING} - {"torch.compile"}
    tables = [{name: row for name, row in table.items() if name in chosen} for table in (LEVERS, GROUPING)]
    datasets.disable_progress_bars()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):  # what training prints
        data, foundation, other, tiny = (Path(folder, name) for name in ("data", "foundation", "other", "tiny"))
        build({"drawn": None}, data, drawn_size=16 * -(-args.rows // 16))
        pictures, clips = (
            load_mixture([f"{data}:{','.join(names)}"], None, "train", 0).shuffle(seed=0)
            for names in (PICTURES, CLIPS)
        )
        processor = build_processor(data, tiny)
        sizes = {name: getattr(args, name) for name in ("hidden_size", "num_layers", "vision_layers")}
        results = {
            "device": "cuda" if GPU else "cpu",
            "threads": torch.get_num_threads(),
            "load_before": round(load, 1),
            "parameters": build_foundation(processor, foundation, tokens_per_side=24, **sizes),
            "levers": measure(args, foundation, pictures.select(range(args.rows)), {"stock": set(), **tables[0]}),
        }
        if tables[1]:
            # With a quarter of the visual tokens there can be four times as many rows, of which some are alike.
            build_foundation(processor, other, tokens_per_side=12, **sizes)
            clips, number = clips.select(range(args.rows)), 2 * args.rows
            mixed = concatenate_datasets([pictures.select(range(number)), clips, words(clips)]).shuffle(seed=0)
            results["grouping"] = measure(args, other, mixed, {"stock": set(), **tables[1]})
    print(json.dumps(results, indent=1))
    wrong = [name for name, row in results["levers"].items() if "same_loss" in row and not row["same_loss"]]
    if wrong:
        sys.exit(f"another loss than stock's: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
