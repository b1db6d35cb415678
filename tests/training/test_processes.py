"""Several processes: two of them give what one gives with the doubled batch, and what was begun together is saved."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset, concatenate_datasets
from process_fsdp import learn, make, validate
from process_train import train
from safetensors.torch import load_file
from sft_run import RECIPE, ROOT, options, words
from torch.distributed import TCPStore
from transformers import AutoModelForImageTextToText

from training.data import load_mixture


TWO_PROCESSES = ROOT / "recipes" / "accelerate" / "two_cpu_processes.yaml"
HERE = Path(__file__).parent
# 20 rows in two epochs of three steps, the last of which has one batch to accumulate instead of two. Plain gradient
# descent, as Adam's steps have the size of the learning rate even where a gradient is nothing but rounding.
FIELDS = {
    "max_steps": 6,
    "gradient_accumulation_steps": 2,
    "optim": "sgd",
    "learning_rate": 0.05,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0,  # which would hide a gradient that is scaled
    "weight_decay": 0.0,
    "dataloader_num_workers": 0,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 6,
}
LORA = {"train": "mvp+lora", "lora_r": 4}
EQUAL = {
    "full": {"train": "full"},
    "mvp": {"train": "mvp"},
    "mvp+lora": {**LORA, "lora_dropout": 0.0, "learning_rate": 0.02},
    "grouped": {"train": "mvp", "train_sampling_strategy": "group_by_length"},
}
# As it is used, with random numbers of which a process with longer rows draws more.
DROPOUT = {**LORA, "lora_dropout": 0.3, "optim": "adamw_torch", "train_sampling_strategy": "group_by_length"}
RUNS = {**EQUAL, "dropout": DROPOUT, "again": DROPOUT, "saved": {**DROPOUT, "save_steps": 2}}


def run_two(*commands: list) -> list[tuple[int, str]]:
    """Exit code and output of two processes, in the environment that `torchrun` gives them."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # holds the port, as torchrun's does
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    shared = {**os.environ, "PYTHONPATH": f"{ROOT}:{HERE}", "TORCHELASTIC_USE_AGENT_STORE": "True", **shared}
    processes = [
        subprocess.Popen(
            [sys.executable, *map(str, commands[rank % len(commands)])],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=1200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def noted(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def log(output: Path) -> list[dict]:
    state = json.loads((output / "checkpoint-6" / "trainer_state.json").read_text(encoding="utf-8"))
    return [entry for entry in state["log_history"] if "loss" in entry]


@pytest.fixture(scope="module")
def mixture(drawn_dataset, tmp_path_factory) -> Path:
    """Ten rows with pictures and ten without, with answers of one word to seventy."""
    drawn = load_mixture([str(drawn_dataset)], None, "train", 0)
    texts = [words(i, "yes" if i % 2 else "no " * (8 * i + 1)) for i in range(10)]
    folder = tmp_path_factory.mktemp("mixture")
    pictures = drawn.select(range(0, len(drawn), len(drawn) // 10)).select(range(10))
    rows = concatenate_datasets([pictures, Dataset.from_list(texts, features=drawn.features)])
    rows.to_parquet(folder / "train.parquet")
    return folder


@pytest.fixture(scope="module")
def arguments(tiny_foundations, mixture):
    """Of a run on the mixture."""

    def make(output: Path, batch_size: int, fields: dict) -> list[str]:
        given = {**FIELDS, **fields, "per_device_train_batch_size": batch_size}
        return ["--config", str(RECIPE), *options(tiny_foundations["llava"], mixture, output, **given)]

    return make


@pytest.fixture(scope="module")
def trainings(arguments, tmp_path_factory) -> Path:
    """Each of RUNS by two processes, and by one with the doubled batch: the folders `two-NAME` and `one-NAME`."""
    folder = tmp_path_factory.mktemp("processes")
    file = folder / "runs.json"
    file.write_text(json.dumps([arguments(folder / f"two-{name}", 2, RUNS[name]) for name in RUNS]), encoding="utf-8")
    (first, said), (second, also_said) = run_two([HERE / "process_train.py", file])
    assert (first, second) == (0, 0), said[-3000:] + also_said[-3000:]
    for name in EQUAL:
        train(arguments(folder / f"one-{name}", 4, EQUAL[name]), folder / f"one-{name}.jsonl")
    return folder


def rows_of(trainings: Path, name: str) -> list[list[dict]]:
    return [noted(trainings / f"rows-{list(RUNS).index(name)}-{rank}.jsonl") for rank in (0, 1)]


# --- Two processes are one with the doubled batch


@pytest.mark.parametrize("name", EQUAL)
def test_each_process_learns_from_other_rows_and_both_from_those_of_one(trainings, name):
    one, two = noted(trainings / f"one-{name}.jsonl"), rows_of(trainings, name)
    assert [batch["processes"] for batch in (*one, *two[0], *two[1])] == [1] * 10 + [2] * 20
    for whole, first, second in zip(one, *two, strict=True):
        assert sorted(first["rows"] + second["rows"]) == sorted(whole["rows"])
        assert not any(row in second["rows"] for row in first["rows"])


def test_some_batch_has_pictures_in_one_process_and_none_in_the_other(trainings):
    pictures = [[batch["rows_with_pictures"] for batch in rank] for rank in rows_of(trainings, "full")]
    assert any((first == 0) != (second == 0) for first, second in zip(*pictures, strict=True))


@pytest.mark.parametrize("name", EQUAL)
def test_two_processes_give_the_loss_and_the_weights_of_one(trainings, name):
    one, two = trainings / f"one-{name}", trainings / f"two-{name}"
    assert "6 steps of 8 samples" in (two / "README.md").read_text(encoding="utf-8")
    for key in ("loss", "grad_norm", "mean_token_accuracy"):
        expected = torch.tensor([entry[key] for entry in log(one)])
        torch.testing.assert_close(torch.tensor([entry[key] for entry in log(two)]), expected, rtol=1e-5, atol=1e-6)
    one, two = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert one.keys() == two.keys()
    torch.testing.assert_close(two, one, rtol=1e-5, atol=2e-6)


# --- The same, twice, and together


def test_two_processes_give_the_same_bytes_twice(trainings):
    first, again = ((trainings / f"two-{name}" / "model.safetensors").read_bytes() for name in ("dropout", "again"))
    assert first == again


def test_no_row_is_left_out_of_an_epoch_where_processes_draw_other_random_numbers(trainings):
    ranks = rows_of(trainings, "dropout")
    for epoch in (slice(0, 5), slice(5, 10)):
        seen = [str(row) for rank in ranks for batch in rank[epoch] for row in batch["rows"]]
        assert len(seen) == 20 == len(set(seen))


def test_accelerate_launches_two_processes_by_the_config_for_it(tiny_foundations, drawn_dataset, tmp_path):
    command = [Path(sys.executable).with_name("accelerate"), "launch", "--config_file", TWO_PROCESSES]
    command += [ROOT / "train_sft.py", "--config", RECIPE]
    command += options(tiny_foundations["llava"], drawn_dataset, tmp_path / "output")
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "2 steps of 8 samples" in (tmp_path / "output" / "README.md").read_text(encoding="utf-8")
    assert result.stdout.count(f"Model saved to {tmp_path / 'output'}.") == 1
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "output", trust_remote_code=True)
    assert model.config.model_type == "emollm"


# --- Killed and stopped


def test_killed_and_stopped_trainings_go_on_together_to_the_same_weights(trainings, arguments, tmp_path):
    output, file, script = tmp_path / "output", tmp_path / "runs.json", HERE / "process_train.py"
    given = arguments(output, 2, RUNS["saved"])
    file.write_text(json.dumps([given]), encoding="utf-8")
    # One process is killed, so that the other fails.
    (first, said), (second, _) = run_two([script, file], [script, file, "SIGKILL", 3])
    assert first != 0 and second == -signal.SIGKILL, said[-3000:]
    assert sorted(path.name for path in output.glob("checkpoint-*/")) == ["checkpoint-2"]
    # One process is signalled, and both stop.
    file.write_text(json.dumps([[*given, "--resume_from_checkpoint", "last"]]), encoding="utf-8")
    (first, said), (second, _) = run_two([script, file], [script, file, "SIGTERM", 2])
    assert (first, second) == (143, 143), said[-3000:]
    assert said.count("--resume_from_checkpoint last, to go on:") == 1
    assert sorted(path.name for path in output.glob("checkpoint-*/")) == ["checkpoint-2", "checkpoint-3"]
    (first, said), (second, _) = run_two([script, file])
    assert (first, second) == (0, 0), said[-3000:]
    assert (output / "model.safetensors").read_bytes() == (trainings / "two-saved/model.safetensors").read_bytes()


# --- FSDP2


def test_mvp_is_trained_in_a_model_that_two_processes_share_and_loads_on_one(
    tiny_foundations, mixture, drawn_dataset, tmp_path
):
    given, output = (str(tiny_foundations["llava"]), str(mixture)), tmp_path / "output"
    (first, said), (second, _) = run_two([HERE / "process_fsdp.py", *given, drawn_dataset, output])
    assert (first, second) == (0, 0), said[-3000:]
    model, steps = make(*given)
    expected = learn(model, steps[:1], slice(None), processes=1)
    scores = validate(model, given[0], str(drawn_dataset))
    expected += learn(model, steps[1:], slice(None), processes=1)
    assert model.model.multi_perspective_projection.up.weight.any()  # it learned, from answers of other lengths
    assert (steps[0][0]["labels"] != -100).sum() != (steps[0][1]["labels"] != -100).sum()
    said = json.loads((output / "said.json").read_text(encoding="utf-8"))
    assert said["scores"] == scores and len(scores) == 7
    assert said["processes"] == 2 and 0.45 < said["share"] < 0.55
    torch.testing.assert_close(torch.tensor(said["losses"]), torch.tensor(expected), rtol=1e-5, atol=1e-6)
    loaded = AutoModelForImageTextToText.from_pretrained(output, trust_remote_code=True).eval()
    inputs = {name: value for name, value in steps[0][0].items() if name != "labels"}
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model.eval()(**inputs).logits, rtol=1e-5, atol=1e-5)


# --- Launches that would train alone


def test_several_processes_that_do_not_find_each_other_are_refused(tiny_foundations, drawn_dataset, tmp_path):
    alone = options(tiny_foundations["llava"], drawn_dataset, tmp_path / "output")
    alone.remove("--use_cpu")
    for code, output in run_two([ROOT / "train_sft.py", "--config", RECIPE, *alone]):
        assert code == 1 and "WORLD_SIZE=2, but 1 process trains" in output, output[-3000:]
    assert not (tmp_path / "output").exists()


def test_a_launcher_that_starts_one_process_instead_of_two_is_noticed(tiny_foundations, drawn_dataset, tmp_path):
    command = [Path(sys.executable).with_name("accelerate"), "launch", "--cpu", "--num_processes", "2"]
    command += [ROOT / "train_sft.py", "--config", RECIPE]
    command += options(tiny_foundations["llava"], drawn_dataset, tmp_path / "output")
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert result.returncode != 0 and "started one process for several" in result.stderr, result.stderr[-3000:]
    assert not (tmp_path / "output").exists()
