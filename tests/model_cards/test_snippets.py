"""Every snippet and command of a card runs as it stands, with a folder in the place of the Hub's id."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from model_cards.cards import HERE
from model_cards.rendering import read_facts, render_facts
from modeling_emollm import EmoLLMForConditionalGeneration, attach_emoprompt


ROOT = Path(__file__).parents[2]
MODEL = HERE / "EmoLLM-Drawn"


@pytest.fixture(scope="module")
def models(tiny_foundations, tmp_path_factory) -> dict[bool, Path]:
    """A tiny EmoLLM, and a foundation with EmoPrompt, as train_sft.py saves them."""
    folders = {is_emollm: tmp_path_factory.mktemp("models") / str(is_emollm) for is_emollm in (True, False)}
    EmoLLMForConditionalGeneration.from_foundation(str(tiny_foundations["llava"]), mvp_size=16).save_pretrained(
        folders[True]
    )
    AutoModelForImageTextToText.from_pretrained(tiny_foundations["llava"]).save_pretrained(folders[False])
    for folder in folders.values():
        attach_emoprompt(AutoProcessor.from_pretrained(tiny_foundations["llava"])).save_pretrained(folder)
    return folders


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def run(command: list, folder: Path) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    result = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.parametrize("is_emollm", [True, False])
def test_the_snippets_of_a_models_card_load_it_and_ask_it(models, tmp_path, is_emollm):
    snippets = blocks("python", render_facts(read_facts(MODEL) | {"is_emollm": is_emollm}, [], "USER/MODEL", None))
    assert len(snippets) == 3 and sum("USER/MODEL" in snippet for snippet in snippets) == 2
    code = "".join(snippets).replace("USER/MODEL", str(models[is_emollm]))
    Image.new("RGB", (64, 64), "red").save(tmp_path / "picture.jpg")
    facts = "\nprint(type(model).__name__, 'valence' in processor.decode(inputs['input_ids'][0]))\n"
    *answers, told = run([sys.executable, "-c", code + facts], tmp_path).splitlines()
    kind = "EmoLLMForConditionalGeneration" if is_emollm else "LlavaForConditionalGeneration"
    assert told == f"{kind} True" and answers


def test_the_command_of_a_models_card_evaluates_it(models, drawn_dataset, tmp_path):
    (command,) = blocks("bash", (MODEL / "README.md").read_text(encoding="utf-8"))
    command = command.replace("USER/EmoLLM-Drawn", str(models[True])).replace(
        "USER/EmoBench-Drawn", str(drawn_dataset)
    )
    command = re.sub(r" --general \S+", "", re.sub(r"--tasks [\w ]+", "--tasks hate_detection ", command))  # for speed
    run(["bash", "-euo", "pipefail", "-c", f"{command.rstrip()} --limit 4"], tmp_path)
    told = [json.loads(path.read_text(encoding="utf-8")) for path in (MODEL / "results").glob("*.json")]
    made = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "results").glob("*/results.json")]
    settings = ("emoprompt", "split", "seed", "input", "label_score")
    assert {tuple(of[name] for name in settings) for of in made} == {
        tuple(of[name] for name in settings) for of in told
    }


def test_the_snippet_of_the_metrics_card_gives_a_score(tmp_path):
    (snippet,) = blocks("python", (HERE / "metric.md").read_text(encoding="utf-8"))
    output = run(
        [sys.executable, "-c", snippet.replace("USER/emobench", str(ROOT / "evaluation" / "emobench"))], tmp_path
    )
    score, _, interval = output.partition(" ")
    assert float(score) == pytest.approx(7 / 12) and len(json.loads(interval)) == 2
