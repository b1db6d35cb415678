"""Checkpoints: where a training goes on, what it may not change when it does, and what stops it in order."""

import atexit
import hashlib
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftModel
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils.hub import resolve_revision
from trl import ModelConfig, SFTConfig


# Beside the checkpoints, and named as they are, so that Trainer pushes it as little as them.
SETTINGS = "checkpoint-settings.json"

# What decides neither batches nor weights. Everything else must be what it was when a training goes on.
FREE = (
    "output_dir resume_from_checkpoint trust_remote_code logging_strategy logging_steps logging_first_step "
    "log_on_each_node logging_nan_inf_filter include_num_input_tokens_seen log_level log_level_replica disable_tqdm "
    "report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id save_strategy save_steps "
    "save_on_each_node save_total_limit push_to_hub hub_token hub_private_repo hub_model_id hub_strategy "
    "hub_always_push hub_revision restore_callback_states_from_checkpoint dataloader_num_workers "
    "dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor "
    "dataloader_multiprocessing_context ddp_timeout local_rank debug skip_memory_metrics feature_cache_gb"
).split()


def complete_checkpoints(folder: str | os.PathLike) -> list[Path]:
    """The checkpoints in a folder from the first to the last, but for those whose writing was interrupted."""
    steps = {}
    for path in Path(folder).glob(f"checkpoint-*/{TRAINER_STATE_NAME}"):  # which is written last
        try:
            steps[path.parent] = json.loads(path.read_text(encoding="utf-8"))["global_step"]
        except json.JSONDecodeError:
            continue
    return sorted(steps, key=steps.get)


def _digest(rows: Dataset) -> str:
    """Of what the rows ask and answer; their pictures would take as long as an epoch."""
    digest = hashlib.sha256()
    for batch in rows.select_columns(["id", "rationale", "messages"]).with_format("arrow").iter(1000):
        digest.update(str(batch.to_pylist()).encode())
    return digest.hexdigest()


def resume_point(script_args, training_args: SFTConfig, model_args: ModelConfig, rows: Dataset) -> str | None:
    """
    Finds where a training goes on, and records in its output folder what later may not change.

    Args:
        script_args (`EmoLLMArguments`): of `train_sft.py`.
        training_args (`SFTConfig`): with `resume_from_checkpoint` a folder, or `"last"`: the last complete checkpoint
            in the output folder, or the beginning if there is none, so that a job that is started again can always
            use the same command.
        model_args (`ModelConfig`): of `train_sft.py`.
        rows (`Dataset`): that are trained on, of which a digest is recorded.

    Returns:
        `str` or `None`: the checkpoint to go on from, or None to begin.

    Raises:
        `ValueError`: if there are checkpoints that were not asked for, or none where one was, if one was written
            with other settings, or if the processes do not find the same.
    """
    if training_args.save_only_model:
        raise ValueError("save_only_model=True leaves checkpoints from which no training can go on: leave it out.")
    output, wanted = Path(training_args.output_dir), training_args.resume_from_checkpoint
    folder = output if wanted in (None, "last") else Path(wanted).parent
    checkpoints, file = complete_checkpoints(folder), folder / SETTINGS
    recorded = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    found = checkpoints, recorded
    if any(other != found for other in gather_object([found])):  # before one that goes on waits for one that begins
        raise ValueError(
            f"{folder} holds other checkpoints for one process than for another: put it on a disk that all share, or "
            "copy it to all."
        )
    if wanted is None and checkpoints:
        raise ValueError(
            f"{output} has checkpoints of a training, the last of them {checkpoints[-1].name}. Go on from it with "
            "--resume_from_checkpoint last, or choose another output_dir."
        )
    checkpoint = None
    if wanted == "last":
        checkpoint = checkpoints[-1] if checkpoints else None
    elif wanted is not None:
        checkpoint = Path(wanted)
        if checkpoint not in checkpoints:
            raise ValueError(
                f"resume_from_checkpoint={wanted} is no complete checkpoint; give the folder of one, or `last`."
            )
    given = {**vars(script_args), **vars(model_args), **training_args.to_dict(), "processes": training_args.world_size}
    given["feature_cache"] = script_args.feature_cache is not None
    revision = resolve_revision(model_args.model_name_or_path, model_args.model_revision)
    given["model_revision"] = getattr(revision, "resolved", revision)  # the commit, as a branch moves on
    given["digest_of_rows"] = _digest(rows)
    given = json.loads(json.dumps({name: given[name] for name in given if name not in FREE}, default=str))
    if checkpoint is not None:
        if recorded is None:
            raise ValueError(f"{file}, the settings of {checkpoint.name}, is missing: copy it as well.")
        changed = [name for name in recorded.keys() & given.keys() if recorded[name] != given[name]]
        if changed:
            raise ValueError(
                f"{checkpoint} was trained with other settings: "
                + ", ".join(f"{name}={recorded[name]!r} and not {given[name]!r}" for name in sorted(changed))
                + ". Use the same to go on, or choose another output_dir to begin."
            )
    if training_args.should_save:
        output.mkdir(parents=True, exist_ok=True)
        unfinished = output / f"{SETTINGS}.tmp"
        unfinished.write_text(json.dumps(given, indent=2), encoding="utf-8")
        unfinished.replace(output / SETTINGS)
    return None if checkpoint is None else str(checkpoint)


