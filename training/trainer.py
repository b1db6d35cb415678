"""TRL's SFTTrainer, with what EmoLLM needs beside it."""

import math
from collections import Counter
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch.utils.data import Sampler, SequentialSampler
from transformers.trainer import TRAINER_STATE_NAME, TrainerState, logger
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import HubStrategy
from trl import SFTConfig, SFTTrainer

from .card import Clock
from .checkpoints import StopOnSignal, complete_checkpoints, ignore_signals, not_written
from .features import with_encoder_outputs
from .validation import Validation


# TRL's defaults of what this loss, this collator and this order of the rows leave no room for.
FIXED = {
    "assistant_only_loss": False,
    "chat_template_path": None,
    "completion_only_loss": None,
    "dataset_kwargs": None,
    "dataset_num_proc": None,
    "dataset_text_field": "text",
    "eval_packing": None,
    "label_smoothing_factor": 0.0,
    "loss_type": "nll",
    "packing": False,
    "pad_to_multiple_of": None,
    "pad_token": None,
    "padding_free": False,
    "shuffle_dataset": False,
    "truncation_mode": "keep_start",
}


class EpochSampler(Sampler):
    """
    An order that follows from the seed and the epoch alone. Trainer's own, grouped by length, comes from the global
    state of random numbers, which is another one when a training goes on in a later epoch; and accelerate does not
    reach the sampler of several processes to say which epoch goes on.
    """

    def __init__(self, sampler: Sampler, seed: int):
        self.sampler = sampler
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self):
        self.sampler.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(self.sampler)


