"""Open-set emotion metrics: the published scores from the published files, hand-computed cases, and the command."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl import Workbook
from sklearn.metrics import precision_score, recall_score

from dataset_scripts.readers.pickles import DataUnpickler
from evaluation.open_set import (
    Wheels,
    find_labels,
    merge_synonyms,
    overlap,
    score_open,
    split_labels,
    wheel_scores,
)


ROOT = Path(__file__).parents[2]
NAMES = {"case1": "inflection", "case2": "synonym", "AVG_level1": "level1", "AVG_level2": "level2"}


@pytest.fixture(scope="module")
def mer_ov(shared_data) -> Path:
    folder = shared_data / "mer_ov"
    if not folder.is_dir():
        pytest.skip("no mer_ov in shared/data: the published scores need MERTools' files")
    return folder


@pytest.fixture(scope="module")
def reference(mer_ov) -> dict:
    return json.loads((mer_ov / "reference_scores.json").read_text())


@pytest.fixture(scope="module")
def labels(mer_ov) -> list[dict[str, list[str]]]:
    """True and predicted labels of MER2024's 332 clips, by their names."""
    sides = []
    for name in ("check-openset.csv", "predict-openset.csv"):
        with open(mer_ov / name, encoding="utf-8", newline="") as file:
            sides.append({row["name"]: split_labels(row["openset"]) for row in csv.DictReader(file)})
    return sides


def read_mer_wheels(mer_ov: Path, format_file: str, folder: Path) -> Wheels:
    for path in mer_ov.glob("*.xlsx"):
        shutil.copy(path, folder)
    shutil.copy(mer_ov / format_file, folder / "format.csv")
    return Wheels.read(folder)


def assert_scores(scores: dict[str, dict], expected: dict[str, list[float]]) -> None:
    for name, values in expected.items():
        found = scores[NAMES.get(name, name.removeprefix("case3_"))]
        assert list(found.values()) == pytest.approx(values, abs=1e-12, rel=0), name


def test_mer2024_as_published(mer_ov, reference, labels):
    groups = {}
    with zipfile.ZipFile(mer_ov / "openset-synonym.zip") as archive:
        for name in archive.namelist():
            if name.endswith(".npy"):
                text = str(
                    np.load(io.BytesIO(archive.read(name)), allow_pickle=False)
                )  # "[['mad', 'angry'], ['sad']]"
                groups[Path(name).stem] = [split_labels(group) for group in re.findall(r"\[([^\[\]]+)\]", text)]
    truths, predictions = ([merge_synonyms(side[name], groups[name]) for name in groups] for side in labels)
    scores, expected = overlap(truths, predictions), reference["MER2024"]
    found = scores["precision"], scores["recall"], scores["n"]
    assert found == pytest.approx((expected["acc"], expected["recall"], expected["n"]), abs=1e-12, rel=0)
    mean = (scores["precision"] + scores["recall"]) / 2
    assert (round(found[0], 4), round(found[1], 4), round(mean, 4)) == (0.5818, 0.4978, 0.5398)


@pytest.mark.parametrize(
    "format_file, edition", [("format.csv", "EW_MER2025"), ("format_mer2026.csv", "EW_MER2026_from_xlsx")]
)
def test_emotion_wheels_as_published(mer_ov, reference, labels, format_file, edition, tmp_path):
    truths, predictions = labels
    wheels = read_mer_wheels(mer_ov, format_file, tmp_path)
    scores = wheel_scores(list(truths.values()), [predictions[name] for name in truths], wheels)
    assert len(reference[edition]) == len(scores) == 14
    assert_scores(scores, reference[edition])


class Stand:
    """For numpy's `dtype` in a pickle of objects; what it is does not matter."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


class Objects(list):
    """For numpy's `ndarray` in such a pickle: a list."""

    def __init__(self, *prototype):
        super().__init__()

    def __setstate__(self, state):
        self[:] = state[-1]


