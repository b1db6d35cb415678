"""The command that evaluates."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from asked import evaluate
from datasets import load_dataset
from filelock import FileLock
from loopback_hub import File, LoopbackHub, Repo
from loopback_teacher import LoopbackTeacher, Reply
from transformers import AutoProcessor

from benchmarks.fake_sources import make_sources
from dataset_scripts.manifest import digest_safetensors
from dataset_scripts.pipeline import build
from evaluation.metrics import score
from evaluation.predictions import read_predictions
from evaluation.rationales import teachers
from modeling_emollm import EmoLLMForConditionalGeneration


ROOT = Path(__file__).parents[2]
CPU = ROOT / "recipes" / "accelerate" / "two_cpu_processes.yaml"
SIX = ["Emo-C", "Emo-O", "intent", "hate", "humor", "sarcasm"]


def timeless(records):
    return [{**record, "seconds": None} for record in records]


def near(records):
    """Without what differs by rounding, since what is asked together differs."""
    return [{**record, "seconds": None, "probabilities": None} for record in records]


@pytest.fixture(scope="module")
def finished(tiny_foundations, drawn_dataset, tmp_path_factory):
    """A run over all tasks, eight samples each."""
    folder = tmp_path_factory.mktemp("results") / "llava"
    return folder, evaluate(tiny_foundations["llava"], drawn_dataset, folder, "--limit", 8)


def test_a_killed_run_is_resumed_without_repeats(tiny_foundations, drawn_dataset, tmp_path, capsys):
    model, folder = tiny_foundations["llava"], tmp_path / "killed"
    options = ["--limit", "60", "--tasks", "emotion_recognition", "hate_detection"]
    command = [sys.executable, "-m", "evaluation.run", *options, "--model", model, "--dataset", drawn_dataset]
    command += ["--output", folder]
    process = subprocess.Popen(
        [*command, "--batch-size", "1"], cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    path = folder / "predictions.0.part"
    deadline = time.monotonic() + 120
    while not (path.exists() and path.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    early = [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    assert 0 < len(early) < 180
    with open(path, "ab") as file:
        file.write(b'{"id": "drawn/te')  # killed in the midst of a line
    records = evaluate(model, drawn_dataset, folder, *options)
    kept = {(record["task"], record["id"]): record for record in records}
    assert all(kept[record["task"], record["id"]] == record for record in early)  # not asked again: the same times
    shown = capsys.readouterr()
    assert "180/180" in shown.err and "accuracy=" in shown.err
    assert "Emo-O" in shown.out and "mean" in shown.out
    whole = evaluate(model, drawn_dataset, tmp_path / "whole", *options)
    assert near(records) == near(whole) and len(kept) == len(records)
    assert not list(folder.glob("*.part"))


def test_results_are_recomputed_from_predictions(finished, tiny_foundations, drawn_dataset):
    folder, records = finished
    results = json.loads((folder / "results.json").read_text())
    assert {name: results[name] for name in ("scores", "mean")} == json.loads(json.dumps(score(records)))
    assert results["n"] == len(records) == 48
    assert results["weights"] == digest_safetensors(tiny_foundations["llava"])
    assert list(results["scores"]) == SIX
    assert results["seconds"] == pytest.approx(sum(record["seconds"] for record in records)) and results["seconds"]
    for name, task, setting in [("Emo-C", "emotion_recognition", "closed"), ("hate", "hate_detection", "closed")]:
        rows = [record for record in records if (record["task"], record["setting"]) == (task, setting)]
        right = sum(record["prediction"] == record["answer"] for record in rows)
        assert results["scores"][name]["accuracy"] == right / 8
        truth = {row["id"]: row["answer"] for row in load_dataset(str(drawn_dataset), task, split="test")}
        assert all(record["answer"] == truth[record["id"]] for record in rows)


def test_predictions_say_what_was_scored_and_what_generated(finished):
    for record in finished[1]:
        if record["setting"] == "open":
            assert record["probabilities"] is None and isinstance(record["text"], str) and record["greedy"] is None
        else:
            assert record["text"] is None and sum(record["probabilities"]) == pytest.approx(1)
            best = max(zip(record["probabilities"], record["choices"], strict=True))
            assert record["prediction"] == best[1] and isinstance(record["greedy"], str)


def test_limit_draws_the_same_pictures_for_both_questions(finished):
    rows = [record for record in finished[1] if record["task"] == "emotion_recognition"]
    samples = {
        setting: {r["id"].split("#")[0] for r in rows if r["setting"] == setting} for setting in ("closed", "open")
    }
    assert samples["closed"] == samples["open"] and len(samples["closed"]) == 8


def test_modes_of_emoprompt_go_to_folders_of_their_own(finished, tiny_foundations, drawn_dataset, tmp_path):
    options = ["--limit", 8, "--tasks", "hate_detection"]
    folders, model = [tmp_path / name for name in ("plain", "guided", "alone")], tiny_foundations["llava"]
    evaluate(model, drawn_dataset, folders[:2], "--emoprompt", "none", "answer", *options)
    plain, guided = map(read_predictions, folders[:2])
    expected = {record["id"]: record for record in finished[1] if record["task"] == "hate_detection"}
    assert near(plain) == near(expected[record["id"]] for record in plain)
    assert [record["id"] for record in guided] == [record["id"] for record in plain]
    assert all(record["emoprompt"] == "answer" for record in guided)
    pairs = zip(plain, guided, strict=True)
    assert any(one["probabilities"] != pytest.approx(other["probabilities"]) for one, other in pairs)
    assert near(evaluate(model, drawn_dataset, folders[2], "--emoprompt", "answer", *options)) == near(guided)
    for wrong in (["answer"], ["answer", "answer"]):
        with pytest.raises(ValueError, match="needs as many different --output folders, one for each mode; there are"):
            evaluate(model, drawn_dataset, [tmp_path / "a", tmp_path / "b"], "--emoprompt", *wrong, *options)
    with pytest.raises(ValueError, match="needs as many different"):
        evaluate(model, drawn_dataset, [tmp_path / "a"] * 2, "--emoprompt", "none", "answer", *options)


def test_baselines_see_less(finished, tiny_foundations, drawn_dataset, tmp_path):
    full = {(record["task"], record["id"]): record["probabilities"] for record in finished[1]}
    for given in ("text", "picture"):
        options = ["--limit", 8, "--tasks", "hate_detection", "--input", given]
        records = evaluate(tiny_foundations["llava"], drawn_dataset, tmp_path / given, *options)
        assert json.loads((tmp_path / given / "results.json").read_text())["input"] == given
        assert {record["input"] for record in records} == {given}
        assert all(record["probabilities"] != full[record["task"], record["id"]] for record in records)


def test_an_emollm_is_evaluated_alike(finished, llava, tiny_foundations, drawn_dataset, tmp_path):
    model = EmoLLMForConditionalGeneration.from_foundation(str(tiny_foundations["llava"]))
    model.save_pretrained(tmp_path / "emollm")
    llava[1].save_pretrained(tmp_path / "emollm")
    options = ["--limit", 8, "--tasks", "emotion_recognition", "humor_detection"]
    records = evaluate(tmp_path / "emollm", drawn_dataset, tmp_path / "results", *options)
    foundation = {(record["task"], record["id"]): record for record in finished[1]}
    assert len(records) == 24
    for record in records:  # it is untrained, so it answers as the foundation does
        expected = foundation[record["task"], record["id"]]
        assert (record["prediction"], record["text"]) == (expected["prediction"], expected["text"])


def test_two_processes_have_the_predictions_of_one(finished, tiny_foundations, drawn_dataset, tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CPU, "-m", "evaluation.run"]
    command += ["--model", tiny_foundations["llava"], "--dataset", drawn_dataset, "--limit", "8", "--batch-size", "16"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    result = subprocess.run(
        [*command, "--output", tmp_path / "two"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    two = read_predictions(tmp_path / "two")
    assert near(two) == near(finished[1])
    for record, expected in zip(two, finished[1], strict=True):  # to rounding, which threads decide about
        assert record["probabilities"] == pytest.approx(expected["probabilities"])
    assert result.stdout.count("macro F1") == 7
    results = [json.loads((folder / "results.json").read_text()) for folder in (tmp_path / "two", finished[0])]
    assert results[0]["scores"]["hate"]["macro_f1"] == results[1]["scores"]["hate"]["macro_f1"]


def test_general_ability_is_measured_beside_emotions(llava, tiny_foundations, drawn_dataset, tmp_path):
    options = ["--limit", 2, "--tasks", "hate_detection", "--agreement", 0]
    general = f"{drawn_dataset}:sarcasm_detection"
    evaluate(tiny_foundations["llava"], drawn_dataset, tmp_path / "run", *options, "--general", general)
    found = json.loads((tmp_path / "run" / "results.json").read_text())["general"]
    rows = load_dataset(str(drawn_dataset), "sarcasm_detection", split="test")
    assert found["n"] == min(256, len(rows)) and found["undecodable"] == 0
    # An untrained model's guess among all tokens, about.
    assert len(llava[1].tokenizer) / 10 < found["perplexity"] < len(llava[1].tokenizer) * 10
    assert 0 <= found["token_accuracy"] < 0.5 and found["tokens"] >= found["n"]
    with pytest.raises(ValueError, match="has no column messages; it has .*answer"):
        shutil.copytree(drawn_dataset / "hate_detection", tmp_path / "bare")
        for path in (tmp_path / "bare").glob("*.parquet"):
            pq.write_table(pq.read_table(path).drop_columns("messages"), path)
        evaluate(tiny_foundations["llava"], drawn_dataset, tmp_path / "bad", *options, "--general", tmp_path / "bare")


def test_what_is_on_the_hub_is_pinned_and_named_by_commit(finished, tiny_foundations, drawn_dataset, tmp_path):
    def stored(kind: str, name: str, folder: Path) -> tuple[Repo, str]:
        repo = Repo(kind, name)
        files = {
            str(path.relative_to(folder)): File(path.read_bytes(), lfs=path.suffix in (".parquet", ".safetensors"))
            for path in folder.rglob("*")
            if path.is_file()
        }
        wanted = repo.commit("main", "first", "", files).oid
        repo.commit("main", "emptied", "", {"README.md": File(b"nothing", lfs=False)})
        return repo, wanted

    with LoopbackHub() as hub:
        commits = {}
        for kind, folder in (("model", tiny_foundations["llava"]), ("dataset", drawn_dataset)):
            hub.repos[kind, f"owner/{kind}"], commits[kind] = stored(kind, f"owner/{kind}", folder)
        command = [sys.executable, "-m", "evaluation.run", "--model", "owner/model", "--dataset", "owner/dataset"]
        command += ["--revision", commits["model"], "--dataset-revision", commits["dataset"], "--limit", "8"]
        result = subprocess.run(
            [*command, "--tasks", "hate_detection", "--output", tmp_path / "run"],
            cwd=ROOT,
            env=hub.environment(tmp_path / "home"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    assert result.returncode == 0, result.stderr[-3000:]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["commit"] == results["revision"] == commits["model"]
    assert results["weights"] == digest_safetensors(tiny_foundations["llava"])
    assert results["dataset_commit"] == results["dataset_revision"] == commits["dataset"]
    expected = [record for record in finished[1] if record["task"] == "hate_detection"]
    assert timeless(read_predictions(tmp_path / "run")) == timeless(expected)


# --- Behind an endpoint


def test_an_endpoint_that_fails_halfway_loses_nothing(drawn_dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-to-be-told")
    options = ["--limit", 6, "--tasks", "emotion_recognition", "hate_detection", "--emoprompt", "answer"]

    refusals = []

    def script(asked):
        assert len(asked.images) == 1 and asked.headers["authorization"] == "Bearer sk-not-to-be-told"
        if "Zorb" in asked.text and not refusals:
            refusals.append(asked.text)
            return Reply("not about Zorbs", status=400)
        return (
            Reply("no") if "hateful" in asked.text or "attack" in asked.text or "harm" in asked.text else Reply("sad")
        )

    def dies(asked):
        return Reply("the key has expired", status=401) if asked.place > 7 else script(asked)

    with LoopbackTeacher(dies) as endpoint, pytest.raises(SystemExit):
        evaluate(endpoint.url, drawn_dataset, tmp_path / "run", *options, "--concurrency", 1)
    shown = capsys.readouterr().err
    assert "set OPENAI_API_KEY to a key of this endpoint" in shown and "the same command again goes on" in shown
    assert "sk-not" not in shown
    with LoopbackTeacher(script) as endpoint:
        listing = endpoint.url  # another port: another model to a run that compares settings
        with pytest.raises(ValueError, match="holds a run with other settings .model: "):
            evaluate(listing, drawn_dataset, tmp_path / "run", *options)
        settings = json.loads((tmp_path / "run" / "settings.json").read_text())
        (tmp_path / "run" / "settings.json").write_text(json.dumps(settings | {"model": listing}))
        records = evaluate(listing, drawn_dataset, tmp_path / "run", *options)
        first = 18 - len(endpoint.asked)
    assert 0 < first < 8 and len(records) == 18
    (refused,) = [record for record in records if record["error"]]
    assert refused["error"] == "refused by the endpoint" and refused["prediction"] is None
    assert {record["prediction"] for record in records if not record["error"]} == {"sadness", "no"}
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["scores"]["hate"]["errors"] == {"refused by the endpoint": 1}
    assert results["commit"] is results["weights"] is None


def test_an_endpoint_that_answers_nobody(drawn_dataset, tmp_path, capsys):
    options = ["--limit", 6, "--tasks", "hate_detection"]
    with LoopbackTeacher(lambda asked: Reply("no", status=400)) as endpoint, pytest.raises(SystemExit):
        evaluate(endpoint.url, drawn_dataset, tmp_path / "run", *options)
    assert "answered nothing" in capsys.readouterr().err
    assert not (tmp_path / "run" / "results.json").exists()


def test_an_outage_ends_the_run_before_all_rows_are_asked(drawn_dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(teachers, "RETRIES", 0)
    options = ["--limit", 60, "--tasks", "hate_detection", "--concurrency", 2]

    def script(asked):
        return Reply("down", status=503) if asked.place > 5 else Reply("no")

    with LoopbackTeacher(script) as endpoint, pytest.raises(SystemExit):
        evaluate(endpoint.url, drawn_dataset, tmp_path / "run", *options)
    assert "does not answer: " in capsys.readouterr().err and len(endpoint.asked) < 20
    assert not (tmp_path / "run" / "results.json").exists()


def test_many_refusals_in_a_row_are_final_if_the_endpoint_still_answers(drawn_dataset, tmp_path):
    options = ["--limit", 20, "--tasks", "emotion_recognition", "hate_detection", "--concurrency", 1]

    def script(asked):  # of hate it refuses all
        return Reply("no", status=400) if "Zorb" in asked.text else Reply("sad")

    with LoopbackTeacher(script) as endpoint:
        records = evaluate(endpoint.url, drawn_dataset, tmp_path / "run", *options)
    refused = [record for record in records if record["error"]]
    assert {record["task"] for record in refused} == {"hate_detection"} and len(refused) == 20


# --- Bad input


def test_one_folder_is_written_by_one_command(tiny_foundations, drawn_dataset, tmp_path):
    options = ["--limit", 2, "--tasks", "hate_detection", "--emoprompt", "none", "answer"]
    (tmp_path / "second").mkdir()
    with (
        FileLock(tmp_path / "second" / ".lock"),
        pytest.raises(ValueError, match="Another command writes .*second; w"),
    ):
        evaluate(tiny_foundations["llava"], drawn_dataset, [tmp_path / "first", tmp_path / "second"], *options)


def test_what_an_endpoint_can_not_do(drawn_dataset, tmp_path):
    for option, value in (("--general", drawn_dataset), ("--label-score", "calibrated")):
        with pytest.raises(ValueError, match=f"{option} {value} needs a model in this process, not http://127"):
            evaluate("http://127.0.0.1:9/v1", drawn_dataset, tmp_path / "run", option, value)


@pytest.mark.parametrize("option", ["--limit", "--batch-size", "--concurrency"])
def test_numbers_that_are_none(option, drawn_dataset, tmp_path, capsys):
    with pytest.raises(SystemExit):
        evaluate("model", drawn_dataset, tmp_path / "run", option, 0)
    assert f"argument {option}: 0 is below 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, message",
    [
        (["--tasks", "irony_detection"], "has no task irony_detection; it has .*sarcasm_detection"),
        (["--split", "dev"], "emotion_recognition of .* has no split 'dev'; it has train, validation, test"),
    ],
)
def test_unknown_task_and_split(options, message, tiny_foundations, drawn_dataset, tmp_path):
    with pytest.raises(ValueError, match=message):
        evaluate(tiny_foundations["llava"], drawn_dataset, tmp_path / "results", *options)
    assert not (tmp_path / "results").exists()


def test_a_folder_that_is_no_emobench(tiny_foundations, drawn_dataset, tmp_path):
    (tmp_path / "data.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="has no task of EmoBench; it has default. Build it with"):
        evaluate(tiny_foundations["llava"], tmp_path, tmp_path / "results")
    shutil.copytree(drawn_dataset, tmp_path / "lacking")
    for path in (tmp_path / "lacking").glob("hate_detection/*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns("instruction"), path)
    with pytest.raises(ValueError, match="hate_detection of .*lacking has rows without instruction. Build it with"):
        evaluate(tiny_foundations["llava"], tmp_path / "lacking", tmp_path / "x", "--tasks", "hate_detection")


def test_a_model_without_a_chat_template(tiny_foundations, drawn_dataset, tmp_path):
    shutil.copytree(tiny_foundations["llava"], tmp_path / "mute")
    (tmp_path / "mute" / "chat_template.jinja").unlink()
    assert AutoProcessor.from_pretrained(tmp_path / "mute").chat_template is None
    with pytest.raises(ValueError, match="mute has no chat template, .* set `processor.chat_template`"):
        evaluate(tmp_path / "mute", drawn_dataset, tmp_path / "run", "--limit", 2, "--tasks", "hate_detection")


def test_other_settings_in_the_same_folder(finished, tiny_foundations, drawn_dataset):
    folder, records = finished
    with pytest.raises(ValueError, match="other settings .limit: 8, now 9.; choose another --output"):
        evaluate(tiny_foundations["llava"], drawn_dataset, folder, "--limit", 9)
    weights = tiny_foundations["llava"] / "model.safetensors"
    state = weights.stat()
    os.utime(weights)  # as if it had been trained again
    with pytest.raises(ValueError, match="other settings .model_files: "):
        evaluate(tiny_foundations["llava"], drawn_dataset, folder, "--limit", 8)
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert evaluate(tiny_foundations["llava"], drawn_dataset, folder, "--limit", 8) == records


def test_a_picture_that_can_not_be_decoded_is_counted(tiny_foundations, drawn_dataset, tmp_path):
    # A name of its own: datasets takes folders of one name and one README for the same, whatever is in their files.
    shutil.copytree(drawn_dataset, tmp_path / "undecodable")
    (path,) = (tmp_path / "undecodable").glob("hate_detection/test*.parquet")
    table = pq.read_table(path)
    pictures = table["images"].to_pylist()
    pictures[0][0]["bytes"] = pictures[0][0]["bytes"][:60]
    place = table.column_names.index("images")
    pq.write_table(table.set_column(place, "images", pa.array(pictures, table.schema.field("images").type)), path)
    options = ["--tasks", "hate_detection", "--agreement", 0]
    records = evaluate(tiny_foundations["llava"], tmp_path / "undecodable", tmp_path / "run", *options)
    (failed,) = [record for record in records if record["error"]]
    assert failed["id"] == table["id"][0].as_py() and len(records) == len(pictures)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["scores"]["hate"]["errors"] == {"picture broken or truncated": 1}


@pytest.fixture(scope="module")
def real_sources(tmp_path_factory):
    """Sources unlike EmoBench-Drawn: several labels a picture, clips without frames, and groups of people."""
    folder = tmp_path_factory.mktemp("sources")
    make_sources(folder, scale=0, names=["intentonomy", "mintrec", "meld"])
    sources = {name: str(folder / name) for name in ("intentonomy", "mintrec")}
    build(sources, folder / "pictures", video="frames", frames=2)
    build({"mintrec": sources["mintrec"]}, folder / "clips", video="clip")
    build({"meld": str(folder / "meld")}, folder / "people", video="frames", frames=1)
    return folder


def test_several_labels_are_scored_by_a_threshold_of_the_validation_rows(tiny_foundations, real_sources, tmp_path):
    dataset = real_sources / "pictures"
    records = evaluate(tiny_foundations["llava"], dataset, tmp_path / "run", "--agreement", 0)
    few = evaluate(tiny_foundations["llava"], dataset, tmp_path / "few", "--limit", 2, "--seed", 2)
    assert {record["split"] for record in few} == {"test", "validation"}  # which a small limit might have left out
    assert all(record["greedy"] is None for record in few if record["split"] == "validation")
    rows = {split: load_dataset(str(real_sources / "pictures"), "intent_understanding", split=split)
            for split in ("test", "validation")}  # fmt: skip
    of_both = {row["id"] for row in rows["test"]} | {
        row["id"] for row in rows["validation"] if row["source"] == "intentonomy"
    }
    assert {record["id"] for record in records} == of_both
    assert any(len(record["answers"]) > 1 for record in records)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    scores = results["scores"]["intent"]["sources"]
    assert set(scores) == {"intentonomy", "mintrec"}
    assert 0 <= scores["intentonomy"]["threshold"] <= 1 and "samples_f1" in scores["intentonomy"]
    tested = [record for record in records if record["split"] == "test"]
    assert scores["intentonomy"]["n"] + scores["mintrec"]["n"] == len(tested)


def test_groups_of_people_are_told_apart(tiny_foundations, real_sources, tmp_path):
    dataset = real_sources / "people"
    records = evaluate(tiny_foundations["llava"], dataset, tmp_path / "run", "--agreement", 0)
    rows = load_dataset(str(dataset), "emotion_recognition", split="test")
    speakers = {row["id"]: row["attributes"]["speaker"] for row in rows}
    assert {record["id"]: record["groups"] for record in records} == {
        name: [["speaker", speaker]] for name, speaker in speakers.items()
    }


def test_clips_without_frames_are_refused(tiny_foundations, real_sources, tmp_path):
    with pytest.raises(ValueError, match="is a clip without frames: build the dataset again with --video frames"):
        evaluate(tiny_foundations["llava"], real_sources / "clips", tmp_path / "run")
