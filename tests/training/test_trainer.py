"""The trainer: its loss, what it logs and refuses, and what it does when something breaks."""

import json
import math
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from sft_run import train, words
from torch.utils.data import RandomSampler
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTConfig

import train_sft
from modeling_emollm import EmoLLMForConditionalGeneration
from training.checkpoints import StopOnSignal, complete_checkpoints
from training.collator import EmoBenchCollator
from training.data import ROW, load_mixture
from training.trainer import EmoLLMTrainer, EpochSampler


@pytest.fixture
def model(tiny_foundations):
    return EmoLLMForConditionalGeneration.from_foundation(str(tiny_foundations["llava"]), mvp_size=16).train()


@pytest.fixture
def trainer(processors, drawn_dataset, tmp_path):
    """Makes trainers of a model."""

    def make(model, validation=None, callbacks=None, **fields):
        fields = {"report_to": "none", "per_device_train_batch_size": 4, "gradient_checkpointing": False, **fields}
        rows = load_mixture([f"{drawn_dataset}:hate_detection"], None, "train", 0)
        return EmoLLMTrainer(
            model=model,
            args=SFTConfig(
                output_dir=str(tmp_path / "output"), remove_unused_columns=False, use_cpu=True, bf16=False, **fields
            ),
            data_collator=EmoBenchCollator(processors["llava"], None, 0.5, 0.0, 0),
            train_dataset=rows,
            eval_dataset=rows if validation else None,
            processing_class=processors["llava"],
            validation=validation,
            callbacks=callbacks,
        )

    return make


# --- The loss


def loss_and_gradients(model, compute_loss, batch, items):
    model.zero_grad()
    loss = compute_loss(model, dict(batch), num_items_in_batch=items)
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("items", [None, torch.tensor(7)])
@pytest.mark.parametrize("lora", [False, True])
def test_the_loss_and_its_gradients_are_trls(model, trainer, rows, items, lora):
    """Ours computes fewer logits, not another loss."""
    if lora:
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    ours = trainer(model)
    batch = ours.data_collator(rows)
    torch.testing.assert_close(
        loss_and_gradients(model, ours.compute_loss, batch, items),
        loss_and_gradients(model, super(EmoLLMTrainer, ours).compute_loss, batch, items),
    )


def test_a_batch_of_skipped_rows_has_a_loss_of_zero_that_reaches_the_weights(model, trainer, rows):
    ours = trainer(model)
    batch = ours.data_collator(rows[:2])
    batch["labels"][:] = -100
    skipped = {**batch, "skipped": [(row["id"], "picture missing") for row in rows[:2]]}
    for items in (None, torch.tensor(0)):
        loss, gradients = loss_and_gradients(model, ours.compute_loss, skipped, items)
        assert loss == 0 and gradients and not any(gradient.any() for gradient in gradients)
    with pytest.raises(ValueError, match="A batch of 2 rows has nothing to learn: all of its labels are -100"):
        ours.compute_loss(model, batch)


def test_skipped_rows_change_nothing_for_the_others(model, trainer, rows):
    ours = trainer(model)
    batch = ours.data_collator(rows[:2])
    batch["labels"][0] = -100
    expected = loss_and_gradients(model, super(EmoLLMTrainer, ours).compute_loss, batch, None)
    skipped = {**batch, "skipped": [(rows[0]["id"], "picture missing")]}
    torch.testing.assert_close(loss_and_gradients(model, ours.compute_loss, skipped, None), expected)


