"""What a card says of a model follows from its training.json and its results.json, and from nothing else."""

import json
import re
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from dataset_scripts.manifest import digest_safetensors
from dataset_scripts.readers import READERS
from evaluation.metrics import SUB_TASKS
from model_cards.rendering import CARDS, render_metric_card, render_model_card, render_space_card
from model_cards.tables import TASKS


sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))

from written_runs import make_records, write_run  # noqa: E402


FACTS = json.loads((CARDS / "EmoLLM-Drawn" / "training.json").read_text(encoding="utf-8")) | {"earlier": []}
REAL = {
    "foundation": "llava-hf/llava-1.5-7b-hf",
    "revision": "a" * 40,
    "licence": "llama2",
    "train": "mvp+lora+projector",
    "lora_r": 16,
    "lora_alpha": 32,
    "visual_tokens_per_image": 64,
    "reason_share": 0.5,
    "datasets": [
        {"name": "me/EmoBench", "on_hub": True, "configs": ["hate_detection"], "revision": "b" * 40, "weight": 1.0},
        {"name": "captions", "on_hub": False, "configs": None, "revision": None, "weight": 2.0},
    ],
    "rows": [
        {"source": "hateful_memes", "task": "hate_detection", "licence": "Hateful Memes licence", "rows": 8500},
        {"source": "meld", "task": "emotion_recognition", "licence": "GPL-3.0 labels", "rows": 9989},
        {"source": "captions", "task": None, "licence": None, "rows": 12},
    ],
    "score": {"macro_f1": 0.6125, "step": 400, "is_best": True},
    "device": {"name": "NVIDIA H100 80GB HBM3", "count": 8, "threads": None},
    "seconds": 5400.0,
    "feature_cache": True,
    "energy": {"kwh": 31.25, "kg_co2eq": 1.7, "country": "France"},
}


@pytest.fixture
def card(tmp_path):
    """Renders the card of `tmp_path / "emollm"`, whose training told these facts."""

    def card(*results: Path, dataset_id: str | None = None, **changed) -> ModelCard:
        folder = tmp_path / "emollm"
        folder.mkdir(exist_ok=True)
        (folder / "training.json").write_text(json.dumps(FACTS | changed), encoding="utf-8")
        return ModelCard(render_model_card(folder, list(results), "me/EmoLLM-X", dataset_id))

    return card


def asked(accuracy: float = 0.8, **changed) -> list[dict]:
    records = make_records("hate_detection", "hateful_memes", accuracy, **changed)
    return records + make_records("emotion_recognition", "ferplus", accuracy, setting="open", **changed)


@pytest.fixture
def run(tmp_path):
    def run(name: str, records: list[dict] | None = None, **changed) -> Path:
        common = {"model": "outputs/emollm", "dataset_revision": None, "commit": None, "weights": FACTS["weights"]}
        return write_run(tmp_path / name, records or asked(), **common | changed)

    return run


def test_the_names_of_the_sub_tasks_are_the_evaluations():
    assert TASKS == {name: task for (task, _), name in SUB_TASKS.items()}


# --- Facts of the training


def test_a_real_training_is_told_in_full(card):
    page = card(**REAL)
    assert page.data.base_model == "llava-hf/llava-1.5-7b-hf" and page.data.license == "llama2"
    assert page.data.datasets == ["me/EmoBench"]
    assert "- Foundation: llava-hf/llava-1.5-7b-hf, commit `" + "a" * 40 in page.text
    assert (
        f"- Data: me/EmoBench:hate_detection (commit `{'b' * 40}`), captions, mixed in the proportions 1.0 : 2.0\n"
        in (page.text)
    )
    assert (
        "- Trained weights: MVP; LoRA of rank 16 on the language model, merged into it; the foundation's projector"
        in (page.text)
    )
    assert "- Compact mode: 64 visual tokens an image" in page.text
    assert "75% of the rows with a task, 50% of these asking for reasons" in page.text
    assert f"parameters; trained: {FACTS['trained_parameters']:,}, LoRA's own included\n" in page.text
    assert "often crowd workers" in page.text and "biases: see its card" in page.text
    assert "mean macro F1 0.613 at step 400, the best of all" in page.text
    assert (
        "| [Hateful Memes](https://ai.meta.com/tools/hatefulmemes) | hate detection | 8,500 | Hateful Memes li"
        in page.text
    )
    assert "| captions | conversations | 12 | its own, which was not recorded |" in page.text
    assert "drawings" not in page.text