class ObjectUnpickler(DataUnpickler):
    """Knows the names with which numpy pickles an array of dicts and lists, all replaced by the classes above."""

    def find_class(self, module, name):
        stands = {"_reconstruct": Objects, "ndarray": Objects, "dtype": Stand}
        return stands[name] if module.split(".")[0] == "numpy" else super().find_class(module, name)


def test_official_mapping_of_mer2026(mer_ov, reference, labels, tmp_path):
    mappings = {}
    with zipfile.ZipFile(mer_ov / "wheel_mapping.npz") as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                assert np.lib.format.read_magic(file) == (1, 0)
                np.lib.format.read_array_header_1_0(file)
                (mappings[Path(name).stem],) = ObjectUnpickler(file).load()
    clusters = {
        f"{wheel}_{level}": words
        for wheel, levels in mappings["wheel_map_whole"].items()
        for level, words in levels.items()
    }
    official = Wheels(mappings["format_mapping"], mappings["raw_mapping"], clusters)
    truths, predictions = labels
    scores = wheel_scores(list(truths.values()), [predictions[name] for name in truths], official)
    assert_scores(scores, reference["EW_MER2026_official_npz"])
    ours = read_mer_wheels(mer_ov, "format_mer2026.csv", tmp_path)
    assert ours.clusters == official.clusters
    for mapping, expected in ((ours.inflections, official.inflections), (ours.synonyms, official.synonyms)):
        assert {word: set(places) for word, places in mapping.items()} == {
            word: set(places) for word, places in expected.items()
        }


WHEEL = [("Joy", "Glad", "Cheerful"), (None, None, "Delighted "), (None, "Calm", "Serene"), ("Sad", "Blue", "Gloomy")]
SYNONYMS = {
    "joy": "bliss",
    "glad": "Happy, pleased",
    "cheerful": "happy",
    "sad": "unhappy",
    "gloomy": "dark, blue",
    "blue": "pleased",
}
WORDS = "joy glad cheerful delighted calm serene sad blue gloomy"
FORMS = {"happy": "happier,happiness", "glad": "gladly", "gloomy": "gloom", "person": "person"}


@pytest.fixture(scope="module")
def wheel_folder(tmp_path_factory) -> Path:
    """Five equal wheels of nine words."""
    folder = tmp_path_factory.mktemp("wheels")
    synonyms = {word: SYNONYMS.get(word, "") for word in WORDS.split()} | {"cheerful": "happy, person"}
    sheets = dict.fromkeys((f"wheel{i}" for i in range(1, 6)), [("level1", "level2", "level3"), *WHEEL])
    sheets["synonym"] = [("word_run1", "synonym_run1"), *((word.title(), same) for word, same in synonyms.items())]
    for name, rows in sheets.items():
        book = Workbook()
        for row in rows:
            book.active.append(row)
        book.save(folder / f"{name}.xlsx")
    known = dict.fromkeys([*WORDS.split(), "bliss", "pleased", "unhappy", "dark"], "")
    with open(folder / "format.csv", "w", newline="") as file:
        csv.writer(file).writerows([("name", "format"), *(known | FORMS).items()])
    return folder


@pytest.fixture(scope="module")
def wheels(wheel_folder) -> Wheels:
    return Wheels.read(wheel_folder)


@pytest.mark.parametrize(
    "label, inflection, synonym, level1, level2",
    [
        ("happiness", "happy", "cheerful", "joy", "glad"),
        ("gladly", "glad", "glad", "joy", "glad"),
        ("serene", "serene", "serene", "joy", "calm"),
        ("joy", "joy", "joy", "joy", "calm"),  # of its branches calm and glad
        ("delighted", "delighted", "delighted", "joy", "glad"),
        ("dark", "dark", "gloomy", "sad", "blue"),
        ("blue", "blue", "blue", "sad", "blue"),
        ("pleased", "pleased", "blue", "sad", "blue"),  # of its words blue and glad
        ("neutral", None, None, None, None),
    ],
)
def test_places_of_a_label(wheels, label, inflection, synonym, level1, level2):
    metrics = ("inflection", "synonym", "wheel3_level1", "wheel3_level2")
    assert tuple(wheels.place(label, metric) for metric in metrics) == (inflection, synonym, level1, level2)


