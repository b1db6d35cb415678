"""Scores during training: the evaluation's, on any number of processes, and what early stopping makes of them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import Dataset
from sft_run import ROOT, train, words
from transformers import AutoProcessor
from trl import SFTConfig

from evaluation import run
from modeling_emollm import EmoLLMForConditionalGeneration, attach_emoprompt
from training import validation
from training.trainer import EmoLLMTrainer
from training.validation import Validation


TASKS = {"Emo-C", "Emo-O", "intent", "hate", "humor", "sarcasm"}
SCORED = {"eval_strategy": "steps", "eval_steps": 1, "eval_samples": 6}


def log_of(checkpoint: Path) -> list[dict]:
    """What was logged at the evaluations until then."""
    logs = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [log for log in logs if "eval_loss" in log]


@pytest.fixture(scope="module")
def few(drawn_dataset, tmp_path_factory) -> str:
    """Two tasks with few validation rows, so that no time is spent on their loss."""
    folder, configs = tmp_path_factory.mktemp("few") / "few", []
    for task in ("emotion_recognition", "hate_detection"):
        (folder / task).mkdir(parents=True)
        configs.append({"config_name": task, "data_files": []})
        for split in ("train", "validation"):
            (path,) = (drawn_dataset / task).glob(f"{split}*.parquet")
            pq.write_table(pq.read_table(path)[:12], folder / task / f"{split}.parquet")
            configs[-1]["data_files"].append({"split": split, "path": f"{task}/{split}.parquet"})
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n", encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def processor(tiny_foundations):
    return attach_emoprompt(AutoProcessor.from_pretrained(tiny_foundations["llava"]))


@pytest.fixture
def trainer(tiny_foundations, processor, tmp_path):
    model = EmoLLMForConditionalGeneration.from_foundation(str(tiny_foundations["llava"]), mvp_size=16)
    args = SFTConfig(str(tmp_path), remove_unused_columns=False, use_cpu=True, bf16=False, report_to="none")
    rows = Dataset.from_list([words(0)])  # it trains nothing
    return EmoLLMTrainer(model=model, args=args, data_collator=list, train_dataset=rows, processing_class=processor)


# --- The scores


@pytest.mark.parametrize(("upgrade", "choice", "share"), [(True, "mvp+lora", 0.5), (False, "full", 0.0)])
def test_the_scores_are_those_of_the_evaluation(tiny_foundations, drawn_dataset, tmp_path, upgrade, choice, share):
    fields = {"upgrade": upgrade, "train": choice, "emoprompt_share": share, "learning_rate": 1e-2, "seed": 3}
    output = tmp_path / "model"
    train(tiny_foundations["llava"], drawn_dataset, output, save_strategy="steps", save_steps=2, **fields, **SCORED)
    logged = log_of(output / "checkpoint-2")[-1]
    arguments = ["--model", output, "--dataset", drawn_dataset, "--output", tmp_path / "run", "--split", "validation"]
    arguments += ["--limit", 6, "--seed", 3, "--emoprompt", "answer" if share else "none"]
    run.main(run.make_parser().parse_args(list(map(str, arguments))))
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    expected = {f"eval_{name}_macro_f1": scores["macro_f1"] for name, scores in results["scores"].items()}
    expected["eval_mean_macro_f1"] = results["mean"]["macro_f1"]
    assert {name: value for name, value in logged.items() if name.endswith("macro_f1")} == pytest.approx(expected)
    assert set(results["scores"]) == TASKS and 0 < results["mean"]["macro_f1"] < 1


def test_only_the_chosen_tasks_are_scored(drawn_dataset, captions, processor, trainer):
    chosen = [f"{drawn_dataset}:hate_detection,sarcasm_detection", str(captions)]
    scores = Validation(chosen, processor, None, 4, 16, 0)(trainer)
    assert set(scores) == {"mean_macro_f1", "hate_macro_f1", "sarcasm_macro_f1"}
    assert Validation([str(captions)], processor, None, 4, 16, 0)(trainer) == {}


SHARES = """
import json, sys
from accelerate import Accelerator
from types import SimpleNamespace
from transformers import AutoModelForImageTextToText, AutoProcessor
from training import validation

