"""The page about a run, read as a browser reads it."""

import os
import subprocess
import sys
from base64 import b64decode
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from written_runs import make_records, write_run

from evaluation import report
from evaluation.metrics import baseline, paired_difference, score


ROOT = Path(__file__).parents[2]
VOID = {"meta", "link", "img"}
HOSTILE = "<script>alert(1)</script> & \"so\" 'on' \ud800"


class Page(HTMLParser):
    """Tags with their attributes, tables by caption, and all text; a tag that is closed wrongly is an error."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text, self.tables, self.rows = [], [], "", {}, []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.rows, self.caption = [], ""
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            assert self.caption not in self.tables
            self.tables[self.caption] = self.rows

    def handle_data(self, data):
        self.text += data
        if "caption" in self.open:
            self.caption += data
        elif {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def table(self, start):
        (rows,) = [rows for caption, rows in self.tables.items() if caption.startswith(start)]
        header, *rows = [[cell.strip() for cell in row] for row in rows]
        assert {len(row) for row in rows} == {len(header)}
        return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


def all_records(accuracy):
    votes = [0.5, 0.25, 0.25, 0, 0, 0, 0, 0]
    records = make_records("emotion_recognition", "ferplus", accuracy, label_distribution=votes)
    records += make_records("emotion_recognition", "drawn", accuracy)
    records += make_records("emotion_recognition", "drawn", accuracy, setting="open")
    records += make_records("intent_understanding", "intentonomy", accuracy, n=60)
    records += make_records("intent_understanding", "intentonomy", accuracy, n=60, split="validation")
    records += make_records("hate_detection", "harmeme", accuracy, groups=[["target", "society <i>"]])
    for record, greedy in zip(records, ["neutral", "happiness", ""], strict=False):
        record["greedy"] = greedy
    nothing = {"prediction": None, "probabilities": None, "text": None}
    records[-1] |= nothing | {"error": "refused <b>"}
    records[-2] |= nothing | {"error": "undecodable picture"}
    next(r for r in records if r["text"] and r["prediction"] not in r["answers"])["text"] = HOSTILE
    next(r for r in records if r["text"])["prediction"] = None
    return records


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    general = {"dataset": "data/captions", "n": 64, "perplexity": 12.34, "token_accuracy": 0.615}
    settings = {"general": general, "revision": "abc123", "model": "models/<img src=x onerror=alert(1)>"}
    first = write_run(folder / "EmoLLM", all_records(0.8), **settings)
    return first, write_run(folder / "foundation", all_records(0.5))


def write_report(*arguments):
    report.main(report.make_parser().parse_args(list(map(str, arguments))))


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(*runs, "--output", path)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path


@pytest.fixture(scope="module")
def page(written):
    return Page(written.read_text(encoding="utf-8"))


def test_it_needs_nothing_but_itself(page):
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object") and not any(name.startswith("on") for name in attributes)
        for name in {"src", "href"} & attributes.keys():
            assert attributes[name].startswith(("data:", "#"))
    ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert set(ids.values()) == {1}
    assert {f"#{name}" for name in ids} == {attributes["href"] for tag, attributes in page.tags if tag == "a"}


def test_it_can_be_read_by_everybody(page):
    headings = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3", "h4")]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(headings, headings[1:], strict=False))
    tags = Counter(tag for tag, _ in page.tags)
    assert tags["caption"] == tags["table"] == len(page.tables) and all(page.tables)
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in page.tags if tag == "th")
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    starts = Counter(" ".join(attributes["alt"].split()[:2]) for attributes in pictures)
    assert starts["Bars of"] == starts["Macro F1"] == 1
    # of each source with one label a sample, and of those whose labels were scored
    assert starts["Confusion matrix"] == 4 and starts["Reliability of"] == 3
    for attributes in pictures:
        kind, _, data = attributes["src"].partition("base64,")
        assert kind == "data:image/svg+xml;" and ElementTree.fromstring(b64decode(data)).tag.endswith("svg")
    assert "design, not the paper's" in page.text and "what onlookers perceive" in page.text


def per_cent(value):
    return f"{100 * value:.1f}"


def test_scores_are_those_of_the_predictions(page):
    result = score(all_records(0.8))
    table = page.table("Scores by sub-task")
    assert list(table) == ["Emo-C", "Emo-O", "intent", "hate", "mean"]
    for task, scores in {**result["scores"], "mean": result["mean"]}.items():
        row = table[task]
        assert row["macro F1"] == per_cent(scores["macro_f1"]) and row["accuracy"] == per_cent(scores["accuracy"])
        assert row["95% interval"] == " to ".join(map(per_cent, scores["interval"]))
        assert row["rows"] == str(scores["n"])
    assert table["hate"]["AUROC"] == per_cent(result["scores"]["hate"]["auroc"]) and table["Emo-C"]["AUROC"] == "–"
    assert table["Emo-C"]["ECE"] == f"{result['scores']['Emo-C']['ece']:.3f}" and table["Emo-O"]["ECE"] == "–"

    sources = result["scores"]["Emo-C"]["sources"]
    assert page.table("Scores by source")["Emo-C, drawn"]["macro F1"] == per_cent(sources["drawn"]["macro_f1"])
    voted = page.table("Where onlookers voted")
    assert voted == {
        "Emo-C, ferplus": {
            "cross-entropy": f"{sources['ferplus']['cross_entropy']:.3f}",
            "top-2": per_cent(sources["ferplus"]["top2"]),
        }
    }
    several = page.table("Where a sample may have several labels")["intent, intentonomy"]
    expected = result["scores"]["intent"]["sources"]["intentonomy"]
    assert several["samples F1"] == per_cent(expected["samples_f1"])
    assert several["threshold"] == f"{expected['threshold']:.3f}"
    labels = page.table("Labels of Emo-C, drawn")
    assert labels["anger"]["recall"] == per_cent(sources["drawn"]["labels"]["anger"]["recall"])
    assert len(page.table("Labels of intent, intentonomy")) == 28


def test_runs_are_compared_with_baselines_p_and_general_ability(page):
    records = all_records(0.8)
    table = page.table("Macro F1 in per cent")
    assert list(table["hate"]) == ["chance", "majority", "random", "EmoLLM", "foundation"]
    for kind in ("majority", "random"):
        assert table["mean"][kind] == per_cent(score(baseline(records, kind))["mean"]["macro_f1"])
    assert table["mean"]["foundation"] == per_cent(score(all_records(0.5))["mean"]["macro_f1"])
    assert (table["perplexity"]["EmoLLM"], table["perplexity"]["foundation"]) == ("12.3", "–")
    assert table["token accuracy"]["EmoLLM"] == "61.5"
    expected = paired_difference(records, all_records(0.5))["hate"]
    cell = page.table("What each run is better by than EmoLLM")["hate"]
    assert cell["foundation"].startswith(f"{100 * expected['difference']:+.1f} [") and cell["p"] == "<0.001"
    assert "The text-only baseline is missing" in page.text and "--input picture" in page.text


def test_groups_of_people_have_a_table(page):
    table = page.table("Accuracy of hate, harmeme by target")
    assert table == {"society <i>": {"rows": "40", "accuracy": "80.0", "95% interval": "65.2 to 89.5"}}


def test_how_the_answers_came_about(page):
    table = page.table("How the answers came about")
    assert table["Emo-O"]["not understood"] == "1"
    assert (table["hate"]["refused <b>"], table["hate"]["undecodable picture"]) == ("1", "1")
    # happiness is generated where neutral's neighbour is the answer, "" is nothing that can be read
    assert table["Emo-C"]["greedy generation agrees"] == "2 of 3"
    assert table["Emo-C"]["rows a second"] == "4.0" and table["Emo-O"]["greedy generation agrees"] == "–"
    assert "--input all" in page.text and "--general data/captions" in page.text
    settings = page.table("Settings and versions")
    assert settings["revision"] == {"EmoLLM": "abc123", "foundation": "–"}
    assert settings["versions"]["EmoLLM"] == "torch 2.13.0"


def test_confusions_name_examples_the_surest_first(page):
    records = [r for r in all_records(0.8) if r["source"] == "drawn" and r["setting"] == "closed"]
    wrong = [r for r in records if r["prediction"] != r["answer"]]
    pair = Counter((r["answer"], r["prediction"]) for r in wrong).most_common(1)[0][0]
    ids = [r["id"] for r in wrong if (r["answer"], r["prediction"]) == pair]
    text = page.text[page.text.index("Emo-C, drawn\n") :]
    places = [text.index(name) for name in sorted(ids, reverse=True)]  # the later, the surer
    assert len(ids) > 1 and places == sorted(places)


def test_what_a_model_wrote_stays_text(written, page):
    assert "<script>alert(1)</script> & \"so\" 'on' ?" in page.text
    assert "<script" not in written.read_text() and "<img src=x" not in written.read_text()
    assert "models/<img src=x onerror=alert(1)>" in page.text


def test_the_same_runs_give_the_same_bytes(runs, written, tmp_path):
    command = [sys.executable, "-m", "evaluation.report", *map(str, runs), "--output", str(tmp_path / "again.html")]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": "7"}, check=True)
    assert (tmp_path / "again.html").read_bytes() == written.read_bytes()


def test_a_run_alone_and_a_run_that_did_not_end(runs, tmp_path):
    path = tmp_path / "report.html"
    write_report(runs[1], "--output", path)
    page = Page(before := path.read_text())
    assert "No other run was given" in page.text and not any(
        caption.startswith("What each") for caption in page.tables
    )
    assert "perplexity" not in page.table("Macro F1 in per cent")
    unfinished = write_run(tmp_path / "unfinished", all_records(0.5), n=1000)
    with pytest.raises(ValueError, match="speaks of 1000; repeat"):
        write_report(runs[1], unfinished, "--output", path)
    assert path.read_text() == before