def test_hand_computed_overlap():
    truths = [{"a", "b"}, {"a"}, {"c"}, set()]
    scores = overlap(truths, [{"a"}, {"a", "b", "c", "d"}, set(), {"a"}])
    assert scores == {"f1": pytest.approx(2 * (5 / 12) * 0.5 / (11 / 12)), "precision": 5 / 12, "recall": 0.5, "n": 3}
    assert overlap([{"a"}], [{"b"}])["f1"] == 0
    assert merge_synonyms(["mad", "sad", "new"], [["angry", "mad"], ["sad"]]) == {"angry", "sad", "new"}


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.sets(st.sampled_from("abcd"))] * 2)))
def test_overlap_of_scikit_learn(pairs):
    pairs = [pair for pair in pairs if pair[0]]
    if not pairs:
        with pytest.raises(ValueError, match="None of the 0 rows"):
            overlap([], [])
        return
    truths, predictions = zip(*pairs, strict=True)
    rows = [[[label in labels for label in "abcd"] for labels in side] for side in (truths, predictions)]
    scores = overlap(truths, predictions)
    for name, metric in (("precision", precision_score), ("recall", recall_score)):
        assert scores[name] == pytest.approx(metric(*map(np.array, rows), average="samples", zero_division=0))


@pytest.mark.parametrize(
    "text, found",
    [
        ("happiness", ["happiness"]),
        ("Gladly, and serene.", ["gladly", "serene"]),
        ("<think>sad</think>Answer: blue", ["blue"]),
        ("The person in the picture looks happy.", ["happy"]),
        ("A person who looks happy, and a gloomy one", ["happy", "gloomy"]),
        ("happy. The person is not sad.", ["happy"]),
        ("She isn't sad at all", []),
        ("No idea", []),
        ("", []),
    ],
)
def test_labels_of_an_answer_in_words(wheels, text, found):
    phrases = {(form,): form for form in wheels.inflections}
    assert find_labels(text, phrases) == found


@settings(deadline=None)
@given(st.text())
def test_any_text_can_be_read(wheels, text):
    assert set(find_labels(text, {(form,): form for form in wheels.inflections})) <= set(wheels.inflections)


def open_record(i, answer, text, setting="open"):
    fields = {"id": str(i), "task": "emotion_recognition", "setting": setting, "source": "drawn"}
    return fields | {"answer": answer, "answers": [answer], "text": text}


def test_command_on_the_open_question(wheel_folder, tmp_path):
    records = [
        open_record(1, "happiness", "She looks serene."),  # both joy, but glad and calm
        open_record(2, "sad", "blue"),
        open_record(3, "glad", None),
        open_record(4, "neutral", "happy"),  # left out
        open_record(5, "glad", None, setting="closed"),
    ]
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "results.json").write_text(json.dumps({"n": len(records)}))
    command = [sys.executable, "-m", "evaluation.open_set", tmp_path, "--wheels", wheel_folder]
    scores = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    assert scores["n"] == 4 and scores["wheel1_level1"]["n"] == 3
    assert scores["level1"] == pytest.approx({"f1": 2 / 3, "precision": 2 / 3, "recall": 2 / 3})
    assert scores["level2"]["f1"] == pytest.approx(1 / 3)
    assert scores["inflection"]["f1"] == 0


def test_bad_input(wheels, tmp_path):
    with pytest.raises(ValueError, match="has no wheel1.xlsx, .*format.csv of its 7 files; take the folder MER2025"):
        Wheels.read(tmp_path)
    with pytest.raises(ValueError, match="None of the 1 predictions is of the open question"):
        score_open([open_record(1, "sad", None, setting="closed")], wheels)
    with pytest.raises(ValueError, match="None of the 1 rows has a true label that is known"):
        score_open([open_record(1, "neutral", "happy")], wheels)
