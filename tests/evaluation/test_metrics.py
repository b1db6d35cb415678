"""Scores from prediction records, against hand computation, scikit-learn and scipy."""

import json
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    classification_report,
    confusion_matrix,
    f1_score,
    log_loss,
    recall_score,
    roc_auc_score,
    top_k_accuracy_score,
)

from dataset_scripts.tasks import TASKS
from evaluation.classification import best_threshold, reliability_bins, weighted_macro_f1
from evaluation.groups import people_of
from evaluation.metrics import baseline, bootstrap, group_records, paired_difference, reliability, score
from evaluation.significance import exact_mcnemar, wilson


EMOTIONS = ["happiness", "sadness", "anger"]
INTENTS = list(TASKS["intent_understanding"].sources["intentonomy"].labels)


def make_record(i, answers, prediction, choices, task, source, setting="closed", split="test", **fields):
    return {
        "id": f"{source}/{split}/{i:05}#{setting}",
        "source": source,
        "task": task,
        "setting": setting,
        "split": split,
        "answer": answers[0],
        "answers": answers,
        "choices": list(choices),
        "label_distribution": [],
        "prediction": prediction,
        "predictions": None,
        "probabilities": None,
        "text": None,
        "greedy": None,
        "error": None,
    } | fields


def make_records(pairs, task="hate_detection", setting="closed", choices=("no", "yes"), source="drawn"):
    return [
        make_record(i, [answer], prediction, choices, task, source, setting)
        for i, (answer, prediction) in enumerate(pairs)
    ]


def noisy_records(n, accuracy, seed, **fields):
    rng = np.random.default_rng(seed)
    answers = rng.choice(["no", "yes"], n, p=[0.6, 0.4])
    flip = {"no": "yes", "yes": "no"}
    return make_records([(a, a if rng.random() < accuracy else flip[a]) for a in map(str, answers)], **fields)


def scored_records(n, choices, task, source, seed=0, votes=False):
    """Records with probabilities that lean to the answer; also answers (n,), probabilities and votes (n, C)."""
    rng = np.random.default_rng(seed)
    answers = rng.integers(len(choices), size=n)
    probabilities, shares = rng.dirichlet(np.full(len(choices), 0.7), (2, n))
    probabilities = 0.7 * probabilities + 0.3 * np.eye(len(choices))[answers]
    records = [
        make_record(i, [choices[a]], choices[p.argmax()], choices, task, source, probabilities=p.tolist())
        | ({"label_distribution": v.tolist()} if votes else {})
        for i, (a, p, v) in enumerate(zip(answers, probabilities, shares, strict=True))
    ]
    return records, answers, probabilities, shares


def intent_records(n, split, seed, choices=INTENTS):
    rng = np.random.default_rng(seed)
    truth = rng.random((n, len(choices))) < 0.1
    truth[np.arange(n), rng.integers(len(choices), size=n)] = True
    probabilities = rng.dirichlet(np.full(len(choices), 0.3), n) + 0.3 * truth
    probabilities /= probabilities.sum(1, keepdims=True)
    records = [
        make_record(
            i,
            [choices[j] for j in np.flatnonzero(row)],
            choices[p.argmax()],
            choices,
            "intent_understanding",
            "intentonomy",
            split=split,
            probabilities=p.tolist(),
        )
        for i, (row, p) in enumerate(zip(truth, probabilities, strict=True))
    ]
    return records, truth, probabilities


