"""A training that is killed or stopped goes on with the same batches to the same weights, or says why it can't."""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from huggingface_hub import ResolvedRevision
from safetensors.torch import load_file
from sft_run import RECIPE, ROOT, options, train, words
from transformers import TrainerCallback
from trl import ModelConfig, SFTConfig, TrlParser

from train_sft import EmoLLMArguments
from training.checkpoints import complete_checkpoints, resume_point
from training.data import ROW
from training.trainer import EmoLLMTrainer


# Twelve steps in three epochs: dropout, batches grouped by length, accumulated gradients, two workers.
FIELDS = {
    "max_steps": -1,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "train_sampling_strategy": "group_by_length",
    "dataloader_num_workers": 2,
    "save_strategy": "steps",
    "save_steps": 3,
    "logging_steps": 1,
}
# `train_sft.py` that writes down its batches, and in a step stops itself and its workers, as a scheduler does, or
# kills itself, or does so in the middle of writing a checkpoint.
DRIVER = """
import os, runpy, signal, sys
import torch
from training.trainer import EmoLLMTrainer

script, seen, place, step = sys.argv[1], open(sys.argv[2], "a"), sys.argv[3], int(sys.argv[4])
compute_loss, save, sent = EmoLLMTrainer.compute_loss, torch.save, []

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def noted(self, model, inputs, *args, **kwargs):
    if place == "step" and self.state.global_step == step - 1:
        die()
    if place == "stop" and self.state.global_step == step - 1 and not sent:
        sent.append(os.killpg(0, signal.SIGTERM))
    seen.write(f"{self.state.global_step} {inputs['input_ids'].tolist()}\\n")
    seen.flush()
    return compute_loss(self, model, inputs, *args, **kwargs)

def half_written(value, path, *args, **kwargs):
    save(value, path, *args, **kwargs)
    if place == "write" and str(path).endswith(f"checkpoint-{step}/optimizer.pt"):
        os.truncate(path, os.path.getsize(path) // 2)
        die()

EmoLLMTrainer.compute_loss, torch.save = noted, half_written
sys.argv = [script, *sys.argv[5:]]
runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture(scope="session")
def dropping(tiny_foundations, tmp_path_factory) -> Path:
    """A foundation that draws random numbers in every step."""
    folder = tmp_path_factory.mktemp("dropping") / "llava"
    shutil.copytree(tiny_foundations["llava"], folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["attention_dropout"] = 0.2
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def dataset(drawn_dataset) -> str:
    return f"{drawn_dataset}:hate_detection"


def run(
    model: Path, dataset: str, output: Path, *extra: str, place: str = "nowhere", step: int = 0, **pipes
) -> subprocess.CompletedProcess:
    driver = [sys.executable, "-c", DRIVER, ROOT / "train_sft.py", f"{output}.seen", place, str(step)]
    command = [*driver, "--config", RECIPE, *options(model, dataset, output, **FIELDS), *extra]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, stdin=subprocess.DEVNULL, env=environment, start_new_session=True, **pipes)


def seen(output: Path) -> list[str]:
    """The two batches of each step, as it was last trained."""
    steps = {}
    for line in Path(f"{output}.seen").read_text(encoding="utf-8").splitlines():
        step, _, batch = line.partition(" ")
        steps[int(step)] = [*steps.get(int(step), []), batch][-2:]
    return [steps[step] for step in sorted(steps)]


def same_weights(one: Path | dict, other: Path | dict) -> bool:
    one, other = (
        load_file(weights / "model.safetensors") if isinstance(weights, Path) else weights for weights in (one, other)
    )
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="session")
def uninterrupted(dropping, dataset, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted") / "output"
    assert run(dropping, dataset, output).returncode == 0
    assert len(seen(output)) == 12 and len({str(batches) for batches in seen(output)}) == 12
    return output


# --- Killed and stopped


@pytest.mark.parametrize("place", ["step", "write"])
def test_a_killed_training_goes_on_as_if_it_had_not_been(uninterrupted, dropping, dataset, tmp_path, place):
    output = tmp_path / "output"
    step = random.choice([5, 8, 11] if place == "step" else [6, 9])
    last = ("--resume_from_checkpoint", "last")
    assert run(dropping, dataset, output, *last, place=place, step=step).returncode == -signal.SIGKILL
    assert complete_checkpoints(output)[-1].name == f"checkpoint-{(step - 1) // 3 * 3}"
    assert run(dropping, dataset, output, *last).returncode == 0
    assert seen(output) == seen(uninterrupted), f"killed at {place} {step}"
    assert same_weights(output, uninterrupted), f"killed at {place} {step}"
    assert not list(output.rglob("training_args.bin"))


def test_a_stopped_training_says_how_to_go_on_and_does(uninterrupted, dropping, dataset, tmp_path):
    output = tmp_path / "output"
    extra, pipes = ("--dataloader_persistent_workers",), {"capture_output": True, "text": True, "timeout": 1200}
    stopped = run(dropping, dataset, output, *extra, place="stop", step=5, **pipes)
    assert stopped.returncode == 143, stopped.stderr[-3000:]
    assert "Stopped by SIGTERM at step 5" in stopped.stdout
    assert complete_checkpoints(output)[-1].name == "checkpoint-5" and not (output / "model.safetensors").exists()
    hint = shlex.split(stopped.stdout[stopped.stdout.index(shlex.quote(sys.executable)) :])
    script = hint.index(str(ROOT / "train_sft.py"))
    assert hint[1:script] == ["-c", DRIVER]
    plain = [sys.executable, hint[script], *hint[script + 4 :]]  # without what the driver is told
    subprocess.run(plain, cwd=tmp_path, check=True, stdin=subprocess.DEVNULL, timeout=1200)
    assert same_weights(output, uninterrupted)


class Send(TrainerCallback):
    """Sends this process a signal in a step."""

    def __init__(self, number: int, step: int):
        self.number, self.step = number, step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def interrupt(monkeypatch):
    """Makes the next training in this process get a signal in a step."""
    made = EmoLLMTrainer.__init__

    def at(step: int, number: int = signal.SIGINT):
        def init(self, *args, **kwargs):
            made(self, *args, **kwargs)
            self.add_callback(Send(number, step))

        monkeypatch.setattr(EmoLLMTrainer, "__init__", init)
        return pytest.raises(SystemExit)

    yield at


@pytest.mark.parametrize(
    ("step", "fields"),
    [
        (5, {"max_steps": 5}),  # the last one, in the middle of an epoch
        (4, {"max_steps": 6, "dataloader_num_workers": 1, "dataloader_persistent_workers": True}),  # an epoch's end
        (3, {"max_steps": 5, "train": "mvp+lora", "lora_r": 2, "lora_dropout": 0.2}),
        (5, {"max_steps": 6, "train": "mvp", "train_sampling_strategy": "random"}),
    ],
    ids=["last step", "persistent workers", "lora", "random order"],
)
def test_ctrl_c_ends_with_a_checkpoint_and_130(
    dropping, dataset, tmp_path, monkeypatch, interrupt, capsys, fields, step
):
    fields = {**FIELDS, "save_strategy": "no", "dataloader_num_workers": 0, **fields}
    before = signal.getsignal(signal.SIGINT)  # ignored in the background of a shell
    expected = train(dropping, dataset, tmp_path / "expected", **fields)
    with monkeypatch.context(), interrupt(step) as stopped:
        train(dropping, dataset, tmp_path / "output", **fields)
    assert stopped.value.code == 130
    assert f"Stopped by SIGINT at step {step} " in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.undo()
    assert same_weights(
        train(dropping, dataset, tmp_path / "output", resume_from_checkpoint="last", **fields), expected
    )


# --- What a resume refuses


@pytest.fixture(scope="session")
def resumable(tiny_foundations, dataset, tmp_path_factory) -> Path:
    """The folder of a finished training with the checkpoints 1 and 2."""
    output = tmp_path_factory.mktemp("resumable") / "output"
    train(tiny_foundations["llava"], dataset, output, save_strategy="steps", save_steps=1)
    return output


def test_a_folder_with_checkpoints_is_not_trained_into_unasked(command, resumable):
    with pytest.raises(ValueError, match="the last of them checkpoint-2. Go on from it with --resume_from_checkp"):
        command(RECIPE, output=resumable)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learning_rate": 0.5}, "learning_rate=0.001 and not 0.5"),
        ({"per_device_train_batch_size": 2, "seed": 3}, "batch_size=4 and not 2, seed=0 and not 3"),
        ({"emoprompt_share": 0.25}, "emoprompt_share=0.75 and not 0.25"),
        ({"train": "mvp"}, "train='full' and not 'mvp'"),
    ],
)
def test_a_resume_with_other_settings_names_both(command, resumable, dataset, changed, message):
    with pytest.raises(ValueError, match=f"checkpoint-2 was trained with other settings: .*{message}. Use the same"):
        command(RECIPE, output=resumable, dataset=dataset, resume_from_checkpoint="last", **changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"feature_cache": "elsewhere"}, None),
        ({"feature_cache": None}, "feature_cache=True and not False"),
        ({"answer": "no"}, "digest_of_rows='.+' and not '.+'"),
        ({"rows": 3}, "digest_of_rows='.+' and not '.+'"),
        ({"commit": "1" * 40}, f"model_revision='{'0' * 40}' and not '{'1' * 40}'"),
    ],
)
def test_a_resume_with_other_rows_or_another_foundation_is_refused(tmp_path, monkeypatch, changed, message):
    def point(feature_cache="features", answer="yes", rows=4, commit="0" * 40):
        resolved = ResolvedRevision(commit, "main")
        monkeypatch.setattr("training.checkpoints.resolve_revision", lambda name, revision: resolved)
        fields = {"resume_from_checkpoint": "last", "model_revision": "main"}
        if feature_cache:
            fields["feature_cache"] = feature_cache
        given = ["--config", str(RECIPE), *options("model", "dataset", tmp_path, **fields)]
        arguments = TrlParser((EmoLLMArguments, SFTConfig, ModelConfig)).parse_args_and_config(given)
        return resume_point(*arguments, Dataset.from_list([words(i, answer) for i in range(rows)], features=ROW))

    assert point() is None
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "trainer_state.json").write_text('{"global_step": 1}', encoding="utf-8")
    if message is None:
        assert point(**changed) == str(tmp_path / "checkpoint-1")
    else:
        with pytest.raises(ValueError, match=f"other settings: {message}. Use the same"):
            point(**changed)


def test_processes_that_do_not_find_the_same_are_refused(command, resumable, monkeypatch):
    monkeypatch.setattr("training.checkpoints.gather_object", lambda found: [*found, ([], None)])
    with pytest.raises(ValueError, match=f"{resumable} holds other checkpoints for one process than for another"):
        command(RECIPE, output=resumable, resume_from_checkpoint="last")


def test_a_resume_from_nothing_is_refused(command, tmp_path):
    with pytest.raises(ValueError, match="checkpoint-7 is no complete checkpoint; give the folder of one, or `last`"):
        command(RECIPE, resume_from_checkpoint=tmp_path / "checkpoint-7")


def test_a_resume_without_recorded_settings_is_refused(command, resumable, tmp_path):
    shutil.copytree(resumable / "checkpoint-1", tmp_path / "checkpoint-1")
    with pytest.raises(ValueError, match="checkpoint-settings.json, the settings of checkpoint-1, is missing"):
        command(RECIPE, resume_from_checkpoint=tmp_path / "checkpoint-1")


def test_checkpoints_that_cannot_be_resumed_are_refused(command):
    with pytest.raises(ValueError, match="save_only_model=True leaves checkpoints from which no training can go on"):
        command(RECIPE, "--save_only_model")


def test_another_folder_of_output_and_more_frequent_logs_are_no_other_settings(
    tiny_foundations, dataset, resumable, tmp_path
):
    first = resumable / "checkpoint-1"
    fields = {"resume_from_checkpoint": first, "logging_steps": 1, "save_strategy": "steps", "save_steps": 1}
    assert same_weights(train(tiny_foundations["llava"], dataset, tmp_path / "output", **fields), resumable)
    assert [path.name for path in complete_checkpoints(tmp_path / "output")] == ["checkpoint-2"]
    state = json.loads((tmp_path / "output" / "checkpoint-2" / "trainer_state.json").read_text(encoding="utf-8"))
    assert [log["step"] for log in state["log_history"] if "loss" in log] == [2]


def test_a_truncated_state_is_no_complete_checkpoint(resumable, tmp_path):
    shutil.copytree(resumable, tmp_path / "output")
    state = tmp_path / "output" / "checkpoint-2" / "trainer_state.json"
    state.write_text(state.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    assert [path.name for path in complete_checkpoints(tmp_path / "output")] == ["checkpoint-1"]
