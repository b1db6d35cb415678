"""`evaluate.load("evaluation/emobench")` in a process and a cache of its own gives the numbers of `metrics.score`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataset_scripts.tasks import TASKS
from evaluation.metrics import score


ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys
import evaluate
emobench = evaluate.load("evaluation/emobench")
results = []
for case in json.load(sys.stdin):
    try:
        results.append(emobench.compute(**case))
    except ValueError as error:
        results.append(str(error))
json.dump(results, sys.stdout)
"""
INTENTS = list(TASKS["intent_understanding"].sources["intentonomy"].labels)
HATE = {
    "task": "hate_detection",
    "source": "harmeme",
    "predictions": ["no", "yes", "yes", "", None] * 3,
    "references": ["no", "yes", "no", "no", "yes"] * 3,
    "probabilities": [[0.6, 0.4], [0.1, 0.9], [0.2, 0.8], [0.5, 0.5], [0.4, 0.6]] * 3,
}
EMOTION = {
    "task": "emotion_recognition",
    "source": "my own",
    "labels": ["calm", "tense", "asleep"],
    "predictions": ["calm", "tense", "tense", "asleep"] * 7,
    "references": ["calm", "tense", "calm", "tense"] * 7,
    "seed": 3,
}
INTENT = {
    "task": "intent_understanding",
    "source": "intentonomy",
    "predictions": [["enjoy life"], [], ["be happy", "enjoy life"]],
    "references": [["enjoy life", "be happy"], ["love animals"], ["be happy"]],
}


def records_of(case, choices):
    for i, (prediction, reference) in enumerate(zip(case["predictions"], case["references"], strict=True)):
        answers = reference if isinstance(reference, list) else [reference]
        given = prediction if isinstance(prediction, list) else [prediction] if prediction else []
        yield {
            **dict.fromkeys(("greedy", "error", "label_distribution")),
            "id": f"{i:03}",
            "source": case["source"],
            "task": case["task"],
            "setting": "closed",
            "split": "test",
            "answer": answers[0],
            "answers": answers,
            "choices": choices,
            "prediction": given[0] if given else None,
            "predictions": given,
            "probabilities": case["probabilities"][i] if "probabilities" in case else None,
        }


@pytest.fixture(scope="module")
def computed(tmp_path_factory) -> list:
    bad = [
        {**EMOTION, "labels": None},
        {**HATE, "probabilities": HATE["probabilities"][1:]},
        {**HATE, "predictions": ["maybe"] * 15},
    ]
    environment = os.environ | {"HF_HOME": str(tmp_path_factory.mktemp("fresh")), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env=environment,
        input=json.dumps([HATE, EMOTION, INTENT, *bad]),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "index, case, choices, task",
    [(0, HATE, ["no", "yes"], "hate"), (1, EMOTION, EMOTION["labels"], "Emo-C"), (2, INTENT, INTENTS, "intent")],
)
def test_the_numbers_are_those_of_the_evaluation(computed, index, case, choices, task):
    records = list(records_of(case, choices))
    assert computed[index] == score(records, case.get("seed", 0))["scores"][task]["sources"][case["source"]]


def test_bad_input(computed):
    assert "'my own' is no source of emotion_recognition; give its labels" in computed[3]
    assert "14 probabilities for 15 rows of harmeme" in computed[4]
    assert "'maybe' is none of its 2 choices" in computed[5]