def test_hand_computed_scores():
    # no: 2 hits of 3 answers and 2 guesses, F1 = 4/5; yes: 1 hit of 2 answers and 2 guesses, F1 = 2/4.
    hate = make_records([("no", "no"), ("no", "no"), ("no", "yes"), ("yes", "yes"), ("yes", None)])
    # happiness: 1 of 2 and 1, F1 = 2/3; sadness: 0 of 1 and 1, F1 = 0; anger is no answer.
    pairs = [("happiness", "happiness"), ("happiness", "sadness"), ("sadness", "anger")]
    emotion = make_records(pairs, "emotion_recognition", "open", EMOTIONS)
    result = score(hate + emotion)
    assert list(result["scores"]) == ["Emo-O", "hate"]
    scores = result["scores"]["hate"]
    assert scores["macro_f1"] == pytest.approx((4 / 5 + 2 / 4) / 2)
    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert scores["weighted_f1"] == pytest.approx((3 * 4 / 5 + 2 * 2 / 4) / 5)
    assert scores["uar"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert (scores["n"], scores["unparsed"], scores["chance"], scores["majority"]) == (5, 1, 1 / 2, 3 / 5)
    assert scores["sources"]["drawn"]["confusion"] == [[2, 1, 0], [0, 1, 1]]
    scores = result["scores"]["Emo-O"]
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert scores["accuracy"] == pytest.approx(1 / 3)
    assert scores["sources"]["drawn"]["confusion"] == [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert result["mean"]["macro_f1"] == pytest.approx((0.65 + 1 / 3) / 2)
    assert result["mean"]["n"] == 8
    assert result["mean"]["auroc"] is result["mean"]["ece"] is result["mean"]["agreement"] is None
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_sources_are_scored_by_themselves():
    drawn = make_records([("no", "no"), ("yes", "yes")])
    harmeme = make_records([("no", "yes"), ("yes", "no")] * 3, source="harmeme")
    scores = score(drawn + harmeme)["scores"]["hate"]
    assert scores["macro_f1"] == scores["accuracy"] == 0.5
    assert scores["sources"]["drawn"]["macro_f1"] == 1
    assert scores["sources"]["harmeme"]["macro_f1"] == 0


def test_errors_and_unread_answers_are_wrong_and_counted():
    records = make_records([("no", "no"), ("yes", None), ("yes", None), ("no", None)])
    records[1]["error"], records[2]["error"] = "refused", "undecodable picture"
    scores = score(records)["mean"]
    assert (scores["accuracy"], scores["unparsed"]) == (0.25, 1)
    assert scores["errors"] == {"refused": 1, "undecodable picture": 1}


def test_agreement_with_greedy_generation():
    records = noisy_records(10, 1, seed=1)
    for record, greedy in zip(records, [records[0]["prediction"], "", records[2]["prediction"]], strict=False):
        record["greedy"] = greedy
    assert score(records)["scores"]["hate"]["agreement"] == pytest.approx(2 / 3)


PREDICTIONS = [*EMOTIONS, "fear", None]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(EMOTIONS), st.sampled_from(PREDICTIONS), st.integers(0, 3)), min_size=1))
def test_weighted_macro_f1_is_that_of_scikit_learn(rows):
    answers, predictions, weights = zip(*rows, strict=True)
    assume(any(weights))
    truth, guess = (
        [[row == label for label in PREDICTIONS[:-1]] for row in column] for column in (answers, predictions)
    )
    value = weighted_macro_f1(np.array(truth), np.array(guess), np.array([weights]))
    strings = [str(prediction) for prediction in predictions]
    options = {"labels": sorted(set(answers)), "average": "macro", "sample_weight": weights, "zero_division": np.nan}
    assert value[0] == pytest.approx(f1_score(answers, strings, **options))


@settings(deadline=None, max_examples=25)  # each draws a bootstrap
@given(st.lists(st.tuples(st.sampled_from(EMOTIONS), st.sampled_from([*EMOTIONS, None])), min_size=1, max_size=30))
def test_scores_are_those_of_scikit_learn(pairs):
    result = score(make_records(pairs, "emotion_recognition", choices=EMOTIONS))["scores"]["Emo-C"]
    source = result["sources"]["drawn"]
    answers, predictions = [a for a, _ in pairs], [str(p) for _, p in pairs]
    present = sorted(set(answers))
    assert result["accuracy"] == pytest.approx(accuracy_score(answers, predictions))
    options = {"labels": present, "zero_division": 0}
    assert result["macro_f1"] == pytest.approx(f1_score(answers, predictions, average="macro", **options))
    assert result["weighted_f1"] == pytest.approx(f1_score(answers, predictions, average="weighted", **options))
    assert result["uar"] == pytest.approx(recall_score(answers, predictions, average="macro", **options))
    report = classification_report(answers, predictions, labels=EMOTIONS, output_dict=True, zero_division=0)
    for label in EMOTIONS:
        expected = {"f1" if key == "f1-score" else key: value for key, value in report[label].items()}
        assert source["labels"][label] | {"support": source["labels"][label]["n"]} == pytest.approx(
            expected | {"n": expected["support"]}
        )
    table = confusion_matrix(answers, predictions, labels=[*EMOTIONS, "None"])
    assert np.array_equal(source["confusion"], table[:-1])


