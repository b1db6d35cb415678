"""Scores during training, by the evaluation's own scorer, and when they end it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.utils import gather_object
from datasets import get_dataset_config_names, get_dataset_split_names
from torch.distributed.fsdp import FSDPModule
from tqdm import tqdm
from transformers import EarlyStoppingCallback, ProcessorMixin, Trainer, TrainerState
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import logging
from trl import SFTConfig

from evaluation.metrics import score
from evaluation.rows import load_rows, make_batches
from evaluation.scoring import Preparation, answer_batch
from modeling_emollm import EMOTION_TASKS


logger = logging.get_logger(__name__)

MEAN = "mean_macro_f1"


@contextmanager
def gathered(model: torch.nn.Module) -> Iterator[None]:
    """
    Of a model that FSDP2 shards, all weights that no inner part gathers by itself. The model's own forward would, but
    is not what encodes pictures and generates.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    model.set_reshard_after_forward(False, recurse=False)
    model.unshard()
    yield
    model.reshard()
    model.set_reshard_after_forward(True, recurse=False)


class Validation:
    """
    Macro F1 on the validation rows of EmoBench, as `python -m evaluation.run --split validation` gives it.

    Args:
        datasets (`list[str]`): folders or Hub ids, each as `ID` or `ID:config,config`, of which the tasks of EmoBench
            with a validation split are scored.
        processor (`ProcessorMixin`): the model's, with EmoPrompt attached if `emoprompt` is given.
        emoprompt (`str`, *optional*): `"answer"` for EmoPrompt in front of the questions.
        samples (`int`): the most samples of a task and dataset.
        batch_size (`int`): rows that are asked together.
        seed (`int`): of the draw of samples.

    Raises:
        `ValueError`: for no samples at all, and for clips without frames.
    """

    def __init__(
        self,
        datasets: list[str],
        processor: ProcessorMixin,
        emoprompt: str | None,
        samples: int,
        batch_size: int,
        seed: int,
    ):
        if samples < 1:
            raise ValueError(f"eval_samples={samples} must be at least 1; to score nothing set eval_strategy to no.")
        self.processor = processor
        batches = []
        for dataset in datasets:
            name, _, chosen = dataset.partition(":")
            configs = chosen.split(",") if chosen else get_dataset_config_names(name)
            tasks = [
                task
                for task in EMOTION_TASKS
                if task in configs and "validation" in get_dataset_split_names(name, task)
            ]
            rows = load_rows(name, tasks, "validation", samples, seed) if tasks else {}
            for task_rows in rows.values():
                batches += make_batches(task_rows, [emoprompt], batch_size)
        self.batches = Preparation(batches, processor)

    def __call__(self, trainer: Trainer) -> dict[str, float]:
        """
        Scores the model that is being trained, and leaves its mode and the state of random numbers as they were.

        Args:
            trainer (`Trainer`): all processes call it together. They share the batches if each has the whole model;
                if its weights are sharded all ask the same, so that none waits for weights that no other gathers.

        Returns:
            `dict[str, float]`: `"mean_macro_f1"` and `"<sub-task>_macro_f1"`, the same on every process; nothing if
            no dataset has a row to score.

        Raises:
            `ValueError`: if no picture of any row can be decoded.
        """
        if not len(self.batches):
            return {}
        accelerator = trainer.accelerator
        sharded = trainer.is_fsdp_enabled or is_deepspeed_zero3_enabled()
        everything = range(len(self.batches))
        share = everything if sharded else everything[accelerator.process_index :: accelerator.num_processes]
        model = accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
        quiet = trainer.args.disable_tqdm or not accelerator.is_main_process
        devices = [accelerator.device] if accelerator.device.type == "cuda" else []
        training, records = model.training, []
        model.eval()
        with torch.random.fork_rng(devices), accelerator.autocast(), gathered(model):
            for number in tqdm(share, desc="Validation", unit="batch", leave=False, disable=quiet):
                records += answer_batch(model, self.processor, self.batches[number])
        model.train(training)
        records = records if sharded else gather_object(records)
        broken = [record["id"] for record in records if record["error"]]
        records = [record for record in records if not record["error"]]
        if broken and accelerator.is_main_process:
            logger.warning(
                f"{len(broken)} of {len(broken) + len(records)} validation rows are not scored, since their pictures "
                f"can't be decoded, as of {min(broken)}."
            )
        scores = score(records)
        by_task = {f"{name}_macro_f1": task["macro_f1"] for name, task in scores["scores"].items()}
        return {MEAN: scores["mean"]["macro_f1"]} | by_task


def early_stopping(patience: int, training_args: SFTConfig, validation: Validation | None) -> EarlyStoppingCallback:
    """
    Stops a training whose mean score no longer rises, and has it end with the best model.

    Args:
        patience (`int`): evaluations without a better score than the best one.
        training_args (`SFTConfig`): in which that metric and that model are set.
        validation (`Validation` or `None`): what gives the score.

    Raises:
        `ValueError`: if nothing is scored, another metric is asked for, or the best model might not be saved.
    """
    given, args = f"early_stopping_patience={patience}", training_args
    if patience < 1:
        raise ValueError(f"{given} must be at least 1; to train to the end leave it out.")
    if validation is None:
        raise ValueError(f"{given} needs scores, but eval_strategy=no: set it to steps or epoch.")
    if not len(validation.batches):
        raise ValueError(f"{given} needs scores, but no dataset has validation rows of a task of EmoBench to score.")
    # load_best_model_at_end alone makes it the loss.
    ours = {None, MEAN, f"eval_{MEAN}"} | ({"loss"} if args.load_best_model_at_end else set())
    if args.metric_for_best_model not in ours:
        raise ValueError(
            f"{given} goes by {MEAN}, not metric_for_best_model={args.metric_for_best_model}; leave it out."
        )
    saved, scored = args.save_strategy.value, args.eval_strategy.value
    if saved != "best" and (saved != scored or scored == "steps" and args.save_steps != args.eval_steps):
        raise ValueError(
            f"{given} needs a checkpoint of the best model, but save_strategy={saved} "
            f"(save_steps={args.save_steps:g}) does not save whenever eval_strategy={scored} "
            f"(eval_steps={args.eval_steps:g}) scores: set save_strategy to best."
        )
    args.load_best_model_at_end, args.metric_for_best_model, args.greater_is_better = True, f"eval_{MEAN}", True
    return EarlyStoppingCallback(patience)


def score_of_model(state: TrainerState, is_best: bool) -> tuple[float, int] | None:
    """
    The validation score of the model that a training ended with, and its step.

    Args:
        state (`TrainerState`): with the log of all evaluations.
        is_best (`bool`): whether the training ended with the best model, and not with the last.
    """
    scored = [(log[f"eval_{MEAN}"], log["step"]) for log in state.log_history if f"eval_{MEAN}" in log]
    if is_best:  # not by `best_global_step`, which may be of an evaluation that was not saved
        kept = Path(state.best_model_checkpoint).name
        scored = [(value, step) for value, step in scored if f"checkpoint-{step}" == kept]
    return scored[-1] if scored else None
