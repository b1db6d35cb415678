"""EmoBench in lmms-eval itself, in an environment of its own: the same predictions and scores as `evaluation.run`."""

import importlib
import json
import math
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from datasets import Dataset, load_dataset
from environment import make_environment
from transformers import AutoProcessor

from benchmarks.conformance.checks import as_if_trained
from dataset_scripts.features import FEATURES
from dataset_scripts.tasks import TASKS
from evaluation import run
from evaluation.predictions import draw_samples, read_predictions
from modeling_emollm import EmoLLMForConditionalGeneration


ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "evaluation" / "lmms_eval" / "requirements.txt"
SUB_TASKS = {
    "Emo-C": "emobench_emo_c",
    "Emo-O": "emobench_emo_o",
    "intent": "emobench_intent",
    "hate": "emobench_hate",
    "humor": "emobench_humor",
    "sarcasm": "emobench_sarcasm",
}
LONGER = {  # labels of several tokens, which differ in the first, and which do not
    "hate_detection": {"no": "not hateful at all", "yes": "hateful"},
    "intent_understanding": {"eat": "eat a picnic", "sleep": "eat a sandwich", "play": "eat", "travel": "eat again"},
}


@pytest.fixture(scope="module")
def lmms_eval_python() -> Path:
    """Python of an environment that has lmms-eval in front of everything that is installed here."""

    def drop_tasks(packages: Path) -> None:
        for tasks in (packages / "lmms_eval" / "tasks").iterdir():
            if tasks.is_dir():  # its own, which it would read at each start, for longer than it runs ours
                shutil.rmtree(tasks)

    options = ["--no-deps", "--only-binary", ":all:"]
    return make_environment("lmms-eval", REQUIREMENTS, *options, finish=drop_tasks)


@pytest.fixture(scope="module")
def emollm(tiny_foundations, tmp_path_factory) -> Path:
    """An EmoLLM whose MVP acts as if trained, and that likes to name emotions where it is asked openly."""
    folder = tmp_path_factory.mktemp("lmms_eval") / "emollm"
    torch.manual_seed(0)
    model = as_if_trained(EmoLLMForConditionalGeneration.from_foundation(str(tiny_foundations["llava"])))
    processor = AutoProcessor.from_pretrained(tiny_foundations["llava"])
    named = [*TASKS["emotion_recognition"].sources["drawn"].labels, processor.tokenizer.eos_token]
    with torch.no_grad():
        model.get_output_embeddings().weight[processor.tokenizer.convert_tokens_to_ids(named)] *= 5
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(drawn_dataset, tmp_path_factory) -> Path:
    """EmoBench-Drawn, some of whose labels have several tokens."""
    folder = tmp_path_factory.mktemp("lmms_eval") / "dataset"
    shutil.copytree(drawn_dataset, folder)
    for task, names in LONGER.items():
        rows = load_dataset(str(drawn_dataset), task, split="test").to_list()
        for row in rows:
            row["choices"] = [names[label] for label in row["choices"]]
            row["answers"] = [names[label] for label in row["answers"]]
            row["answer"] = names[row["answer"]]
        (file,) = folder.glob(f"{task}/test-*.parquet")
        Dataset.from_list(rows, features=FEATURES).to_parquet(file)
    return folder


