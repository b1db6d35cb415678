"""Scores for the Hub, read back by huggingface_hub's own parser."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from evaluation.eval_results import make_entries


ROOT = Path(__file__).parents[2]
SCORES = {"macro_f1": 0.5, "interval": [0.4, 0.61234], "chance": 0.125, "n": 40}
RESULTS = {
    "model": "models/EmoLLM",
    "dataset": "data/EmoBench",
    "split": "test",
    "emoprompt": "answer",
    "input": "all",
    "limit": 32,
    "n": 80,
    "scores": {"Emo-C": SCORES, "hate": {**SCORES, "macro_f1": 2 / 3}},
    "mean": {**SCORES, "n": 80},
}


def test_written_file_is_read_by_the_hub_library(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    command = [sys.executable, "-m", "evaluation.eval_results", tmp_path, "--dataset-id", "someone/EmoBench"]
    command += ["--output", tmp_path / "model"]
    for _ in range(2):  # the second run replaces the file
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (file,) = (tmp_path / "model" / ".eval_results").iterdir()
    assert file.name == "emobench.yaml"
    entries = parse_eval_result_entries(yaml.safe_load(file.read_text()))
    assert entries == make_entries(RESULTS, "someone/EmoBench")
    assert [(entry.dataset_id, entry.task_id, entry.value) for entry in entries] == [
        ("someone/EmoBench", "Emo-C", 0.5),
        ("someone/EmoBench", "hate", 2 / 3),
        ("someone/EmoBench", "mean", 0.5),
    ]
    assert entries[0].notes == (
        "macro F1, 95% interval 0.4000 to 0.6123, chance 0.1250, n 40, test split, at most 32 samples a task, "
        "EmoPrompt answer"
    )
    (whole, *_) = make_entries({**RESULTS, "limit": None, "emoprompt": None}, "someone/EmoBench")
    assert whole.notes.endswith("test split") and whole.dataset_revision is None
    (pinned, *_) = make_entries({**RESULTS, "dataset_commit": "a" * 40}, "someone/EmoBench")
    assert pinned.dataset_revision == "a" * 40


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="input 'text', which is a baseline"):
        make_entries({**RESULTS, "input": "text"}, "someone/EmoBench")
    with pytest.raises(ValueError, match="Repo id must .*'data/EmoBench/test'"):
        make_entries(RESULTS, "data/EmoBench/test")
    command = [sys.executable, "-m", "evaluation.eval_results", tmp_path, "--dataset-id", "a/b", "--output", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "There is no" in done.stderr and "evaluation.run" in done.stderr