def test_what_was_drawn_has_no_annotators_and_a_folder_no_card(card):
    page = card().text
    assert "crowd workers" not in page and "see its card" not in page and "no person is in one" in page
    both = card(rows=[*FACTS["rows"], REAL["rows"][1]]).text
    assert "drawings by a program. A score" in both and "crowd workers" in both


def test_earlier_stages_are_told_as_well(card):
    stage = {name: REAL[name] for name in ("datasets", "rows", "train", "device", "seconds")}
    stage |= {"steps": 400, "batch_size": 64, "weights": "e" * 64}
    page = card(earlier=[stage], seconds=3600.0).text
    told = (
        f"- Stage 1: 400 steps of 64 samples (mvp+lora+projector) on me/EmoBench:hate_detection (commit `{'b' * 40}`"
    )
    assert f"{told}), captions: hateful_memes, meld, captions; 12.00 device-hours\n- Stage 2, the last, of" in page
    assert "All 2 stages together took 13.00 device-hours." in page and "Training took 1.00 device-hours" in page
    assert "| training data: meld | GPL-3.0 labels |" in page and "Content warning:** hateful_memes holds" in page
    assert READERS["meld"].SOURCE.about in page and "drawings by a program. A score" in page
    assert "Stage" not in card().text and "stages" not in card().text


def test_what_it_cost_is_what_was_measured(card):
    page = card(**REAL)
    assert "12.00 device-hours: 90.0 minutes on 8 x NVIDIA H100 80GB HBM3, with its" in page.text
    assert "checkpoints, without encoding the pictures beforehand, what a crash" in page.text
    assert "31.2 kWh, or 1.7 kg of CO2 equivalents with the electricity of France" in page.text
    assert page.data.co2_eq_emissions == {
        "emissions": 1700,
        "source": "codecarbon",
        "training_type": "fine-tuning",
        "geographical_location": "France",
        "hardware_used": "8 x NVIDIA H100 80GB HBM3",
    }
    page = card()
    assert "encoding the pictures" not in page.text
    assert "was not measured" in page.text and "co2_eq_emissions" not in page.data.to_dict() and "kWh" not in page.text


def test_licences_are_those_of_foundation_and_sources(card):
    table = card(**REAL).text.split("## Licence")[1]
    assert "| the foundation, llava-hf/llava-1.5-7b-hf | llama2 |" in table
    assert "| training data: hateful_memes | Hateful Memes licence |" in table
    assert "| training data: meld | GPL-3.0 labels |" in table and "| training data: captions | their own |" in table


def test_known_biases_are_those_of_the_sources_that_were_learned(card):
    page = card(**REAL).text
    for name, reader in READERS.items():
        assert (reader.SOURCE.about in page) == (name in ("hateful_memes", "meld"))
    assert "Content warning:** hateful_memes holds" in page and "Content warning" not in card().text


def test_a_plain_foundation_needs_no_trust(card):
    page = card(is_emollm=False)
    assert (
        "trust_remote_code" not in page.text and "without MVP" in page.text and "MVP, EmoPrompt and" not in page.text
    )


@pytest.mark.parametrize("changed", [{}, REAL, {"is_emollm": False, "train": "mvp+lora", "lora_r": 8}])
def test_every_card_is_whole(card, run, changed):
    for page in (card(**changed), card(run("run"), dataset_id="me/EmoBench", **changed)):
        assert not re.search(r"\b(None|null|nan|Undefined)\b|\{\{|\{%", str(page))
        assert "\n\n\n" not in str(page) and not re.search(r"[ \t]$", str(page), re.MULTILINE)
        headings = re.findall(r"^## (.*)$", page.text, re.MULTILINE)
        assert len(headings) == 11 and all(f"\n\n## {heading}" in page.text for heading in headings)
        for told in (
            "Article 5(1)(f)",
            "Annex III, point 1(c)",
            "Article 50(3)",
            "287k",
            "12.1%",
            "onlookers perceive",
        ):
            assert told in page.text
        for line in page.text.splitlines():
            assert not line.startswith("|") or line.endswith("|")


def test_research_alone_is_outside_the_law_and_any_other_use_is_not(card):
    told = "AI systems and models specifically developed and put into service for the sole purpose of scientific "
    told += "research and development are outside the Regulation (Article 2(6)); put to any other use they are not. "
    told += "Whoever puts "
    for page, what in ((card().text, "model"), (render_space_card("me/demo", "me/EmoLLM-X", "c" * 40), "Space")):
        assert f"{told}this {what} to use has to examine" in " ".join(page.split())


# --- Results


