"""What the tests of training share."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from sft_run import KINDS, RECIPE, ROOT, options
from transformers import AutoProcessor

from benchmarks.captions import main as draw_captions
from modeling_emollm import attach_emoprompt
from training.data import load_mixture


@pytest.fixture
def processors(tiny_foundations) -> dict:
    return {kind: attach_emoprompt(AutoProcessor.from_pretrained(tiny_foundations[kind])) for kind in KINDS}


@pytest.fixture(scope="session")
def rows(drawn_dataset) -> list[dict]:
    """Two rows of each task: with one picture and with several, closed and open."""
    table = load_mixture([str(drawn_dataset)], None, "train", 0)
    chosen = {}
    for i, (task, row_id) in enumerate(zip(table["task"], table["id"], strict=True)):
        chosen.setdefault((task, row_id.partition("#")[2]), []).append(i)
    return [table[i] for places in chosen.values() for i in places[:2]]


@pytest.fixture(scope="session")
def captions(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("captions") / "captions"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["captions.py", "--output", str(folder), "--size", "8"])
        draw_captions()
    return folder


@pytest.fixture(scope="session")
def trained(tiny_foundations, drawn_dataset, tmp_path_factory) -> Path:
    """The folder of an EmoLLM that the command of the README's kind has trained for four steps."""
    folder = tmp_path_factory.mktemp("trained") / "emollm"
    command = [Path(sys.executable).with_name("accelerate"), "launch", "--cpu", ROOT / "train_sft.py"]
    command += ["--config", RECIPE, *options(tiny_foundations["llava"], drawn_dataset, folder, max_steps=4)]
    result = subprocess.run(
        command, cwd=folder.parent, env=os.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert f"Model saved to {folder}." in result.stdout
    return folder


@pytest.fixture
def command(monkeypatch, tiny_foundations, drawn_dataset, tmp_path):
    """Runs `train_sft.py` as a command, but in this process."""

    def run(recipe: Path, *arguments: str, **fields):
        given = {"model": tiny_foundations["llava"], "dataset": drawn_dataset, "output": tmp_path / "output", **fields}
        monkeypatch.setattr(sys, "argv", ["train_sft.py", "--config", str(recipe), *options(**given), *arguments])
        runpy.run_path(str(ROOT / "train_sft.py"), run_name="__main__")

    return run
