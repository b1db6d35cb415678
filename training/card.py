"""What a training tells about itself: `training.json` beside the weights, and the model card rendered from it."""

import csv
import json
import platform
import re
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import accelerate
import datasets
import peft
import torch
import transformers
import trl
import yaml
from datasets import Dataset
from huggingface_hub import ModelCard
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from peft import PeftModel
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.utils.hub import cached_file, resolve_revision
from trl import ModelConfig

from dataset_scripts.readers import READERS

from .validation import score_of_model


TEMPLATES = [Path(__file__).parents[1] / room for room in ("model_cards", "dataset_scripts")]
FACTS, CARD = "training.json", "README.md"
STAGE = ("datasets", "rows", "train", "steps", "batch_size", "seconds", "device", "weights")  # kept of earlier ones
LIBRARIES = (torch, transformers, trl, peft, accelerate, datasets)


class Clock(TrainerCallback, ExportableState):
    """
    How long a training takes, over all the times that it went on; a checkpoint holds what it took until then. What a
    kill lost is not in it.

    Args:
        began (`str`, *optional*): when it began, as ISO 8601 without a zone.
        seconds (`float`, *optional*, defaults to 0.0): that it took before.
    """

    def __init__(self, began: str | None = None, seconds: float = 0.0):
        self.began, self.seconds = began, seconds
        self.since = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.began = self.began or datetime.now().isoformat(timespec="seconds")
        self.since = time.monotonic()

    def on_train_end(self, args, state, control, **kwargs):
        self.seconds, self.since = self.elapsed(), None

    def elapsed(self) -> float:
        return self.seconds + (0.0 if self.since is None else time.monotonic() - self.since)

    def state(self) -> dict:
        return {"args": {"began": self.began, "seconds": self.elapsed()}, "attributes": {}}