def test_probabilities_of_a_binary_task():
    records, answers, probabilities, _ = scored_records(200, ["no", "yes"], "hate_detection", "harmeme")
    scores = score(records)["scores"]["hate"]
    assert scores["auroc"] == pytest.approx(roc_auc_score(answers, probabilities[:, 1]))
    assert scores["brier"] == pytest.approx(2 * brier_score_loss(answers, probabilities[:, 1]))
    assert scores["uar"] == pytest.approx(balanced_accuracy_score(answers, probabilities.argmax(1)))
    flipped = [
        {**record, "choices": ["yes", "no"], "probabilities": record["probabilities"][::-1]} for record in records
    ]
    assert score(flipped)["scores"]["hate"]["auroc"] == scores["auroc"]  # by the label's name, not its place
    one_class = [record for record in records if record["answer"] == "no"]
    assert score(one_class)["scores"]["hate"]["auroc"] is None
    partly = [record | {"probabilities": None} if i % 2 else record for i, record in enumerate(records)]
    assert score(partly)["scores"]["hate"]["auroc"] == pytest.approx(
        roc_auc_score(answers[::2], probabilities[::2, 1])
    )


def test_means_are_over_what_has_the_score():
    binary, *_ = scored_records(50, ["no", "yes"], "hate_detection", "harmeme")
    emotion, *_ = scored_records(50, EMOTIONS, "emotion_recognition", "drawn")
    humor = noisy_records(50, 0.6, seed=1, task="humor_detection")
    result = score(binary + emotion + humor)
    scores = result["scores"]
    assert result["mean"]["auroc"] == scores["hate"]["auroc"] and scores["Emo-C"]["auroc"] is None
    assert result["mean"]["ece"] == pytest.approx((scores["hate"]["ece"] + scores["Emo-C"]["ece"]) / 2)
    assert scores["humor"]["ece"] is None


def test_probabilities_and_votes_of_many_labels():
    choices = list(TASKS["emotion_recognition"].sources["ferplus"].labels)
    records, answers, probabilities, votes = scored_records(300, choices, "emotion_recognition", "ferplus", votes=True)
    source = score(records)["scores"]["Emo-C"]["sources"]["ferplus"]
    labels = range(len(choices))
    assert source["brier"] == pytest.approx(brier_score_loss(answers, probabilities, labels=labels))
    assert source["top2"] == pytest.approx(top_k_accuracy_score(answers, probabilities, k=2, labels=labels))
    # soft labels are hard ones that are weighted by their votes
    repeated, weights = np.tile(labels, len(records)), votes.ravel()
    expected = log_loss(repeated, np.repeat(probabilities, len(choices), axis=0), sample_weight=weights, labels=labels)
    assert source["cross_entropy"] == pytest.approx(expected)
    halved = [record | {"probabilities": None} if i % 2 else record for i, record in enumerate(records)]
    expected = top_k_accuracy_score(answers[::2], probabilities[::2], k=2, labels=labels)
    assert score(halved)["scores"]["Emo-C"]["sources"]["ferplus"]["top2"] == pytest.approx(expected)
    certain = [{**record, "probabilities": [1.0] + [0.0] * 7, "prediction": choices[0]} for record in records]
    assert math.isfinite(score(certain)["scores"]["Emo-C"]["sources"]["ferplus"]["cross_entropy"])


