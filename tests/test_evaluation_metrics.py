"""Scores from prediction records, against hand computation, scikit-learn and scipy."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from evaluation.metrics import bootstrap, paired_difference, score, weighted_scores


EMOTIONS = ["happiness", "sadness", "anger"]


def make_records(pairs, task="hate_detection", setting="closed", choices=("no", "yes"), source="drawn"):
    return [
        {
            "id": f"{source}/test/{i}#{setting}",
            "source": source,
            "task": task,
            "setting": setting,
            "answer": answer,
            "choices": list(choices),
            "prediction": prediction,
        }
        for i, (answer, prediction) in enumerate(pairs)
    ]


def noisy_records(n, accuracy, seed, **fields):
    rng = np.random.default_rng(seed)
    answers = rng.choice(["no", "yes"], n, p=[0.6, 0.4])
    flip = {"no": "yes", "yes": "no"}
    return make_records([(a, a if rng.random() < accuracy else flip[a]) for a in map(str, answers)], **fields)


def test_hand_computed_scores():
    # no: 2 hits of 3 answers and 2 guesses, F1 = 4/5; yes: 1 hit of 2 answers and 2 guesses, F1 = 2/4.
    hate = make_records([("no", "no"), ("no", "no"), ("no", "yes"), ("yes", "yes"), ("yes", None)])
    # happiness: 1 of 2 and 1, F1 = 2/3; sadness: 0 of 1 and 2, F1 = 0; anger neither occurs nor is predicted.
    pairs = [("happiness", "happiness"), ("happiness", "sadness"), ("sadness", "fear"), ("sadness", "happiness")]
    emotion = make_records(pairs[:3], "emotion_recognition", "open", EMOTIONS)
    result = score(hate + emotion)
    assert list(result["scores"]) == ["Emo-O", "hate"]
    scores = result["scores"]["hate"]
    assert scores["macro_f1"] == pytest.approx((4 / 5 + 2 / 4) / 2)
    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert (scores["n"], scores["unparsed"], scores["chance"], scores["majority"]) == (5, 1, 1 / 2, 3 / 5)
    scores = result["scores"]["Emo-O"]
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert scores["accuracy"] == pytest.approx(1 / 3)
    assert result["mean"]["macro_f1"] == pytest.approx((0.65 + 1 / 3) / 2)
    assert result["mean"]["n"] == 8


def test_sources_are_scored_by_themselves():
    drawn = make_records([("no", "no"), ("yes", "yes")])
    harmeme = make_records([("no", "yes"), ("yes", "no")] * 3, source="harmeme")
    scores = score(drawn + harmeme)["scores"]["hate"]
    assert scores["macro_f1"] == scores["accuracy"] == 0.5
    assert scores["sources"]["drawn"]["macro_f1"] == 1
    assert scores["sources"]["harmeme"]["macro_f1"] == 0


PREDICTIONS = [*EMOTIONS, "fear", None]


@given(st.lists(st.tuples(st.sampled_from(EMOTIONS), st.sampled_from(PREDICTIONS), st.integers(0, 3)), min_size=1))
def test_equal_to_scikit_learn(rows):
    answers, predictions, weights = zip(*rows, strict=True)
    assume(any(weights))
    scores = weighted_scores(answers, predictions, np.array([weights]))
    strings = [str(prediction) for prediction in predictions]
    options = {"labels": sorted(set(answers)), "average": "macro", "sample_weight": weights, "zero_division": np.nan}
    assert scores["macro_f1"][0] == pytest.approx(f1_score(answers, strings, **options))
    assert scores["accuracy"][0] == pytest.approx(accuracy_score(answers, strings, sample_weight=weights))


def test_weights_count_samples():
    pairs = [("no", "no"), ("no", "yes"), ("yes", "yes"), ("yes", None)]
    weights = np.array([[3, 0, 1, 2]])
    repeated = [pair for pair, weight in zip(pairs, weights[0], strict=True) for _ in range(weight)]
    weighted = weighted_scores(*zip(*pairs, strict=True), weights)
    assert weighted == weighted_scores(*zip(*repeated, strict=True), np.ones((1, 6)))


def test_interval_is_the_bootstrap_of_scipy():
    records = noisy_records(150, 0.7, seed=1)
    pairs = np.array([(record["answer"], record["prediction"]) for record in records])
    expected = scipy.stats.bootstrap(
        (np.arange(len(pairs)),),
        lambda rows: f1_score(pairs[rows, 0], pairs[rows, 1], average="macro"),
        n_resamples=500,
        vectorized=False,
        method="percentile",
        rng=0,
    ).confidence_interval
    scores = score(records)["scores"]["hate"]
    assert scores["interval"] == pytest.approx(list(expected), abs=0.02)
    assert scores["interval"][0] < scores["macro_f1"] < scores["interval"][1]


def test_interval_depends_on_the_seed_and_not_on_the_order():
    records = noisy_records(60, 0.7, seed=1)
    assert score(records) == score(records[::-1])
    assert score(records)["mean"]["interval"] != score(records, seed=1)["mean"]["interval"]


def test_no_blind_guesser_beats_chance():
    rng = np.random.default_rng(0)
    for preference in ([0.98, 0.01, 0.01], [0.6, 0.3, 0.1], [1 / 3] * 3, [0.1, 0.1, 0.8]):
        pairs = zip(
            rng.choice(EMOTIONS, 5000, p=[0.7, 0.2, 0.1]), rng.choice(EMOTIONS, 5000, p=preference), strict=True
        )
        scores = score(make_records([tuple(map(str, pair)) for pair in pairs], choices=EMOTIONS))["mean"]
        assert scores["macro_f1"] < scores["chance"] + 0.02


def test_paired_difference():
    first = noisy_records(200, 0.7, seed=1)
    # The second is right where the first is, and on 20 more: never worse in any resample.
    wrong = [i for i, record in enumerate(first) if record["prediction"] != record["answer"]][:20]
    second = [{**r, "prediction": r["answer"] if i in wrong else r["prediction"]} for i, r in enumerate(first)]
    result = paired_difference(first, second[::-1])["hate"]
    plain = [score(records)["scores"]["hate"] for records in (first, second)]
    assert result["difference"] == pytest.approx(plain[1]["macro_f1"] - plain[0]["macro_f1"])
    assert 0 < result["interval"][0] < result["difference"] < result["interval"][1]
    unpaired = noisy_records(200, 0.8, seed=2)
    unpaired = [{**r, "answer": f["answer"]} for r, f in zip(unpaired, first, strict=True)]
    wide = paired_difference(first, unpaired)["hate"]["interval"]
    assert result["interval"][1] - result["interval"][0] < 0.7 * (wide[1] - wide[0])
    assert paired_difference(first, first)["mean"] == {"difference": 0.0, "interval": [0.0, 0.0]}


def test_both_questions_about_a_picture_are_resampled_together():
    fields = {"task": "emotion_recognition"}
    closed, opened = (noisy_records(80, 0.7, seed=1, setting=setting, **fields) for setting in ("closed", "open"))
    replicates = bootstrap(closed + opened)
    assert np.array_equal(replicates["Emo-C"], replicates["Emo-O"])


def test_bad_input():
    records = noisy_records(10, 0.7, seed=1)
    with pytest.raises(ValueError, match="no predictions"):
        score([])
    with pytest.raises(ValueError, match="not about the same samples: 1 are in one only, as 'drawn/test/9#closed'"):
        paired_difference(records, records[:-1])
    with pytest.raises(ValueError, match="not about the same samples"):
        paired_difference(records, noisy_records(10, 0.7, seed=3))
    with pytest.raises(ValueError, match="unknown task and setting .'hate_detection', 'open'."):
        score([{**records[0], "setting": "open"}])
