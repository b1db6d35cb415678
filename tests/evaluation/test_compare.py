"""The command that compares runs."""

import shlex

import pytest
from PIL import Image
from scipy.stats import binomtest
from written_runs import make_records, write_run

from evaluation import compare, run
from evaluation.metrics import baseline, score


HATE = ("hate_detection", "drawn")


def compare_runs(*arguments):
    compare.main(compare.make_parser().parse_args(list(map(str, arguments))))


def hate_run(folder, accuracy, n=40, **results):
    return write_run(folder, make_records(*HATE, accuracy, n), **results)


def test_scores_baselines_and_differences_are_printed(tmp_path, capsys):
    runs = [hate_run(tmp_path / name, share) for name, share in [("before", 0.5), ("after", 0.9), ("slightly", 0.6)]]
    compare_runs(*runs)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["macro", "F1", "chance", "majority", "random", "before", "after", "slightly"]
    guessed = score(baseline(make_records(*HATE, 0.5), "random"))["mean"]["macro_f1"]
    # who always says no has an F1 of 2/3 for it and of 0 for yes
    assert lines[1].split() == ["hate", "50.0", "33.3", f"{100 * guessed:.1f}", "50.0", "90.0", "60.0"]
    assert lines[2].split() == ["mean", *lines[1].split()[1:]]
    assert lines[4].startswith("Difference to before") and lines[5].split() == ["after", "slightly"]
    task, difference, *ends, p, small, _, _, small_p = lines[6].split()
    low, high = (float(end.strip("[],")) for end in ends)
    assert (task, difference, small) == ("hate", "+40.0", "+10.0")
    assert 20 < low < 40 < high < 60
    # 16 rows are right in the second run alone, 4 in the third alone, and none in the first alone
    assert p == "<0.001" and binomtest(16, 16).pvalue < 0.001
    assert small_p == f"{binomtest(4, 4).pvalue:.3f}" == "0.125"
    assert lines[7].split() == ["mean", *lines[6].split()[1:]]


def test_six_runs_of_all_tasks_fit_a_terminal(tmp_path, capsys):
    tasks = ["emotion_recognition", "intent_understanding", "hate_detection", "humor_detection", "sarcasm_detection"]
    runs = []
    for i in range(6):
        records = [r for task in tasks for r in make_records(task, "drawn", 0.1 + 0.1 * i, n=16)]
        records += make_records("emotion_recognition", "drawn", 0.1 + 0.1 * i, n=16, setting="open")
        runs.append(write_run(tmp_path / f"EmoLLM-model-{i}", records))
    compare_runs(*runs)
    tables = capsys.readouterr().out.split("\n\n")[:2]
    assert [line.split()[0] for line in tables[0].splitlines()[1:]] == [
        *("Emo-C", "Emo-O", "intent", "hate", "humor", "sarcasm", "mean")
    ]
    assert max(len(line) for table in tables for line in table.splitlines()) <= 160


def test_missing_baselines_are_told_with_their_commands(tmp_path, capsys):
    of_model = {"model": "models/a b; rm -r x", "revision": "v1", "limit": 8, "seed": 3}
    runs = [hate_run(tmp_path / "a b" / "plain", 0.9, **of_model), hate_run(tmp_path / "guided", 0.9, **of_model)]
    compare_runs(*runs)
    lines = capsys.readouterr().out.splitlines()
    for kind in ("text", "picture"):
        command = lines[lines.index(f"The {kind}-only baseline is missing; this makes it:") + 1]
        *start, module = shlex.split(command)[:3]
        assert [*start, module] == ["python", "-m", "evaluation.run"]
        args = run.make_parser().parse_args(shlex.split(command)[3:])
        assert (args.model, args.revision, args.limit, args.seed) == ("models/a b; rm -r x", "v1", 8, 3)
        assert (args.tasks, args.input, args.emoprompt) == (["hate_detection"], kind, ["none"])
        assert args.output == [tmp_path / "a b" / f"plain-{kind}"]
    compare_runs(*runs, hate_run(tmp_path / "blind", 0.5, input="text"))
    out = capsys.readouterr().out
    assert "The picture-only baseline is missing" in out and "text-only" not in out


def test_forgetting_shows_beside_the_scores(tmp_path, capsys):
    general = {"dataset": "data/captions", "n": 64, "perplexity": 12.34, "token_accuracy": 0.615}
    worse = {**general, "perplexity": 99.0, "token_accuracy": 0.5}
    runs = [
        hate_run(tmp_path / name, 0.5, general=value)
        for name, value in [("before", general), ("after", worse), ("unknown", None)]
    ]
    compare_runs(*runs)
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    assert ["perplexity", "12.3", "99.0", "–"] in rows and ["token", "accuracy", "61.5", "50.0", "–"] in rows
    assert "on 64 rows of data/captions" in out
    other = hate_run(tmp_path / "other", 0.5, general={**general, "n": 32})
    with pytest.raises(ValueError, match="before was measured on 64 rows of data/captions, that of other on 32 rows"):
        compare_runs(*runs, other)


def test_folders_of_one_name_are_told_apart(tmp_path, capsys):
    runs = [hate_run(tmp_path / parent / "results", share) for parent, share in [("a", 0.5), ("b", 0.9)]]
    compare_runs(*runs)
    header, line, *_ = capsys.readouterr().out.splitlines()
    assert header.split()[-2:] == list(map(str, runs)) and line.split()[-2:] == ["50.0", "90.0"]


def test_the_figure_has_the_same_bytes_each_time(tmp_path):
    runs = [hate_run(tmp_path / name, share) for name, share in [("$\\five and $6", 0.5), ("_after", 0.9)]]
    for suffix in ("png", "svg", "pdf"):
        for number in (1, 2):
            compare_runs(*runs, "--output", tmp_path / f"{number}.{suffix}")
        assert (tmp_path / f"1.{suffix}").read_bytes() == (tmp_path / f"2.{suffix}").read_bytes()
    with Image.open(tmp_path / "1.png") as figure:
        assert figure.width > 600 and len(figure.convert("RGB").getcolors(1 << 20)) > 10
    with pytest.raises(ValueError, match="'txt' is not supported"):
        compare_runs(*runs, "--output", tmp_path / "1.txt")
    assert sorted(path.name for path in tmp_path.glob("1*")) == ["1.pdf", "1.png", "1.svg"]


def test_what_can_not_be_compared_is_refused(tmp_path):
    whole = hate_run(tmp_path / "whole", 0.5)
    with pytest.raises(ValueError, match="not about the same samples: 4 are in one only"):
        compare_runs(whole, hate_run(tmp_path / "fewer", 0.5, n=36))
    with pytest.raises(ValueError, match="nothing.predictions.jsonl has no predictions; make them"):
        compare_runs(whole, tmp_path / "nothing")
    partial = hate_run(tmp_path / "partial", 0.5)
    lines = (partial / "predictions.jsonl").read_text().splitlines(keepends=True)
    (partial / "predictions.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match="has 39 predictions, but .* speaks of 40; repeat"):
        compare_runs(whole, partial)
    (partial / "results.json").unlink()
    with pytest.raises(ValueError, match="is missing; repeat"):
        compare_runs(whole, partial)