def test_batches_that_are_accumulated_give_the_weights_of_one(model, trainer, monkeypatch):
    """Also of a foundation whose own loss can't be divided by the tokens of a step, as Qwen3-VL's."""
    model = model.model.foundation
    monkeypatch.setattr(type(model), "accepts_loss_kwargs", False, raising=False)
    before, after = {name: value.clone() for name, value in model.state_dict().items()}, []
    for batch_size, accumulated in ((4, 1), (2, 2)):
        model.load_state_dict(before)
        fields = {"optim": "sgd", "learning_rate": 0.05, "max_grad_norm": 0, "max_steps": 1, "save_strategy": "no"}
        fields["per_device_train_batch_size"], fields["gradient_accumulation_steps"] = batch_size, accumulated
        ours = trainer(model, **fields)
        answers = [words(i, "no " * (8 * i + 1)) for i in range(4)]
        ours.train_dataset = Dataset.from_list(answers, features=ROW)
        ours.train()
        after.append({name: value.clone() for name, value in model.state_dict().items()})
    assert any(not torch.equal(before[name], value) for name, value in after[0].items())
    torch.testing.assert_close(after[1], after[0], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss_type", "dft"),
        ("label_smoothing_factor", 0.1),
        ("hub_strategy", "checkpoint"),
        ("completion_only_loss", False),
        ("pad_to_multiple_of", 8),
        ("truncation_mode", "keep_end"),
        ("shuffle_dataset", True),
        ("eval_packing", True),
    ],
)
def test_an_argument_without_effect_is_refused(model, trainer, name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        trainer(model, **{name: value})


def test_a_chat_template_is_refused_before_it_replaces_emoprompt(model, trainer, processors, tmp_path):
    template, guided = tmp_path / "bare.jinja", processors["llava"].chat_template
    template.write_text("bare", encoding="utf-8")
    with pytest.raises(ValueError, match=f"chat_template_path={template} would have no effect"):
        trainer(model, chat_template_path=str(template))
    assert processors["llava"].chat_template == guided


# --- Batches


@pytest.mark.parametrize("inner", [RandomSampler(range(64)), LengthGroupedSampler(4, lengths=list(range(64)))])
def test_the_order_follows_from_seed_and_epoch(inner):
    sampler = EpochSampler(inner, seed=0)
    first, again = list(sampler), list(sampler)
    sampler.epoch = 1
    second = list(sampler)
    assert first == again != second and sorted(first) == sorted(second) == list(range(64))
    torch.rand(7)
    later = EpochSampler(inner, seed=0)
    later.epoch = 1
    assert list(later) == second != list(EpochSampler(inner, seed=7))


def test_rows_that_are_skipped_are_named_once_and_counted(
    tiny_foundations, drawn_dataset, tmp_path, monkeypatch, capsys
):
    def broken(row, index):
        return {"images": [{"bytes": b"no picture", "path": None}] if index in (3, 9) else row["images"]}

    def load(*arguments):
        return load_mixture(*arguments).map(broken, with_indices=True)

    named = []
    monkeypatch.setattr(train_sft, "load_mixture", load)
    monkeypatch.setattr("training.trainer.logger.warning", named.append)
    fields = {"max_steps": -1, "num_train_epochs": 2, "dataloader_num_workers": 2, "save_strategy": "epoch"}
    train(tiny_foundations["llava"], f"{drawn_dataset}:hate_detection", tmp_path, logging_steps=1, **fields)
    assert len([text for text in named if "is skipped: picture broken" in text]) == 2
    assert "Skipped 4 rows in training: picture broken" in capsys.readouterr().out
    state = json.loads((complete_checkpoints(tmp_path)[-1] / "trainer_state.json").read_text(encoding="utf-8"))
    counts = [value for log in state["log_history"] for name, value in log.items() if name.startswith("skipped/")]
    assert counts[-1] == 4 and counts == sorted(counts)


# --- Evaluation


class Scores:
    """In place of a validation: the same scores at each call as given."""

    def __init__(self, *scores: float):
        self.scores = list(scores)

    def __call__(self, trainer) -> dict[str, float]:
        assert not trainer.model.training
        return {"mean_macro_f1": self.scores.pop(0)}


STOPPING = {
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_mean_macro_f1",
    "max_steps": 4,
}


def test_validation_scores_are_metrics_and_the_best_model_is_kept(model, trainer):
    ours = trainer(model, Scores(0.2, 0.6, 0.5, 0.4), [EarlyStoppingCallback(2)], **STOPPING, learning_rate=0.1)
    ours.train()
    logged = [log["eval_mean_macro_f1"] for log in ours.state.log_history if "eval_mean_macro_f1" in log]
    assert logged == [0.2, 0.6, 0.5, 0.4] and all(
        "eval_loss" in log for log in ours.state.log_history if "eval_runtime" in log
    )
    best = EmoLLMForConditionalGeneration.from_pretrained(Path(ours.args.output_dir, "checkpoint-2")).state_dict()
    last = EmoLLMForConditionalGeneration.from_pretrained(Path(ours.args.output_dir, "checkpoint-4")).state_dict()
    assert all(torch.equal(best[name], value) for name, value in model.state_dict().items())
    assert any(not torch.equal(last[name], value) for name, value in best.items())


def test_the_patience_of_early_stopping_is_resumed(model, trainer):
    """Killed after one of two evaluations without a better score, it stops at the next one."""
    with pytest.raises(IndexError):
        trainer(model, Scores(0.6, 0.5), [EarlyStoppingCallback(2)], **STOPPING).train()
    ours = trainer(model, Scores(0.5, 0.5), [EarlyStoppingCallback(2)], **STOPPING)
    ours.train(resume_from_checkpoint=str(complete_checkpoints(ours.args.output_dir)[-1]))
    assert ours.state.global_step == 3
    again = trainer(model, Scores(), [EarlyStoppingCallback(2)], **STOPPING)
    again.train(resume_from_checkpoint=str(complete_checkpoints(ours.args.output_dir)[-1]))
    assert again.state.global_step == 3


def test_the_best_model_is_found_where_its_checkpoint_was_moved(model, trainer, tmp_path):
    with pytest.raises(IndexError):
        trainer(model, Scores(0.6, 0.5), **STOPPING, learning_rate=0.1).train()
    moved = (tmp_path / "output").rename(tmp_path / "moved")
    best = EmoLLMForConditionalGeneration.from_pretrained(moved / "checkpoint-1").state_dict()
    trainer(model, Scores(0.4, 0.3), **STOPPING, learning_rate=0.1).train(str(moved / "checkpoint-2"))
    assert all(torch.equal(best[name], value) for name, value in model.state_dict().items())
    shutil.rmtree(moved / "checkpoint-1")
    with pytest.raises(ValueError, match="checkpoint-1, the best model of checkpoint-2, is missing: copy it as well"):
        trainer(model, Scores(), **STOPPING).train(str(moved / "checkpoint-2"))


# --- What breaks


class Break(TrainerCallback):
    """Calls a function at the beginning of a step."""

    def __init__(self, step, function):
        self.step, self.function = step, function

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            self.function()


@pytest.mark.parametrize(
    ("step", "fields"),
    [
        (2, {**STOPPING, "save_strategy": "best"}),
        (4, {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 2}),  # an epoch's last one
        (3, {"eval_strategy": "epoch", "save_strategy": "steps", "save_steps": 3, "max_steps": 3}),
    ],
    ids=["best", "epoch", "last step"],
)
def test_a_signal_stops_with_a_checkpoint_and_its_evaluation(model, trainer, step, fields):
    ours = trainer(model, Scores(0.5, 0.4), [Break(step, lambda: signal.raise_signal(signal.SIGTERM))], **fields)
    with pytest.raises(SystemExit) as stopped:
        ours.train()
    assert stopped.value.code == 143
    last = complete_checkpoints(ours.args.output_dir)[-1]
    assert last.name == f"checkpoint-{step}"
    logged = json.loads((last / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    assert [log["step"] for log in logged if "eval_mean_macro_f1" in log][-1:] == [step]


def test_a_later_signal_ends_a_training_that_hangs(monkeypatch):
    sent, seconds = [], [0.0, 5.0, 11.0]
    monkeypatch.setattr("training.checkpoints.time.monotonic", lambda: seconds.pop(0))
    monkeypatch.setattr("training.checkpoints.os.kill", lambda *arguments: sent.append(arguments))
    with StopOnSignal(None):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert not sent
        signal.raise_signal(signal.SIGTERM)
        assert sent == [(os.getpid(), signal.SIGTERM)] and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("every", [1, 100])
def test_a_loss_that_is_not_finite_stops_before_it_is_saved(model, trainer, value, every):
    def spoil():
        model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: output * value)

    fields = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "logging_steps": every}
    ours = trainer(model, callbacks=[Break(3, spoil)], **fields)
    with pytest.raises(
        FloatingPointError, match=r"The loss of step 3 is nan.*good checkpoint: .*checkpoint-2\. Lower"
    ):
        ours.train()
    assert ours.state.global_step == (3 if every == 1 else 4)
    assert [path.name for path in Path(ours.args.output_dir).glob("checkpoint-[0-9]*")] == ["checkpoint-2"]


def test_a_gradient_that_is_not_finite_stops_before_it_is_saved(model, trainer):
    def spoil():
        next(model.parameters()).register_hook(lambda gradient: gradient * math.inf)

    ours = trainer(model, callbacks=[Break(2, spoil)], max_steps=4, save_strategy="steps", save_steps=1)
    with pytest.raises(FloatingPointError, match="The gradient of step 2 has a norm of (nan|inf), .*checkpoint-1"):
        ours.train()
    assert [path.name for path in Path(ours.args.output_dir).glob("checkpoint-[0-9]*")] == ["checkpoint-1"]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
def test_a_checkpoint_that_cannot_be_written_is_removed(model, trainer, file):
    """A limit on the size of a file stands for a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    output = None

    def fill():
        size = (output / "checkpoint-1" / file).stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1000, hard))

    ours = trainer(model, callbacks=[Break(2, fill)], max_steps=4, save_strategy="steps", save_steps=1)
    output = Path(ours.args.output_dir)
    try:
        with pytest.raises(OSError) as raised:
            ours.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "checkpoint-2 could not be written" in str(raised.value)
    assert "GB are free" in str(raised.value) and "checkpoint-1. Make room" in str(raised.value)
    assert [path.name for path in output.glob("checkpoint-[0-9]*")] == ["checkpoint-1"]
    # Where there is room again, it goes on.
    later = trainer(model, max_steps=4, save_strategy="steps", save_steps=1)
    later.train(resume_from_checkpoint=str(complete_checkpoints(output)[-1]))
    assert complete_checkpoints(output)[-1].name == "checkpoint-4"


def test_a_checkpoint_of_another_model_is_refused(model, trainer):
    ours = trainer(model, max_steps=1, save_strategy="steps", save_steps=1)
    ours.train()
    with pytest.raises(ValueError, match="does not fit the model: .*multi_perspective_projection.* are not in both"):
        trainer(model.model.foundation).train(resume_from_checkpoint=str(Path(ours.args.output_dir, "checkpoint-1")))


def test_text_without_a_picture_reaches_the_same_weights(model, trainer, rows):
    ours = trainer(model)
    reached = []
    for batch in ([words(0), words(1)], rows[:2]):
        loss, _ = loss_and_gradients(model, ours.compute_loss, ours.data_collator(batch), None)
        assert loss > 0
        reached.append({name for name, parameter in model.named_parameters() if parameter.grad is not None})
    assert reached[0] == reached[1]
