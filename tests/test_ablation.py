"""The ablation: what a plan makes of foundations, arms and seeds, and the tables that follow from predictions."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from filelock import FileLock
from scipy.stats import ttest_1samp
from trl import ModelConfig, SFTConfig, TrlParser

import evaluation.run
import train_sft
from benchmarks.ablation import __main__ as ablation
from benchmarks.ablation import store
from benchmarks.ablation.plan import (
    ADAPTER,
    ARMS,
    AS_IT_IS,
    EMOLLM,
    MVP,
    PROMPTED,
    SFT,
    UNTRAINED,
    WITHOUT,
    Cell,
    Plan,
)
from benchmarks.ablation.tables import Scores, draw, fill, tables
from dataset_scripts.pipeline import build
from evaluation.figures import to_bytes


ROOT = Path(__file__).parents[1]
PLANS = ROOT / "recipes" / "ablation"
ONE_STEP = {"train": "full", "use_cpu": True, "max_steps": 1, "per_device_train_batch_size": 2, "warmup_steps": 0}
ONE_STEP |= {"max_length": None, "gradient_checkpointing": False, "bf16": False, "save_strategy": "no"}
ONE_STEP |= {"report_to": "none", "dataloader_pin_memory": False, "learning_rate": 0.01}


@pytest.fixture
def plan(tiny_foundations, drawn_dataset, tmp_path) -> Path:
    """A plan of one foundation and two seeds, one step a training."""
    values = {
        "pretrain": ["""python -c 'print("made", file=open("{output}/{name}.txt", "a"))'"""],
        "foundations": {"llava": {"model_name_or_path": str(tiny_foundations["llava"])}},
        "datasets": [str(drawn_dataset)],
        "tests": {"validation": ["hate_detection"], "test": ["sarcasm_detection"]},
        "batch_size": 64,
        "test_rows": 368,
        "train": ONE_STEP,
        "mvp_size": 16,
        "emoprompt": {"emoprompt_share": 1.0, "reason_share": 0.0},
        "mode": "answer",
        "seeds": [0, 1],
        "leave_out": ["llava"],
        "launch": "python",
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def commands(monkeypatch) -> list[list[str]]:
    """What was run, of which trainings and evaluations run in this process."""
    found, start = [], ablation.run

    def run(command: list[str], log: Path) -> None:
        found.append(command)
        if "train_sft.py" in command:
            parser = TrlParser((train_sft.EmoLLMArguments, SFTConfig, ModelConfig))
            train_sft.main(*parser.parse_args_and_config(command[2:]))
        elif "evaluation.run" in command:
            evaluation.run.main(evaluation.run.make_parser().parse_args(command[3:]))
        else:
            start(command, log)

    monkeypatch.setattr(ablation, "run", run)
    return found


@pytest.fixture
def results(monkeypatch, tmp_path) -> Path:
    """Where this test stores predictions and writes tables, instead of into the repository."""
    folder = tmp_path / "results"
    document = tmp_path / "README.md"
    document.write_text("before\n<!-- begin: ablation tiny headline -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(store, "RESULTS", folder)
    monkeypatch.setattr(ablation, "RESULTS", folder)
    monkeypatch.setattr(ablation, "DOCUMENTS", (document,))
    return folder


def start(plan: Path, output: Path, *options: str) -> None:
    ablation.main(ablation.make_parser().parse_args(["--plan", str(plan), "--output", str(output), *options]))


# --- Cells


def test_cells_are_trained_tested_and_stored_and_a_stopped_run_goes_on(plan, commands, results, tmp_path, monkeypatch):
    output = tmp_path / "output"
    begin = ablation.run

    def stop(command: list[str], log: Path) -> None:
        if "--output_dir" in command and "llava/mvp-1" in " ".join(command):
            raise KeyboardInterrupt
        begin(command, log)

    monkeypatch.setattr(ablation, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        start(plan, output)
    done = len(commands)
    monkeypatch.setattr(ablation, "run", begin)
    with FileLock(output / "tiny" / "llava" / "mvp-emoprompt-1" / ".lock"):  # as another process that is at it
        start(plan, output)
    assert not results.exists()
    start(plan, output)
    run, cells = Plan.read(plan, output), 2 + 2 * (4 + 4)
    assert len(run.cells) == cells and 0 < done < len(commands)
    assert len(commands) == len({tuple(command) for command in commands}), "something was done twice"
    assert (output / "tiny" / "llava.txt").read_text() == "made\n"
    scores = json.loads((results / "tiny.json").read_text())
    assert len(scores["cells"]) == cells
    for cell, found in zip(run.cells, scores["cells"], strict=True):
        expected = {}
        for folder in run.evaluated(cell):
            measured = json.loads((folder / "results.json").read_text())
            expected |= {name: score["macro_f1"] for name, score in measured["scores"].items()}
            assert measured["emoprompt"] == ("answer" if cell.arm in (PROMPTED, EMOLLM) else None)
        mean = sum(expected.values()) / 2
        assert found["macro_f1"] == pytest.approx(expected | {"mean": mean}), cell
    trained = {cell: (run.folder(cell) / "model" / "model.safetensors").read_bytes() for cell in run.cells[2:]}
    assert len(set(trained.values())) == len(trained)
    table = pq.read_table(results / "tiny.parquet")
    assert table.num_rows == cells * (128 + 240) and "answer" not in table.column_names
    document = (tmp_path / "README.md").read_text()
    assert document.startswith("before\n") and document.endswith("<!-- end -->\nafter\n") and "old" not in document
    before = (results / "tiny.json").read_bytes(), (results / "tiny.png").read_bytes(), document
    start(plan, output, "--tables")
    assert ((results / "tiny.json").read_bytes(), (results / "tiny.png").read_bytes()) == before[:2]
    assert (tmp_path / "README.md").read_text() == document


def test_a_command_that_fails_is_named_with_its_log(plan, tmp_path):
    values = yaml.safe_load(plan.read_text())
    plan.write_text(yaml.safe_dump(values | {"pretrain": ["""python -c 'raise SystemExit("no {name} here")'"""]}))
    log = tmp_path / "output" / "tiny" / "foundations" / "llava" / "log.txt"
    with pytest.raises(SystemExit, match=rf"no llava here.* ended with 1\. .* {log}\.$"):
        start(plan, tmp_path / "output")
    assert "no llava here" in log.read_text()


# --- Plans


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sedes": [0]}, r"unknown \['sedes'\]"),
        ({"seeds": None}, r"lacks \['seeds'\]"),
        ({"leave_out": ["llama"]}, "llama"),
        ({"train": ONE_STEP | {"max_stepz": 1}}, "max_stepz"),
    ],
)
def test_a_bad_plan_is_refused(plan, changes, message, tmp_path):
    values = yaml.safe_load(plan.read_text()) | changes
    plan.write_text(yaml.safe_dump({name: value for name, value in values.items() if value is not None}))
    with pytest.raises(ValueError, match=message):
        Plan.read(plan, tmp_path).arguments(Cell("llava", SFT, 0))


@pytest.mark.parametrize("train", ["full", "mvp+lora"])
def test_the_arms_train_as_many_parameters(plan, train, tmp_path):
    values = yaml.safe_load(plan.read_text())
    values["train"] |= {"train": train} | ({} if train == "full" else {"lora_r": 4, "lora_alpha": 8})
    plan.write_text(yaml.safe_dump(values))
    run = Plan.read(plan, tmp_path)
    budget = run.budget("llava")
    assert abs(budget.adapter - budget.mvp) < 0.05 * budget.mvp
    script_args, _, model_args = run.arguments(Cell("llava", ADAPTER, 0))
    assert script_args.mvp_fields == {
        "mvp_size": budget.adapter_size,
        "perspectives": [],
        "visual_tokens_per_image": None,
    }
    script_args, _, model_args = run.arguments(Cell("llava", SFT, 0))
    if train != "full":
        assert abs(budget.extra - budget.mvp) < 0.05 * budget.mvp and model_args.lora_r > 4
        assert model_args.lora_alpha == 2 * model_args.lora_r
    assert not script_args.upgrade


@pytest.mark.parametrize("path", sorted(PLANS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_plans_that_are_there_can_be_read(path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    run = Plan.read(path, tmp_path)
    assert len(run.cells) == len(set(run.cells)) and len({run.folder(cell) for cell in run.cells}) == len(run.cells)
    assert {cell.arm for cell in run.cells} >= set(ARMS)
    for name in run.values["foundations"]:
        assert run.foundation(name)["model_name_or_path"]
        for command in run.pretraining(name):
            assert "{" not in " ".join(command)


def test_hours_are_estimated_without_weights(plan, tmp_path, capsys, monkeypatch):
    values = yaml.safe_load(plan.read_text())
    values["train"] |= {"max_length": 512, "gradient_accumulation_steps": 4}
    plan.write_text(yaml.safe_dump(values))
    start(plan, tmp_path / "output", "--estimate")
    printed = capsys.readouterr().out
    assert "| llava |" in printed and "GPU hours" in printed and not (tmp_path / "output").exists()


# --- Tables


def made_up(seeds: int = 3) -> dict:
    """Scores of two foundations, three seeds and two sub-tasks, drawn at random."""
    random = np.random.default_rng(0)
    cells = []
    for name in ("a", "b"):
        for arm in (*ARMS, *(WITHOUT.format(p) for p in ("content", "temporal") if name == "a")):
            for seed in range(1 if arm in UNTRAINED else seeds):
                hate, humor = random.uniform(0.2, 0.9, 2)
                f1 = {"hate": hate, "humor": humor, "mean": (hate + humor) / 2}
                cells.append({"foundation": name, "arm": arm, "seed": seed, "macro_f1": f1})
    return {"plan": "tiny", "chance": {"hate": 0.5, "humor": 0.5, "mean": 0.5}, "rows": {}, "cells": cells}


def test_tables_say_what_the_scores_say():
    given = made_up()
    found = tables(Scores(given))

    def means(arm: str, name: str) -> np.ndarray:
        cells = [cell for cell in given["cells"] if (cell["arm"], cell["foundation"]) == (arm, name)]
        return 100 * np.array([cell["macro_f1"]["mean"] for cell in cells])

    better = {name: means(EMOLLM, name) - means(AS_IT_IS, name) for name in ("a", "b")}
    cells = []
    for values in better.values():
        low, high = ttest_1samp(values, 0).confidence_interval()
        cells.append(f"{values.mean():+.1f} [{low:+.1f}, {high:+.1f}]")
    values = np.mean([*better.values()], axis=0)
    low, high = ttest_1samp(values, 0).confidence_interval()
    relative = 100 * values.mean() / np.mean([means(AS_IT_IS, name)[0] for name in ("a", "b")])
    cells.append(f"{values.mean():+.1f} [{low:+.1f}, {high:+.1f}], {relative:+.1f}%")
    assert f"| {EMOLLM} over {AS_IT_IS} | {' | '.join(cells)} |" in found["headline"]
    values = means(WITHOUT.format("content"), "a") - means(MVP, "a")
    low, high = ttest_1samp(values, 0).confidence_interval()
    [row] = [line for line in found["left-out"].splitlines() if "content" in line]
    assert row.endswith(f"| {values.mean():+.1f} [{low:+.1f}, {high:+.1f}] |")
    assert to_bytes(draw(Scores(given)), "png") == to_bytes(draw(Scores(given)), "png")


def test_one_seed_has_no_interval():
    with pytest.raises(ValueError, match="1 seeds.*plan tiny"):
        Scores(made_up(1))


def test_documents_without_a_place_for_a_table_stay_as_they_are():
    found = tables(Scores(made_up()))
    other = "<!-- begin: ablation other headline -->\nx\n<!-- end -->\n"
    assert fill(other, "tiny", found) == other


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks" / "ablation" / "results").glob("*.json")), ids=lambda p: p.stem
)
def test_the_documents_have_the_tables_of_the_stored_scores(path):
    found = tables(Scores(json.loads(path.read_text(encoding="utf-8"))))
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ablation.DOCUMENTS]
    assert any(f"<!-- begin: ablation {path.stem} headline -->" in text for text in texts)
    for text in texts:
        assert fill(text, path.stem, found) == text, (
            f"not up to date: python -m benchmarks.ablation --plan recipes/ablation/{path.stem}.yaml --tables"
        )


@pytest.fixture
def real_dataset(shared_data, tmp_path) -> Path:
    """The pictures of `real.yaml`, built as it says."""
    folders = {"ferplus": "ferplus_faces", "harmeme": "harmeme", "cm_memes": "cm_memes"}
    build({name: shared_data / folder for name, folder in folders.items()}, tmp_path / "real")
    return tmp_path / "real"


@pytest.mark.parametrize("name", ["drawn", "real"])
def test_the_stored_scores_follow_from_the_stored_predictions(name, request, tmp_path, monkeypatch):
    dataset = request.getfixturevalue(f"{name}_dataset")  # of EmoBench-Drawn any build has the same test split
    monkeypatch.chdir(ROOT)
    run = Plan.read(PLANS / f"{name}.yaml", tmp_path)
    run.values["datasets"] = [str(dataset)]
    stored = json.loads((store.RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    written = {}
    monkeypatch.setattr(store, "write_json", lambda path, scores: written.update({path.name: scores}))
    store.score_predictions(run)
    assert written[f"{name}.json"] == stored


def test_predictions_of_other_rows_are_refused(plan, results, tmp_path, drawn_dataset, commands):
    values = yaml.safe_load(plan.read_text())
    values |= {"seeds": [], "leave_out": []}
    plan.write_text(yaml.safe_dump(values))
    run = Plan.read(plan, tmp_path / "output")
    assert ablation.run_cells(run) == []
    store.store_predictions(run)
    run.values["tests"] = {"validation": ["hate_detection"]}
    with pytest.raises(ValueError, match=r"368 predictions.*128 rows"):
        store.score_predictions(run)
    run.values["seeds"] = [0]
    with pytest.raises(ValueError, match="lacks 4 of 6 cells"):
        store.score_predictions(run)