folder, dataset, output = sys.argv[1:]
answered, answer_batch = [], validation.answer_batch

def spy(model, processor, prepared):
    answered.extend([row["task"], row["id"]] for rows in prepared.rows for row in rows)
    return answer_batch(model, processor, prepared)

validation.answer_batch = spy
accelerator = Accelerator(cpu=True)
model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
trainer = SimpleNamespace(
    accelerator=accelerator, model=model, is_fsdp_enabled=False, args=SimpleNamespace(disable_tqdm=True)
)
scores = validation.Validation([dataset], processor, None, 7, 4, 0)(trainer)
trainer.is_fsdp_enabled, shared = True, list(answered)
answered.clear()
again = validation.Validation([dataset], processor, None, 7, 4, 0)(trainer)
assert again == scores and len(answered) == 42
with open(f"{output}.{accelerator.process_index}", "w") as file:
    json.dump({"processes": accelerator.num_processes, "scores": scores, "answered": shared}, file)
"""


def test_two_processes_share_the_rows_and_have_the_scores_of_one(tiny_foundations, drawn_dataset, tmp_path):
    found = {}
    for number in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
        (tmp_path / "shares.py").write_text(SHARES, encoding="utf-8")
        command += [tmp_path / "shares.py", tiny_foundations["llava"], drawn_dataset, tmp_path / f"out{number}"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "1"}
        result = subprocess.run(
            command, env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr[-3000:]
        found[number] = [json.loads((tmp_path / f"out{number}.{i}").read_text()) for i in range(number)]
    (one,), (first, second) = found[1], found[2]
    assert [part["processes"] for part in (one, first, second)] == [1, 2, 2]
    assert first["scores"] == second["scores"] == one["scores"]
    assert len(first["answered"]) > 10 and len(second["answered"]) > 10
    assert sorted(first["answered"] + second["answered"]) == sorted(one["answered"])


def test_a_picture_that_can_not_be_decoded_is_counted(drawn_dataset, processor, trainer, tmp_path, caplog):
    folder = tmp_path / "broken"
    shutil.copytree(drawn_dataset, folder)
    (path,) = folder.glob("hate_detection/validation*.parquet")
    table = pq.read_table(path)
    pictures = table["images"].to_pylist()
    pictures[0][0]["bytes"] = pictures[0][0]["bytes"][:60]
    place = table.column_names.index("images")
    pq.write_table(table.set_column(place, "images", pa.array(pictures, table.schema.field("images").type)), path)
    number, row_id = len(pictures), table["id"][0].as_py()
    scorer = Validation([f"{folder}:hate_detection"], processor, None, number, 4, 0)
    scorer(trainer)
    (warning,) = [record.getMessage() for record in caplog.records if "can't be decoded" in record.getMessage()]
    assert warning.startswith(f"1 of {number} validation rows") and row_id in warning


def test_no_samples_are_refused(drawn_dataset, processor):
    with pytest.raises(ValueError, match="eval_samples=0 must be at least 1; to score nothing set eval_strat"):
        Validation([str(drawn_dataset)], processor, None, 0, 4, 0)


# --- What they leave as it was


@pytest.mark.parametrize("training", [False, True])
def test_mode_and_random_numbers_are_left_as_they_were(drawn_dataset, processor, trainer, monkeypatch, training):
    answer_batch, modes = validation.answer_batch, []

    def draws(model, *args):
        modes.append(model.training)
        torch.rand(3)
        return answer_batch(model, *args)

    monkeypatch.setattr(validation, "answer_batch", draws)
    trainer.model.train(training)
    state = torch.get_rng_state()
    Validation([f"{drawn_dataset}:hate_detection"], processor, "answer", 4, 4, 0)(trainer)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(modes) and all(module.training == training for module in trainer.model.modules())


def test_a_training_with_scores_has_the_weights_of_one_without(tiny_foundations, few, tmp_path):
    fields = {"train": "mvp+lora", "lora_dropout": 0.3, "max_steps": 3, "learning_rate": 1e-2}
    plain = train(tiny_foundations["llava"], few, tmp_path / "plain", **fields)
    scored = train(tiny_foundations["llava"], few, tmp_path / "scored", **fields, **SCORED)
    assert all(torch.equal(plain[name], scored[name]) for name in plain)
    other = train(tiny_foundations["llava"], few, tmp_path / "other", **fields | {"lora_dropout": 0.0})
    assert any(not torch.equal(plain[name], other[name]) for name in plain)  # there is dropout to be disturbed


# --- Early stopping


@pytest.fixture
def scripted(monkeypatch) -> Callable:
    """Scores that a test writes, one an evaluation."""

    def write(*scores: float) -> None:
        left = iter(scores)
        monkeypatch.setattr(Validation, "__call__", lambda self, trainer: {"mean_macro_f1": next(left)})

    return write


STOPPING = SCORED | {"early_stopping_patience": 2, "save_strategy": "best", "max_steps": 9, "learning_rate": 1e-2}


@pytest.mark.parametrize(
    ("choice", "upgrade", "kind"),
    [("full", True, "llava"), ("mvp+lora", True, "idefics3"), ("full", False, "gemma3"), ("mvp+lora", False, "llava")],
)
def test_it_ends_with_the_best_model(tiny_foundations, few, tmp_path, scripted, choice, upgrade, kind):
    scripted(0.1, 0.5, 0.5, 0.3)  # an equal score is no better
    fields = STOPPING | {"train": choice, "upgrade": upgrade}
    kept = train(tiny_foundations[kind], few, tmp_path / "stopped", **fields)
    state = json.loads((tmp_path / "stopped" / "checkpoint-2" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["best_global_step"] == 2 and state["best_metric"] == 0.5
    assert not (tmp_path / "stopped" / "checkpoint-5").exists()
    fields = {"train": choice, "upgrade": upgrade, "learning_rate": 1e-2, "max_steps": 2}
    best = train(tiny_foundations[kind], few, tmp_path / "best", **fields)
    assert all(torch.equal(kept[name], best[name]) for name in best)


def test_it_stops_at_the_same_step_when_resumed(tiny_foundations, few, tmp_path, scripted, capsys):
    fields = STOPPING | {"save_strategy": "steps", "save_steps": 1}
    scripted(0.5, 0.4, 0.3, 0.9)
    whole = train(tiny_foundations["llava"], few, tmp_path, **fields)
    assert (tmp_path / "checkpoint-3").exists() and not (tmp_path / "checkpoint-4").exists()
    for last in (3, 2):  # the one it had stopped at, and one with an evaluation less
        scripted(*[0.3, 0.9] if last == 2 else [0.9])
        again = train(tiny_foundations["llava"], few, tmp_path, resume_from_checkpoint="last", **fields)
        assert not (tmp_path / "checkpoint-4").exists()
        assert all(torch.equal(whole[name], again[name]) for name in whole)
        shutil.rmtree(tmp_path / "checkpoint-3")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"early_stopping_patience": 0}, "early_stopping_patience=0 must be at least 1"),
        ({"eval_strategy": "no"}, "early_stopping_patience=2 needs scores, but eval_strategy=no: set it to"),
        (
            {"metric_for_best_model": "eval_hate_macro_f1"},
            "goes by mean_macro_f1, not metric_for_best_model=eval_",
        ),
        ({"save_strategy": "no"}, r"save_strategy=no .* does not save whenever eval_strategy=steps .* scores: set"),
        ({"save_strategy": "steps", "save_steps": 2}, r"\(save_steps=2\) does not save whenever .*\(eval_steps=1\)"),
    ],
)
def test_what_contradicts_it_is_refused(tiny_foundations, few, tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        train(tiny_foundations["llava"], few, tmp_path, **STOPPING | fields)


def test_it_needs_a_task_of_emobench(tiny_foundations, captions, tmp_path):
    with pytest.raises(ValueError, match="None of .* has rows for validation"):
        train(tiny_foundations["llava"], captions, tmp_path, **STOPPING)