def not_written(trainer: Trainer, folder: Path, error: Exception) -> OSError:
    """What to say of a checkpoint that could not be written, whose unfinished folder is removed."""
    if trainer.is_world_process_zero():  # another one may fail while it still writes
        shutil.rmtree(folder, ignore_errors=True)
    states = [value for state in trainer.optimizer.state.values() for value in state.values()]
    adapters = isinstance(trainer.model, PeftModel) and folder.name.startswith("checkpoint-")
    weights = [weight for weight in trainer.model.parameters() if weight.requires_grad or not adapters]
    tensors = [*weights, *filter(torch.is_tensor, states)]
    needed, free = sum(tensor.nbytes for tensor in tensors), shutil.disk_usage(folder.parent).free
    last = (complete_checkpoints(folder.parent) or ["none"])[-1]
    return OSError(
        f"{folder} could not be written ({error}) and is removed. A checkpoint takes up to {needed / 1e9:.3f} GB, and "
        f"{free / 1e9:.3f} GB are free, less under a quota. Last good checkpoint: {last}. Make room, or lower "
        "save_total_limit, and go on with --resume_from_checkpoint last."
    )


class StopOnSignal(TrainerCallback):
    """
    Ends a training in order on SIGTERM or Ctrl-C: it finishes the step, saves a checkpoint, says how to go on, and
    exits with 143 or 130. Between `__enter__` and `__exit__` it catches these signals. Another one, 10 seconds later
    or more, ends a training that hangs.

    Args:
        trainer (`Trainer`): whose training is stopped.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.caught, self.since = 0, 0.0  # by this process
        self.agreed = 0  # by all of them
        self.group = None

    def __enter__(self):
        numbers = (signal.SIGTERM, signal.SIGINT)
        self.handlers = {number: signal.signal(number, self._catch) for number in numbers}

    def __exit__(self, *exception):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _catch(self, number, frame):
        now = time.monotonic()
        if self.caught and now - self.since > 10:  # a launcher passes on at once what its processes got already
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if not self.caught:
            self.caught, self.since = number, now
        os.write(2, f"\n{signal.Signals(number).name}: stopping with a checkpoint after this step.\n".encode())

    def on_train_begin(self, args, state, control, **kwargs):
        if args.world_size > 1:  # over the network of the hosts, as the devices need not wait for it
            self.group = dist.new_group(backend="gloo", timeout=timedelta(seconds=args.ddp_timeout))

    def on_step_end(self, args, state, control, **kwargs):
        if state.epoch % 1 and not control.should_training_stop:  # else after the evaluation of the epoch
            self._agree(control)

    def on_epoch_end(self, args, state, control, **kwargs):
        self._agree(control)

    def _agree(self, control):
        agreed = torch.tensor(self.caught)
        if self.group is not None:
            dist.all_reduce(agreed, dist.ReduceOp.MAX, self.group)
        self.agreed = int(agreed)
        control.should_save |= self.agreed > 0

    def on_save(self, args, state, control, **kwargs):
        if not self.agreed:
            return
        self.trainer.accelerator.wait_for_everyone()
        command = "with the same launcher and as many processes."
        if args.world_size == 1:
            command = "\n" + shlex.join([*sys.orig_argv, "--resume_from_checkpoint", "last"])
        self.trainer.accelerator.print(
            f"Stopped by {signal.Signals(self.agreed).name} at step {state.global_step} with a checkpoint in "
            f"{args.output_dir}. Start it again as it was started, with --resume_from_checkpoint last, to go on: "
            f"{command}"
        )
        self.trainer.callback_handler.on_train_end(args, state, control)  # trackers write what they hold
        self.trainer.end()
        raise SystemExit(128 + self.agreed)

    def on_train_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero and not complete_checkpoints(args.output_dir):
            Path(args.output_dir, SETTINGS).unlink(missing_ok=True)


@atexit.register
def end_workers() -> None:
    """Python would send the signal that these workers ignore, and wait for ever, if they are left, or persistent."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes their end for a failure
    for worker in multiprocessing.active_children():
        if worker.daemon:
            worker.kill()


def ignore_signals(worker_init_fn: partial | None, worker: int) -> None:
    """A loader's worker leaves it to its process to stop: a scheduler and a terminal signal all of a job at once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if worker_init_fn is not None:
        worker_init_fn(worker)