def test_lmms_eval_predicts_and_scores_as_our_runner(lmms_eval_python, emollm, dataset, tmp_path):
    options = ["--model", emollm, "--dataset", dataset, "--output", tmp_path / "ours", "--limit", 8]
    run.main(run.make_parser().parse_args(list(map(str, options))))
    ours = {(record["task"], record["id"]): record for record in read_predictions(tmp_path / "ours")}
    scores = json.loads((tmp_path / "ours" / "results.json").read_text())

    block = re.search(r"```text\n(pip install .*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    install, command = block.group(1).replace("\\\n", "").splitlines()
    assert install.endswith(f"-r {REQUIREMENTS.relative_to(ROOT)}")
    for word, instead in {
        "data/EmoBench-Drawn": dataset,
        "python": lmms_eval_python,
        "outputs/emollm": emollm,
        "results/lmms-eval": tmp_path / "theirs",
    }.items():
        assert command.count(word) == 1
        command = command.replace(word, str(instead))
    variable, *words = shlex.split(f"{command} --limit 8")
    name, _, value = variable.partition("=")
    result = subprocess.run(
        words, cwd=ROOT, env=os.environ | {name: value}, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (file,) = tmp_path.glob("theirs/*/*_results.json")
    results = json.loads(file.read_text())

    seen = set()
    for sub_task, name in SUB_TASKS.items():
        (file,) = tmp_path.glob(f"theirs/*/*_samples_{name}.jsonl")
        theirs = [json.loads(line)["macro_f1"] for line in file.read_text().splitlines()]
        for record in theirs:
            expected = ours[record["task"], record["id"]]
            assert record["prediction"] == expected["prediction"]
            assert record["text"] == (expected["text"] and expected["text"].strip())
            if record["task"] != "intent_understanding":  # there, those that can't win have bounds for probabilities
                shares = expected["probabilities"]
                assert record["probabilities"] == (shares and pytest.approx(shares, rel=1e-4))
            seen.add((record["task"], record["id"]))
        for metric in ("macro_f1", "accuracy"):
            assert results["results"][name][f"{metric},none"] == pytest.approx(scores["scores"][sub_task][metric])
        assert results["versions"][name] == TASKS[results["configs"][name]["dataset_name"]].version
        assert {record["prediction"] for record in theirs} != {None}
    assert seen == set(ours) and len(seen) == 48
    assert results["results"]["emobench"]["macro_f1,none"] == pytest.approx(scores["mean"]["macro_f1"])


@pytest.fixture
def utils(monkeypatch):
    monkeypatch.setenv("EMOBENCH", "USER/EmoBench")
    return importlib.import_module("evaluation.lmms_eval.utils")


def test_rows_are_in_the_order_of_limit_and_have_one_label(utils):
    names = [f"drawn/test/{i}" for i in range(20)]
    rows = [
        {"id": f"{name}#{setting}", "task": "emotion_recognition", "source": "drawn", "setting": setting}
        for name in names
        for setting in ("closed", "open")
    ]
    rows.append({"id": "x", "task": "intent_understanding", "source": "intentonomy", "setting": "closed"})
    closed, opened = utils.closed_rows(Dataset.from_list(rows)), utils.open_rows(Dataset.from_list(rows))
    assert {name.removesuffix("#closed") for name in closed["id"][:7]} == set(draw_samples(names, 7, seed=0))
    assert [name.split("#")[0] for name in closed["id"]] == [name.split("#")[0] for name in opened["id"]]
    assert set(closed["setting"]) == {"closed"} and set(opened["setting"]) == {"open"} and len(closed) == 20


@pytest.mark.parametrize(
    "results, prediction, error",
    [
        ([(2.5, False), (0.5, True)], "yes", None),
        (["(2.5, False)", "(0.5, True)"], "yes", None),  # as lmms-eval 0.7 hands them on
        ([(math.inf, True), (math.inf, False)], None, "NaN"),
        (["(0.5, True)", "(nan, False)"], None, "NaN"),
    ],
)
def test_closed_answers(utils, results, prediction, error):
    row = dict.fromkeys(utils.COPIED) | {"setting": "closed", "choices": ["no", "yes"]}
    record = utils.process_results(row, results)["macro_f1"]
    assert (record["prediction"], record["error"]) == (prediction, error)


def test_the_dataset_has_to_be_named(utils, monkeypatch):
    monkeypatch.delenv("EMOBENCH")
    with pytest.raises(ValueError, match="Set the environment variable EMOBENCH"):
        importlib.reload(utils)
