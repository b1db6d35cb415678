"""The metric of WOAH 2021's shared task: published scores from the shipped predictions, and a hand-computed case."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.fine_grained_hate import QUESTIONS, fine_grained_scores


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "split, key, precision", [("dev_seen", "dev_seen", 1e-12), ("dev_unseen", "dev_unseen_computed_here", 5e-7)]
)
def test_published_scores(shared_data, split, key, precision):
    """The second reference has six digits."""
    folder = shared_data / "hateful_memes_fine"
    if not folder.is_dir():
        pytest.skip("no hateful_memes_fine in shared/data: the published scores need the shipped predictions")
    command = [sys.executable, "-m", "evaluation.fine_grained_hate", "--answers", folder / f"{split}.json"]
    command += ["--predictions", folder / "predictions" / f"{split}.json"]
    scores = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    expected = json.loads((folder / "reference_scores.json").read_text())[key]
    assert set(expected) == set(scores) == set(QUESTIONS)
    for question, values in expected.items():
        for name, value in values.items():
            assert scores[question][name] == pytest.approx(value, abs=precision, rel=0), (question, name)


def meme(i, *labels):
    return {"id": i} | {f"gold_{question}": list(labels) for question in QUESTIONS}


def prediction(i, **shares):
    return {"id": i} | {f"pred_{question}": shares for question in QUESTIONS}


def test_hand_computed_scores():
    answers = [meme(1, "a"), meme(2, "b"), meme(3, "a", "c"), meme(4, "b")]  # c is nobody's first, 4 is not predicted
    predictions = [
        prediction(1, a=0.9, b=0.2, c=0.9),
        prediction(2, a=0.6, b=0.5, c=0),
        prediction(3, a=0.7, b=0.1, c=0),
    ]
    scores = fine_grained_scores(answers, predictions)["hate"]
    # over 0.5: a of 1, 2 and 3, of which two are right, and of b none: 2 hits, 3 guesses, 3 answers
    assert scores["f1_micro"] == pytest.approx(2 * 2 / (3 + 3))
    # of 3 x 3 pairs of a true and a false label, only 0.5 against 0.6 is in the wrong order
    assert scores["roc_auc"] == pytest.approx(8 / 9)
    assert scores["n"] == 3
    assert fine_grained_scores(answers, predictions + predictions[:1])["hate"]["n"] == 4


def test_bad_input():
    with pytest.raises(ValueError, match="None of the 1 predictions is about one of the 2 memes"):
        fine_grained_scores([meme(1, "a"), meme(2, "b")], [prediction(3, a=1, b=0)])
    with pytest.raises(ValueError, match="Meme 2: pred_hate has 1 labels and lacks b"):
        fine_grained_scores([meme(1, "a"), meme(2, "b")], [prediction(1, a=1, b=0), prediction(2, a=1)])