def public_name(name: str) -> str:
    """A Hub id, or a folder without its path."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def describe_foundation(name: str, revision: str | None) -> dict:
    """
    Where the training started: a Hub id with its commit, or null for a folder; of one that a training has left, where
    that had started, and what it had learned from. The licence is the one that the foundation's own card names, null
    where it names none of the Hub's list.

    Raises:
        `ValueError`: for a folder of whose training not all is known.
    """
    is_folder = Path(name).is_dir()
    if is_folder and (Path(name) / FACTS).is_file():
        facts = json.loads((Path(name) / FACTS).read_text(encoding="utf-8"))
        origin = ("foundation", "revision", "licence", "earlier")
        if missing := [key for key in (*origin, *STAGE) if key not in facts]:
            raise ValueError(
                f"{Path(name) / FACTS} has no {', '.join(missing)}, which the card of a further training tells: train "
                "that model again, or write there what you know of it"
            )
        stage = {key: facts[key] for key in STAGE}
        return {key: facts[key] for key in origin} | {"earlier": [*facts["earlier"], stage]}
    commit = None if is_folder else getattr(resolve_revision(name, revision), "resolved", revision)
    card = cached_file(
        name,
        CARD,
        revision=commit,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    try:
        licence = ModelCard.load(card, ignore_metadata_errors=True).data.license if card else None
    except (yaml.YAMLError, ValueError):  # no YAML, no mapping, no text
        licence = None
    return {
        "foundation": None if is_folder else name,
        "revision": commit,
        "licence": licence if isinstance(licence, str) and licence != "other" else None,
        "earlier": [],
    }


def describe_rows(rows: Dataset) -> list[dict]:
    """Source, task, licence and number of the rows; what is not EmoBench's has the dataset's name and no task."""
    numbers = Counter()
    for row_id, task in zip(rows["id"], rows["task"], strict=True):
        source = row_id.partition("/")[0] if task else public_name(row_id.rsplit("/", 2)[0].rpartition(":")[0])
        numbers[source, task] += 1
    licences = {"drawn": "Apache-2.0"} | {name: reader.SOURCE.licence_tag for name, reader in READERS.items()}
    return [
        {"source": source, "task": task, "licence": licences.get(source) if task else None, "rows": number}
        for (source, task), number in numbers.items()
    ]


def describe_run(script_args, model_args: ModelConfig, model: PreTrainedModel | PeftModel, rows: Dataset) -> dict:
    """
    What is known of a training before it begins.

    Args:
        script_args (`EmoLLMArguments`): of `train_sft.py`.
        model_args (`ModelConfig`): of `train_sft.py`.
        model (`PreTrainedModel` or `PeftModel`): from [`choose_trainable`], not sharded yet.
        rows (`Dataset`): that are trained on.
    """
    whole = model.get_base_model() if isinstance(model, PeftModel) else model
    lora = model.peft_config["default"] if "lora" in script_args.train else None
    names = [name.partition(":") for name in script_args.datasets]
    weights = script_args.dataset_weights or [None] * len(names)
    return {
        **describe_foundation(model_args.model_name_or_path, model_args.model_revision),
        "is_emollm": model.config.model_type == "emollm",
        "visual_tokens_per_image": getattr(model.config, "visual_tokens_per_image", None),
        "dtype": str(whole.loaded_dtype if script_args.train == "full" else whole.dtype).removeprefix("torch."),
        "datasets": [
            {
                "name": public_name(name),
                "on_hub": not Path(name).is_dir(),
                "configs": chosen.split(",") if chosen else None,
                "revision": None
                if Path(name).is_dir()
                else getattr(resolve_revision(name, repo_type="dataset"), "resolved", None),
                "weight": weight,
            }
            for (name, _, chosen), weight in zip(names, weights, strict=True)
        ],
        "rows": describe_rows(rows),
        "train": script_args.train,
        "lora_r": lora and lora.r,
        "lora_alpha": lora and lora.lora_alpha,
        "parameters": model.parameter_counts["all"],
        "trained_parameters": model.parameter_counts["trained"],
        "emoprompt_share": script_args.emoprompt_share,
        "reason_share": script_args.reason_share,
        "feature_cache": script_args.feature_cache is not None,
    }


def read_emissions(folder: Path, began: str) -> dict | None:
    """What codecarbon, which Trainer runs with `--report_to codecarbon`, has measured since the training began."""
    path = folder / "emissions.csv"
    if not path.is_file():
        return None
    with open(path, encoding="utf-8", newline="") as file:
        # a run writes what it took so far, maybe several times
        runs = {row["run_id"]: row for row in csv.DictReader(file) if row["timestamp"] >= began}
    if not runs:
        return None
    return {
        "kwh": sum(float(row["energy_consumed"]) for row in runs.values()),
        "kg_co2eq": sum(float(row["emissions"]) for row in runs.values()),
        "country": next(iter(runs.values()))["country_name"] or None,
    }


def describe_training(trainer) -> dict:
    """
    What is known of a training so far.

    Args:
        trainer (`EmoLLMTrainer`): of that training.
    """
    args, state = trainer.args, trainer.state
    (clock,) = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, Clock)]
    is_best = args.load_best_model_at_end and state.best_model_checkpoint is not None
    score = score_of_model(state, is_best)
    on_gpu = args.device.type == "cuda"
    name = torch.cuda.get_device_name(args.device) if on_gpu else f"CPU ({platform.machine()})"
    count = args.world_size * max(1, args.n_gpu)
    return {
        "steps": state.global_step,
        "batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "warmup_steps": args.warmup_steps,
        "weight_decay": args.weight_decay,
        "optimizer": str(getattr(args.optim, "value", args.optim)),
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "seed": args.seed,
        "score": score and {"macro_f1": score[0], "step": score[1], "is_best": is_best},
        "device": {"name": name, "count": count, "threads": None if on_gpu else torch.get_num_threads()},
        "seconds": round(clock.elapsed(), 1),
        "energy": clock.began and read_emissions(Path(args.output_dir), clock.began),
        "versions": {library.__name__: library.__version__ for library in LIBRARIES},
    }


def render(facts: dict, name: str) -> str:
    """The card of a model that has not been evaluated; `model_cards` renders the same template with results."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    names = {row["source"] for stage in (facts, *facts["earlier"]) for row in stage["rows"]}
    sources = {name: reader.SOURCE for name, reader in READERS.items() if name in names}
    template = environment.get_template("emollm.md.jinja")
    page = template.render(training=facts, name=name, sources=sources, evaluations=[], dataset_id=None)
    return re.sub(r"\n{3,}", "\n\n", page).strip() + "\n"


def write_card(folder: Path, facts: dict, name: str) -> None:
    """Writes the facts of a training and its card."""
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    (folder / CARD).write_text(render(facts, name), encoding="utf-8")
