"""The committed cards are what their command makes of the measured files beside them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from model_cards.cards import HERE, render_all
from model_cards.rendering import read_facts, read_runs


ROOT = Path(__file__).parents[2]
MODEL = HERE / "EmoLLM-Drawn"
RENDERED = render_all()


@pytest.mark.parametrize("path", RENDERED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_is_committed_is_what_the_command_renders(path):
    assert path.read_text(encoding="utf-8") == RENDERED[path], "python -m model_cards.cards"


def test_the_command_writes_what_is_committed():
    before = {path: path.read_bytes() for path in RENDERED}
    result = subprocess.run([sys.executable, "-m", "model_cards.cards"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [path.relative_to(ROOT).as_posix() for path in before]
    assert {path: path.read_bytes() for path in before} == before


def test_every_score_of_the_card_is_in_the_measured_files():
    text = (MODEL / "README.md").read_text(encoding="utf-8")
    runs = read_runs(sorted((MODEL / "results").glob("*.json")))
    assert {run["emoprompt"] for run in runs} == {None, "answer", "reason"}
    for run in runs:
        for name, scores in [*run["scores"].items(), ("mean", run["mean"])]:
            (row,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
            low, high = scores["interval"]
            assert f"| {100 * scores['macro_f1']:.1f} [{100 * low:.1f}, {100 * high:.1f}] |" in row
            assert f"| {100 * scores['chance']:.1f} | {100 * scores['majority']:.1f} |" in row
    scores = {score.metric_name: score.metric_value for score in ModelCard(text).data.eval_results}
    plain = next(run for run in runs if run["emoprompt"] is None)
    assert scores["macro F1 of hate, without EmoPrompt"] == round(plain["scores"]["hate"]["macro_f1"], 4)
    assert len(scores) == 18
    facts = read_facts(MODEL)
    assert f"{facts['steps']} steps of {facts['batch_size']} samples" in text
    assert f"{facts['seconds'] / 60:.1f} minutes on 1 x CPU" in text


@pytest.mark.parametrize("path", sorted(path for path in HERE.rglob("*") if path.suffix in (".md", ".json")))
def test_nothing_that_is_committed_names_a_local_path(path):
    assert not re.search(r"(?<![\w.:/*])[/~]/?(home|tmp|work|root|usr|var|mnt)\b", path.read_text(encoding="utf-8"))
