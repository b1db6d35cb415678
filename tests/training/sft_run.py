"""A training of a few seconds, in this process, and rows to try it on."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from trl import ModelConfig, SFTConfig, TrlParser

from train_sft import EmoLLMArguments, main


ROOT = Path(__file__).parents[2]
KINDS = ("llava", "idefics3", "gemma3", "paddleocr_vl")
RECIPE = ROOT / "recipes" / "demo_emollm.yaml"


def words(i: int, answer: str = "yes") -> dict:
    """A row without a picture."""
    messages = [
        {"role": "user", "content": [{"type": "text", "text": f"Is number {i} hateful?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    row = {"id": f"words/train/{i}", "task": "hate_detection", "images": [], "rationale": None}
    return {**row, "messages": messages}


def question(text: str, answer: str) -> dict:
    """A conversation in TRL's format."""
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]}


def options(model: Path, dataset: Path | str, output: Path, **fields) -> list[str]:
    """Of a run of a few seconds on small batches."""
    fields = {"max_steps": 2, "per_device_train_batch_size": 4, "warmup_steps": 0, **fields}
    arguments = ["--model_name_or_path", model, "--datasets", dataset, "--output_dir", output, "--use_cpu"]
    return [str(part) for part in arguments] + [f"--{key}={value}" for key, value in fields.items()]


def train(model: Path, dataset: Path | str, output: Path, **fields) -> dict[str, torch.Tensor]:
    """Trains in this process and gives the saved weights."""
    parser = TrlParser((EmoLLMArguments, SFTConfig, ModelConfig))
    arguments = ["--config", str(RECIPE), *options(model, dataset, output, **fields)]
    main(*parser.parse_args_and_config(arguments))
    return load_file(output / "model.safetensors")