def test_reliability_and_calibration_error():
    records, answers, probabilities, _ = scored_records(400, EMOTIONS, "emotion_recognition", "drawn")
    bins = reliability(records)
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == answers
    accuracy, mean = calibration_curve(correct, confidence, n_bins=15)
    assert [part["accuracy"] for part in bins] == pytest.approx(accuracy)
    assert [part["confidence"] for part in bins] == pytest.approx(mean)
    assert sum(part["n"] for part in bins) == 400
    gaps = [abs(part["accuracy"] - part["confidence"]) * part["n"] / 400 for part in bins]
    assert score(records)["scores"]["Emo-C"]["ece"] == pytest.approx(sum(gaps))
    assert reliability(noisy_records(5, 1, seed=1)) == []
    # a hand-computed case, with values on the edges, each of which belongs to the bin below
    bins = reliability_bins(np.array([0.5, 0.6, 1.0, 0.9]), np.array([True, False, True, True]), bins=2)
    assert bins == [
        {"low": 0.0, "high": 0.5, "confidence": 0.5, "accuracy": 1.0, "n": 1},
        {"low": 0.5, "high": 1.0, "confidence": pytest.approx(2.5 / 3), "accuracy": pytest.approx(2 / 3), "n": 3},
    ]


def test_several_labels_at_the_threshold_of_the_validation_rows():
    tuning, tuned_truth, tuned = intent_records(30, "validation", seed=1)
    records, truth, probabilities = intent_records(150, "test", seed=2)
    source = score(tuning + records)["scores"]["intent"]["sources"]["intentonomy"]
    best = max(f1_score(tuned_truth, tuned >= t, average="macro", zero_division=0) for t in np.unique(tuned))
    guess = tuned >= source["threshold"]
    assert f1_score(tuned_truth, guess, average="macro", zero_division=0) == pytest.approx(best)
    guess = probabilities >= source["threshold"]
    for average in ("macro", "micro", "samples"):
        assert source[f"{average}_f1"] == pytest.approx(f1_score(truth, guess, average=average, zero_division=0))
    assert source["accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert (source["n"], source["confusion"], source["auroc"], source["ece"]) == (150, None, None, None)
    everything = f1_score(truth, np.ones_like(truth), average="macro")
    assert source["chance"] == pytest.approx(everything)
    assert source["interval"][0] < source["macro_f1"] < source["interval"][1]
    assert len(group_records(tuning + records)["intent"]["intentonomy"]) == 150
    # a run on the validation split has no other rows
    assert score(tuning)["scores"]["intent"]["macro_f1"] == pytest.approx(best)


@settings(deadline=None)
@given(st.lists(st.tuples(st.lists(st.booleans(), min_size=3, max_size=3), st.integers(0, 5), st.integers(0, 5))))
def test_best_threshold(rows):
    truth = np.array([row for row, *_ in rows], dtype=bool).reshape(-1, 3)
    assume(truth.any())
    probabilities = np.array([[a, b, 10 - a - b] for _, a, b in rows]) / 10  # with many ties
    asked = truth.any(0)

    def macro_f1(threshold):
        guess = probabilities >= threshold  # scikit-learn takes a single column for two classes
        return f1_score(truth, guess, labels=np.flatnonzero(asked), average="macro", zero_division=0)

    best = max(map(macro_f1, np.unique(probabilities[:, asked])))
    assert macro_f1(best_threshold(truth, probabilities)) == pytest.approx(best)


def test_several_labels_that_were_generated():
    records, truth, _ = intent_records(3, "test", seed=1)
    given_labels = [records[0]["answers"], [], [label for label in INTENTS if label not in records[2]["answers"]]]
    records = [record | {"probabilities": None, "predictions": labels, "prediction": labels[0] if labels else None}
               for record, labels in zip(records, given_labels, strict=True)]  # fmt: skip
    source = score(records)["scores"]["intent"]["sources"]["intentonomy"]
    assert (source["accuracy"], source["threshold"], source["unparsed"]) == (pytest.approx(1 / 3), None, 1)
    assert source["samples_f1"] == pytest.approx(1 / 3)


def test_groups_of_people_have_scores_of_their_own():
    """Twelve memes attack a religion, ten of which are recognised; ten a nationality, and two of these both."""
    records = make_records([("yes", "yes")] * 10 + [("yes", "no")] * 10 + [("no", "no")] * 5, source="hateful_memes")
    for i, record in enumerate(records[:20]):
        kinds = (["religion"] if i < 12 else []) + (["nationality"] if i >= 10 else [])
        record["groups"] = [["protected_category", kind] for kind in kinds]
    records[20]["groups"] = [["protected_category", "sex"]]  # too few
    scores = score(records)["scores"]["hate"]["sources"]["hateful_memes"]
    assert scores["people"] == {
        "protected_category": {
            "religion": {"n": 12, "accuracy": 10 / 12, "interval": wilson(10, 12)},
            "nationality": {"n": 10, "accuracy": 0.0, "interval": wilson(0, 10)},
        }
    }
    assert list(scores["people"]["protected_category"]) == ["religion", "nationality"], "the largest first"
    assert "people" not in score(make_records([("yes", "yes")] * 20))["scores"]["hate"]["sources"]["drawn"]


def test_the_wilson_interval_is_that_of_its_formula():
    for right, n in ((0, 10), (7, 12), (12, 12)):
        z, share = 1.959964, right / n
        middle, half = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
        expected = [(middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)]
        assert wilson(right, n) == pytest.approx(expected, abs=1e-6)


def test_people_are_those_that_the_source_names():
    hateful = {"set": "train", "protected_category": ["race", "sex"], "attack_type": ["mocking"]}
    assert people_of("hate_detection", "hateful_memes", hateful) == [
        ["protected_category", "race"],
        ["protected_category", "sex"],
    ]
    assert people_of("hate_detection", "harmeme", {"level": "very harmful", "target": "society"}) == [
        ["target", "society"]
    ]
    assert people_of("hate_detection", "harmeme", {"level": "not harmful", "target": None}) == []
    assert people_of("hate_detection", "mine", {"target": "society"}) == []
    assert people_of("emotion_recognition", "meld", {"speaker": "Ross"}) == [["speaker", "Ross"]]


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


def test_intervals_are_those_that_were_published():
    """Figures of RESULTS.md were computed from these very resamples."""
    scores = score(noisy_records(60, 0.7, seed=1))["scores"]["hate"]
    assert scores["interval"] == pytest.approx([0.607843137254902, 0.8333333333333334])


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
    assert result["p_mcnemar"] == pytest.approx(2 * 0.5**20)
    unpaired = noisy_records(200, 0.8, seed=2)
    unpaired = [{**r, "answer": f["answer"], "answers": f["answers"]} for r, f in zip(unpaired, first, strict=True)]
    wide = paired_difference(first, unpaired)["hate"]["interval"]
    assert result["interval"][1] - result["interval"][0] < 0.7 * (wide[1] - wide[0])
    same = {"difference": 0.0, "interval": [0.0, 0.0], "p_mcnemar": 1.0}
    assert paired_difference(first, first) == {"hate": same, "mean": same}


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_sum_of_a_binomial_tail(only_first, only_second):
    first = np.array([True] * only_first + [False] * only_second + [True, False])
    second = np.array([False] * only_first + [True] * only_second + [True, False])
    n, fewer = only_first + only_second, min(only_first, only_second)
    expected = min(1, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)
    assert exact_mcnemar(first, second) == pytest.approx(expected)


def test_mcnemar_of_the_mean_is_over_all_rows():
    first, second = [], []
    for task, (right, wrong) in {"hate_detection": (4, 0), "humor_detection": (3, 1)}.items():
        pairs = [("yes", "no")] * right + [("no", "no")] * wrong
        first += make_records(pairs, task)
        second += make_records([(answer, "yes") for answer, _ in pairs], task)
    result = paired_difference(first, second)
    assert result["hate"]["p_mcnemar"] == pytest.approx(2 / 2**4)
    assert result["humor"]["p_mcnemar"] == pytest.approx(2 * (1 + 4) / 2**4)
    assert result["mean"]["p_mcnemar"] == pytest.approx(2 * (1 + 8) / 2**8)


def test_both_questions_about_a_picture_are_resampled_together():
    fields = {"task": "emotion_recognition"}
    closed, opened = (noisy_records(80, 0.7, seed=1, setting=setting, **fields) for setting in ("closed", "open"))
    replicates = bootstrap(closed + opened)
    assert np.array_equal(replicates["Emo-C"], replicates["Emo-O"])


def test_baselines():
    tuning, *_ = intent_records(10, "validation", seed=1)
    intents, *_ = intent_records(40, "test", seed=2)
    hate, *_ = scored_records(300, ["no", "yes"], "hate_detection", "harmeme")
    records = hate + tuning + intents
    majority = baseline(records, "majority")
    scores = score(majority)
    assert scores["scores"]["hate"]["accuracy"] == scores["scores"]["hate"]["majority"]
    intent = scores["scores"]["intent"]["sources"]["intentonomy"]
    assert (intent["threshold"], intent["unparsed"]) == (None, 0) and intent["samples_f1"] > 0
    counts = {label: sum(label in record["answers"] for record in intents) for label in INTENTS}
    assert {record["prediction"] for record in majority if record["source"] == "intentonomy"} == {
        max(counts, key=counts.get)
    }
    drawn = baseline(records, "random")
    assert score(drawn)["scores"]["hate"]["accuracy"] == pytest.approx(0.5, abs=0.1)
    assert drawn == baseline(records[::-1], "random") != baseline(records, "random", seed=1)
    assert paired_difference(majority, records)["hate"]["difference"] > 0
    with pytest.raises(ValueError, match="no baseline 'best'"):
        baseline(records, "best")


def test_bad_input():
    records = noisy_records(10, 0.7, seed=1)
    with pytest.raises(ValueError, match="no predictions"):
        score([])
    with pytest.raises(
        ValueError, match="not about the same samples: 1 are in one only, as 'drawn/test/00009#closed'"
    ):
        paired_difference(records, records[:-1])
    with pytest.raises(ValueError, match="not about the same samples"):
        paired_difference(records, noisy_records(10, 0.7, seed=3))
    with pytest.raises(ValueError, match="unknown task and setting .'hate_detection', 'open'."):
        score([{**records[0], "setting": "open"}])
    with pytest.raises(ValueError, match="drawn/test/00003#closed of hate_detection .* twice, as record 4 and 11"):
        score([*records, records[3]])
    with pytest.raises(ValueError, match="Record 2 of 2 has no answers, greedy; evaluate again"):
        score([records[0], {key: value for key, value in records[1].items() if key not in ("answers", "greedy")}])


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"probabilities": [0.5, math.nan]}, r"drawn/test/00001#closed: probabilities \[0.5, nan\] sum to nan;.*NaN"),
        ({"probabilities": [1.5, -0.5]}, r"probabilities \[1.5, -0.5\] sum to 1.0; they must be at least 0"),
        ({"probabilities": [0.5, 0.4]}, "sum to 0.9; they must"),
        ({"probabilities": [0.5, math.inf]}, "sum to inf; they must"),
        ({"probabilities": [1.0]}, "1 probabilities for 2 choices; evaluate again"),
        ({"probabilities": [0.5, 0.3, 0.2]}, "3 probabilities for 2 choices; evaluate again"),
        ({"prediction": "maybe"}, "'maybe' is none of its 2 choices"),
        ({"answer": "maybe", "answers": ["maybe"]}, "'maybe' is none of its 2 choices"),
        ({"answers": ["no", "yes"]}, "2 answers, but drawn has 1 a row"),
        ({"answers": []}, "0 answers"),
        ({"choices": ["yes", "no"]}, r"choices \['yes', 'no'\] are not the \['no', 'yes'\] of drawn/test/00000"),
    ],
)
def test_bad_rows(fields, message):
    records = noisy_records(3, 1, seed=1)
    with pytest.raises(ValueError, match=message):
        score([records[0], records[1] | fields, records[2]])


@pytest.mark.parametrize("choices", [["no"], ["no", "no"], []])
def test_a_label_set_of_one(choices):
    with pytest.raises(ValueError, match=f"its {len(choices)} choices .* are {len(set(choices))} different labels"):
        score([record | {"choices": choices} for record in make_records([("no", "no")] * 3)])


def test_votes_that_are_no_shares():
    records, *_ = scored_records(3, EMOTIONS, "emotion_recognition", "drawn", votes=True)
    with pytest.raises(ValueError, match="00002#closed: label_distribution .* sum to 9; they must"):
        score([*records[:2], records[2] | {"label_distribution": [4, 5, 0]}])


def test_several_labels_without_validation_rows():
    records, *_ = intent_records(20, "test", seed=1)
    with pytest.raises(
        ValueError, match="20 rows to score, but 0 of split validation .* dataset_scripts.build_emobench"
    ):
        score(records)