class EmoLLMTrainer(SFTTrainer):
    """
    SFTTrainer that computes the logits of the answers alone, ends with the same weights whether it was interrupted or
    not, and stops at a loss that is not finite.

    Args:
        facts (`dict`, *optional*): what [`describe_run`] tells, for the `training.json` and the card that
            [`save_trained`] writes; without it neither is written.
        lengths (`list[int]`, *optional*): tokens of each row, to batch rows of like length together.
        validation (`Validation`, *optional*): scores that every evaluation adds to the loss.
        args, kwargs: as SFTTrainer's.

    Raises:
        `ValueError`: for an argument of TRL's that would have no effect, or a batch in which nothing is to be learned.
        `FloatingPointError`: for a loss or a gradient that is not finite, before it is saved.
        `OSError`: for a checkpoint that can't be written.
    """

    def __init__(
        self,
        *,
        args: SFTConfig,
        facts: dict | None = None,
        lengths: list[int] | None = None,
        validation: Validation | None = None,
        **kwargs,
    ):
        for name, value in FIXED.items():  # first, as TRL replaces a chat template right away
            if getattr(args, name) != value:
                raise ValueError(f"{name}={getattr(args, name)} would have no effect here; leave it out.")
        self.lengths = lengths
        super().__init__(args=args, **kwargs)
        self.model_accepts_loss_kwargs |= not self.aux_loss_enabled  # the loss is ours, whatever the model's
        if self.args.use_liger_kernel and self.model.config.model_type == "emollm":
            raise ValueError("use_liger_kernel=True would have no effect, as Liger knows no EmoLLM; leave it out.")
        if self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            raise ValueError(f"hub_strategy={self.args.hub_strategy.value}: checkpoints are not pushed, use end.")
        self.args.hub_strategy = HubStrategy.END  # what is pushed before lacks its code, or what LoRA is merged into
        self.args.logging_nan_inf_filter = False  # a wait in every step, to hide what _check_finite finds
        self.args.restore_callback_states_from_checkpoint = True  # of early stopping
        self.facts = facts
        self.validation = validation
        self.skipped = {"train": Counter(), "eval": Counter()}
        self._warned = set()
        # Kept on the device, to be asked for when it is waited for anyway: tokens right and learned, the last loss
        # with its step, or the first that was not finite, and the last norm of the gradients.
        self._answers = {mode: torch.zeros(2, device=self.args.device) for mode in ("train", "eval")}
        self._watched = torch.zeros(2, device=self.args.device)
        self._grad_norm = 0.0
        self.stop = StopOnSignal(self)
        self.add_callback(self.stop)
        self.add_callback(Clock())

    # --- The loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """
        TRL's loss. Its fused head scores every position where there is no Triton; answers are at the end of rows that
        are padded on the left, so that the last few positions are enough.
        """
        mode = "train" if self.model.training else "eval"
        skipped = inputs.pop("skipped", [])
        self._count(mode, skipped)
        inputs = with_encoder_outputs(inputs)
        if self.aux_loss_enabled:  # of a mixture of experts: TRL's own way
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")
        positions = (labels != -100).any(0).flip(0).nonzero()
        if not len(positions) and not skipped:
            raise ValueError(
                f"A batch of {len(labels)} rows has nothing to learn: all of its labels are -100. Look at its answers."
            )
        length = int(positions.max()) + 1 if len(positions) else 1
        answers = labels[:, -length:]
        outputs = model(**inputs, use_cache=False, logits_to_keep=length + 1)
        logits = outputs.logits[:, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten(), reduction="sum")
        learned = answers != -100
        correct = (logits.detach().argmax(-1) == answers) & learned
        self._answers[mode] += torch.stack([correct.sum(), learned.sum()])
        if num_items_in_batch is None:
            loss = loss / learned.sum().clamp(min=1)
        else:  # tokens of all processes, over which the gradients are averaged
            loss = loss / torch.as_tensor(num_items_in_batch).clamp(min=1)
            if self.args.average_tokens_across_devices:
                loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _count(self, mode, skipped):
        for row_id, reason in skipped:
            self.skipped[mode][reason] += 1
            if (row_id, reason) not in self._warned:
                self._warned.add((row_id, reason))
                logger.warning(f"Row {row_id} is skipped: {reason}.")

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        step = torch.full_like(loss, self.state.global_step + 1)
        self._watched = torch.where(self._watched.isfinite().all(), torch.stack([step, loss]), self._watched)
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        self._grad_norm = super()._get_grad_norm(model, grad_norm)
        return self._grad_norm

    def _check_finite(self):
        """Every process finds the same, as all of them are at the same log or checkpoint."""
        watched, norm = self.accelerator.gather(self._watched[None]), float(self._grad_norm or 0.0)
        found = watched[~watched.isfinite().all(1)]
        if len(found):
            what = f"The loss of step {int(found[0, 0])} is {found[0, 1].item()}"
        elif not self.accelerator.optimizer_step_was_skipped and not math.isfinite(norm):  # skipped: float16 does so
            what = f"The gradient of step {self.state.global_step} has a norm of {norm}"
        else:
            return
        last = (complete_checkpoints(self.args.output_dir) or ["none"])[-1]
        raise FloatingPointError(
            f"{what}, and nothing was saved since. Last good checkpoint: {last}. Lower learning_rate "
            f"({self.args.learning_rate}) or max_grad_norm ({self.args.max_grad_norm}), raise warmup_steps "
            f"({self.args.warmup_steps}), or train in another type, and begin in another output_dir."
        )

    def log(self, logs, start_time=None):
        """Adds the accuracy and what was skipped so far, over all processes."""
        if self.is_in_train:
            self._check_finite()
        mode = "train" if self.model.training else "eval"
        right, learned = self.accelerator.reduce(self._answers[mode]).tolist()
        self._answers[mode].zero_()
        if learned:
            self._metrics[mode]["mean_token_accuracy"] = [right / learned]
        for reason, number in self._all_skipped(mode).items():
            self._metrics[mode][f"skipped/{reason}"] = [number]
        super().log(logs, start_time)

    def _all_skipped(self, mode) -> Counter:
        counts = [self.skipped[mode]]
        if self.args.world_size > 1:
            counts = [None] * self.args.world_size
            torch.distributed.all_gather_object(counts, self.skipped[mode])
        return sum(counts, Counter())

    # --- The batches

    def _get_train_sampler(self, train_dataset=None):
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        if self.lengths is None:
            sampler = super()._get_train_sampler(train_dataset)
        else:  # a step's rows are those of all processes
            rows = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            sampler = LengthGroupedSampler(rows, lengths=self.lengths)
        self.train_sampler = EpochSampler(sampler, seed)
        return self.train_sampler

    def _get_eval_sampler(self, eval_dataset):
        return SequentialSampler(eval_dataset)

    def _get_dataloader(self, *args, **kwargs):
        loader = super()._get_dataloader(*args, **kwargs)
        prepared = loader.base_dataloader
        prepared.worker_init_fn = partial(ignore_signals, prepared.worker_init_fn)
        # An iterator draws a seed for its workers, one more when a training goes on: not from the model's dropout.
        prepared.generator = torch.Generator()
        return loader

    def _run_epoch(self, *args, epoch, resume_from_checkpoint, **kwargs):
        """Trainer would train one more step from the checkpoint of the last one, if that is not an epoch's end."""
        self.train_sampler.epoch = epoch
        saved = self.state.stateful_callbacks["TrainerControl"]["args"]
        if resume_from_checkpoint is not None and saved["should_training_stop"]:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, epoch=epoch, resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    # --- Start, evaluation and end

    def train(self, *args, **kwargs):
        with self.stop:
            output = super().train(*args, **kwargs)
        for reason, number in self._all_skipped("train").items():
            self.accelerator.print(f"Skipped {number} rows in training: {reason}.")
        return output

    def _init_training_state(self, max_steps, steps, epochs, resume_from_checkpoint, trial):
        """Trainer would save, log and evaluate as often as before, and forget a best model that was moved."""
        trained = super()._init_training_state(max_steps, steps, epochs, resume_from_checkpoint, trial)
        self.state.compute_steps(self.args, max_steps)
        if resume_from_checkpoint is not None and self.args.load_best_model_at_end:
            checkpoint = Path(resume_from_checkpoint)
            best = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).best_model_checkpoint
            if best is not None:
                best = checkpoint.with_name(Path(best).name)
                if not best.is_dir():
                    raise ValueError(f"{best}, the best model of {checkpoint.name}, is missing: copy it as well.")
                self.state.best_model_checkpoint = str(best)
        return trained

    def _determine_best_metric(self, metrics, trial):
        """With save_strategy=best this decides what is saved: also what a signal asks for."""
        return super()._determine_best_metric(metrics, trial) or self.stop.agreed > 0

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self.validation is not None:
            scores = self.validation(self)
            output.metrics.update({f"{metric_key_prefix}_{name}": score for name, score in scores.items()})
        return output

    # --- What is written

    def _save_checkpoint(self, model, trial):
        self._check_finite()
        folder = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        if self.is_world_process_zero():  # of an earlier writing: complete is only what was written to its end
            (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, SafetensorError, RuntimeError) as error:
            of_torch_save = "inline_container" in str(error) or "iostream" in str(error)
            if isinstance(error, RuntimeError) and not of_torch_save:
                raise
            raise not_written(self, folder, error) from error

    def _save_rng_state(self, output_dir):
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()  # before the first process writes what says that all is there

    def _save(self, output_dir=None, state_dict=None):
        """
        Trainer's, but for a pickle of its arguments, and with the names that weights have in the model: a resume loads
        them by these, and would pass over all that from_pretrained translates from the names of a first release.
        """
        if not self.args.should_save:
            return
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        names = {} if isinstance(model, PeftModel) else {"save_original_format": False}
        model.save_pretrained(output_dir or self.args.output_dir, state_dict=state_dict, **names)
        self.processing_class.save_pretrained(output_dir or self.args.output_dir)

    def _issue_warnings_after_load(self, load_result):
        """Errors, but for weights that are saved once and used twice."""
        tied = self.accelerator.unwrap_model(self.model).all_tied_weights_keys
        if wrong := [*(set(load_result.missing_keys) - set(tied)), *load_result.unexpected_keys]:
            raise ValueError(f"The checkpoint does not fit the model: {', '.join(sorted(wrong))} are not in both.")

    def create_model_card(self, *args, **kwargs):
        """Nothing: TRL calls this at checkpoints, when the weights there may be those of an earlier training."""