def test_runs_of_one_model_stand_side_by_side_with_chance_and_majority(card, run):
    modes = [run("plain"), run("answer", asked(0.9), emoprompt="answer"), run("text", asked(0.5), input="text")]
    page = card(*modes).text
    assert (
        "| sub-task | rows | chance | majority | without EmoPrompt | EmoPrompt answer | without EmoPrompt, words on"
        in page
    )
    results = [json.loads((path / "results.json").read_text()) for path in modes]
    cells = [
        f"{100 * of['macro_f1']:.1f} [{100 * of['interval'][0]:.1f}, {100 * of['interval'][1]:.1f}]"
        for of in (result["scores"]["hate"] for result in results)
    ]
    assert f"| hate | 40 | 50.0 | 50.0 | {' | '.join(cells)} |" in page and len(set(cells)) == 3
    assert "with several labels a row, the macro F1 of naming all of them always" in page
    assert "By source" not in page and "By group" not in page
    assert "| hate, hateful_memes: yes | 20 |" in page
    assert card(*reversed(modes)).text == page, "whatever the order in which they are given"


def test_the_commands_are_built_from_the_settings_of_the_runs(card, run):
    same = {
        "limit": 40,
        "seed": 3,
        "general": {"dataset": "data/captions", "n": 8, "perplexity": 2.5, "token_accuracy": 0.75},
    }
    page = card(
        run("plain", **same),
        run("answer", emoprompt="answer", **same),
        run("picture", input="picture", label_score="calibrated", **same | {"general": None}),
        dataset_id="me/EmoBench",
    ).text
    command = "python -m evaluation.run --model me/EmoLLM-X --dataset me/EmoBench --tasks emotion_recognition hate_det"
    command += "ection --split test --limit 40 "
    block = page.split("```bash\n")[1].split("```")[0]
    assert block.splitlines() == [
        f"{command}--general captions --seed 3 --emoprompt none answer --output results/none results/answer",
        f"{command}--input picture --label-score calibrated --seed 3 --emoprompt none "
        "--output results/none-picture-calibrated",
    ]
    assert "perplexity 2.50 and token accuracy 75.0% on 8 conversations of captions" in page
    assert "at most 40 samples a task, drawn by seed 3" in page


def test_a_run_on_the_hub_is_repeated_at_its_commits(card, run):
    path = run("run", model="me/EmoLLM-X", dataset="me/EmoBench", commit="c" * 40, dataset_commit="d" * 40)
    page = card(path).text
    assert f"--model me/EmoLLM-X --revision {'c' * 40} --dataset me/EmoBench" in page
    assert f"--dataset-revision {'d' * 40}" in page and "### me/EmoBench\n" in page


def test_sources_and_groups_of_people_are_told_apart(card, run):
    records = make_records("emotion_recognition", "meld", 0.75, groups=[["speaker", "Ross"]])
    for record in records[:12]:
        record["groups"] = [["speaker", "Rachel|Phoebe"]]
    records += make_records("emotion_recognition", "ferplus", 0.5)
    page = card(run("run", records)).text
    assert "| Emo-C, meld | 40 |" in page and "| Emo-C, ferplus | 40 |" in page
    assert "beyond the groups above it has not been measured" in page
    groups = page.split("By group of people")[1].split("<details>")[0]
    assert "fewer than 10 rows are left out" in groups
    assert "| Emo-C, meld: speaker Ross | 28 | 64.3 [45.8, 79.3] |" in groups  # 18 of 28
    assert "| Emo-C, meld: speaker Rachel\\|Phoebe | 12 | 100.0 [75.8, 100.0] |" in groups


def test_answers_that_were_not_understood_are_counted(card, run):
    records = make_records("emotion_recognition", "ferplus", 0.5, setting="open")
    records[0]["prediction"] = None
    assert (
        "none that could be understood, which counts as wrong: 1 without EmoPrompt." in card(run("run", records)).text
    )
    assert "could be understood" not in card(run("clear")).text


def test_older_readers_find_the_scores_in_the_metadata(card, run):
    text_only = run("text", input="text")
    page = card(run("plain"), text_only, dataset_id="me/EmoBench")
    found = {(of.dataset_config, of.dataset_split, of.metric_type): of for of in page.data.eval_results}
    assert set(found) == {("hate_detection", "test", "f1"), ("emotion_recognition", "test", "f1")}
    hate = found["hate_detection", "test", "f1"]
    assert hate.dataset_type == "me/EmoBench" and hate.metric_name == "macro F1 of hate, without EmoPrompt"
    scores = json.loads((text_only / "results.json").read_text())["scores"]
    assert hate.metric_value == round(scores["hate"]["macro_f1"], 4)
    assert card(run("other")).data.eval_results is None, "without an id of the dataset there is nothing to point to"


def test_without_results_it_says_so(card):
    page = card().text
    assert "has not been evaluated" in page and "```bash" not in page and "Macro F1 in per cent" not in page


# --- Bad input


def test_what_is_missing_is_named_with_its_remedy(card, run, tmp_path):
    with pytest.raises(ValueError, match="no .*training.json: train with train_sft.py"):
        render_model_card(tmp_path, [], "me/EmoLLM")
    with pytest.raises(ValueError, match=r'"licence" is null.*llava-1.5-7b-hf.*"licence": "apache-2.0"'):
        card(**REAL | {"licence": None})
    with pytest.raises(ValueError, match="no .*results.json; make it with"):
        card(tmp_path / "emollm")
    with pytest.raises(ValueError, match="is no results.json of evaluation.run"):
        card(tmp_path / "emollm" / "training.json")
    with pytest.raises(ValueError, match=r'"licence" is \["mit", "llama2"\], as the one licence'):
        card(licence=["mit", "llama2"])
    with pytest.raises(ValueError, match="different runs on the same rows"):
        card(run("one"), run("two"))
    with pytest.raises(ValueError, match="different runs on the same rows"):
        card(run("three"), run("four", asked(n=20), emoprompt="answer"))
    with pytest.raises(ValueError, match="must be USER/NAME"):
        card(run("five"), dataset_id="EmoBench")


def test_figures_of_other_weights_are_refused(card, run, tmp_path):
    """Whatever the folder of the model was called that was evaluated."""
    card(run("same", model="elsewhere/model"))
    (tmp_path / "emollm" / "model.safetensors").write_bytes(b"first")
    weights = digest_safetensors(tmp_path / "emollm")
    assert weights == sha256(f"{sha256(b'first').hexdigest()}  model.safetensors\n".encode()).hexdigest()
    for other in (FACTS["weights"], None):
        with pytest.raises(ValueError, match="run of outputs/emollm, evaluated other weights than .*evaluate again"):
            card(run(f"other {other}", weights=other), weights=weights)
    card(run("first", weights=weights), weights=weights)
    (tmp_path / "emollm" / "model.safetensors").write_bytes(b"later")
    with pytest.raises(ValueError, match="holds other weights than those of which its training.json tells"):
        card(tmp_path / "first", weights=weights)


@pytest.mark.parametrize("name", FACTS)
def test_a_fact_too_few_is_named(name, tmp_path):
    (tmp_path / "training.json").write_text(json.dumps({key: FACTS[key] for key in FACTS if key != name}))
    with pytest.raises(ValueError, match=f"training.json lacks {name}, which the card tells: train again"):
        render_model_card(tmp_path, [], "me/EmoLLM")


def test_facts_that_are_not_whole_are_named(card, tmp_path):
    with pytest.raises(ValueError, match="training.json is not whole .*count.*: train again"):
        card(device={"name": "CPU", "threads": None})
    with pytest.raises(ValueError, match="training.json is not whole .*source.*: train again"):
        card(rows=[{"task": None, "licence": None, "rows": 12}])
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(ValueError, match="training.json is damaged"):
        render_model_card(tmp_path, [], "me/EmoLLM")


# --- The metric's and the Space's


def test_the_spaces_have_what_the_hub_asks_for():
    metric = yaml.safe_load(render_metric_card("me/emobench").split("---\n")[1])
    assert metric["sdk"] == "static" and set(metric["tags"]) == {"evaluate", "metric"}
    page = render_space_card("me/demo", "me/EmoLLM-X", "c" * 40)
    head = yaml.safe_load(page.split("---\n")[1])
    assert head["sdk"] == "gradio" and head["sdk_version"] == "6.31.0" and head["app_file"] == "app.py"
    assert head["models"] == ["me/EmoLLM-X"] and head["python_version"] == "3.11"
    for card in (metric, head):
        assert len(card["short_description"]) <= 60 and card["license"] == "apache-2.0"
        assert {card["colorFrom"], card["colorTo"]} <= {
            "red",
            "yellow",
            "green",
            "blue",
            "indigo",
            "purple",
            "pink",
            "gray",
        }
    assert (
        f"me/EmoLLM-X/tree/{'c' * 40}" in page and "Article 50(3)" in page and "Whoever puts this Space to use" in page
    )
    with pytest.raises(ValueError, match="must be USER/NAME"):
        render_space_card("demo", "me/EmoLLM-X", "main")
