"""What others see of a training: the repository that it pushes, its model card, and what trackers are told."""

import json
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset
from huggingface_hub import ModelCard, ResolvedRevision
from loopback_hub import OWNER, File, LoopbackHub, Repo
from sft_run import RECIPE, ROOT, options, train, words
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerState
from trl import SFTConfig

from dataset_scripts.manifest import digest_safetensors
from training.card import STAGE, Clock, describe_foundation, describe_rows, describe_training
from training.data import load_mixture
from training.trainer import EmoLLMTrainer


MODEL_FILES = {
    "chat_template.jinja", "compact.py", "config.json", "configuration_emollm.py", "generation_config.json",
    "model.safetensors", "modeling_emollm.py", "mvp.py", "processor_config.json", "tokenizer.json",
    "tokenizer_config.json", "README.md", "training.json",
}  # fmt: skip
SCORED = {"eval_strategy": "steps", "eval_steps": 1, "eval_samples": 2}
LOAD = """
import json
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("owner/emollm", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("owner/emollm", trust_remote_code=True)
content = [{"type": "image", "image": Image.new("RGB", (64, 64), "red")}, {"type": "text", "text": "Hateful?"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    emotion_task="hate_detection",
    add_generation_prompt=True,
    tokenize=True,
    return_dict=True,
    return_tensors="pt",
)
tokens = model.generate(**inputs, max_new_tokens=3, do_sample=False)
mvp = model.model.multi_perspective_projection
facts = {
    "code": type(model).__module__.split(".")[0],
    "trained": bool(mvp.up.weight.any()),
    "text": processor.decode(inputs["input_ids"][0]),
    "tokens": tokens.shape[1] - inputs["input_ids"].shape[1],
}
print(json.dumps(facts))
"""


def facts_of(folder: Path) -> dict:
    return json.loads((folder / "training.json").read_text(encoding="utf-8"))


# --- The repository


@pytest.fixture(scope="module")
def pushed(tiny_foundations, drawn_dataset, tmp_path_factory):
    """A Hub with the model of a LoRA training, in a repository where an earlier one had left an adapter."""
    folder = tmp_path_factory.mktemp("pushed")
    fields = {"train": "mvp+lora", "lora_r": 4, "max_steps": 3, "learning_rate": 1e-2, "seed": 5, **SCORED}
    fields |= {"early_stopping_patience": 2, "save_strategy": "steps", "save_steps": 1, "report_to": "tensorboard"}
    fields |= {"push_to_hub": True, "hub_model_id": "owner/emollm"}
    with LoopbackHub() as hub:
        repo = hub.repos["model", "owner/emollm"] = Repo("model", "owner/emollm")
        repo.commit("main", "earlier", "", {"adapter_model.safetensors": File(b"\0", lfs=True)})
        command = [sys.executable, ROOT / "train_sft.py", "--config", RECIPE]
        command += options(tiny_foundations["llava"], f"{drawn_dataset}:hate_detection", folder / "output", **fields)
        result = subprocess.run(
            command,
            env=hub.environment(folder / "home", OWNER),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr[-3000:]
        yield hub, folder / "output"


def test_what_is_pushed_is_the_model_and_nothing_else(pushed):
    hub, output = pushed
    repo = hub.repos["model", "owner/emollm"]
    assert set(repo.files) - {".gitattributes"} == MODEL_FILES
    assert all(repo.files[name].data == (output / name).read_bytes() for name in MODEL_FILES)
    assert [commit.title for commit in repo.commits.values()] == ["earlier", "End of training"]
    assert (output / "checkpoint-1").is_dir() and (output / "runs").is_dir()


def test_nothing_that_is_pushed_names_a_local_path(pushed, tmp_path_factory):
    files = pushed[0].repos["model", "owner/emollm"].files
    for local in (tmp_path_factory.getbasetemp(), ROOT):
        assert not [name for name, file in files.items() if str(local).encode() in file.data]


def test_what_is_pushed_loads_in_a_fresh_interpreter(pushed, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", LOAD],
        env=pushed[0].environment(tmp_path / "home", OWNER),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    facts = json.loads(result.stdout.splitlines()[-1])
    assert facts["code"] == "transformers_modules" and facts["trained"]
    assert "who is targeted" in facts["text"] and 0 < facts["tokens"] <= 3


def test_its_card_says_what_was_trained(pushed):
    text = pushed[0].repos["model", "owner/emollm"].files["README.md"].data.decode()
    assert 'from_pretrained("owner/emollm", revision=REVISION, trust_remote_code=True)' in text
    assert "- Data: drawn:hate_detection\n" in text and "- Foundation: a local folder\n" in text
    assert "- Trained weights: MVP; LoRA of rank 4 on the language model, merged into it\n" in text
    state = json.loads((pushed[1] / "checkpoint-1" / "trainer_state.json").read_text(encoding="utf-8"))
    (log,) = [log for log in state["log_history"] if "eval_loss" in log]
    assert f"- Validation: mean macro F1 {log['eval_mean_macro_f1']:.3f} at step 1, the best of all eva" in text
    assert "3 steps of 4 samples, learning rate 0.01, seed 5\n" in text
    card = ModelCard(text)
    assert card.data.library_name == "transformers" and "emollm" in card.data.tags
    assert card.data.license == "other" and card.data.base_model is None


def test_its_facts_are_those_of_the_training(pushed):
    facts = facts_of(pushed[1])
    assert facts["is_emollm"] and (facts["train"], facts["lora_r"], facts["lora_alpha"]) == ("mvp+lora", 4, 32)
    assert (facts["foundation"], facts["revision"], facts["licence"]) == (None, None, None)
    assert facts["datasets"] == [
        {"name": "drawn", "on_hub": False, "configs": ["hate_detection"], "revision": None, "weight": None}
    ]
    assert facts["rows"] == [{"source": "drawn", "task": "hate_detection", "licence": "Apache-2.0", "rows": 16}]
    assert 0 < facts["trained_parameters"] < facts["parameters"]
    assert (facts["steps"], facts["batch_size"], facts["seed"]) == (3, 4, 5)
    assert (facts["lr_scheduler_type"], facts["optimizer"]) == ("constant_with_warmup", "adamw_torch_fused")
    assert (facts["emoprompt_share"], facts["reason_share"], facts["feature_cache"]) == (0.75, 0.0, False)
    assert facts["earlier"] == [] and facts["weights"] == digest_safetensors(pushed[1])
    assert (facts["dtype"], facts["precision"]) == ("float32", "fp32")
    assert facts["device"]["name"].startswith("CPU") and facts["device"]["count"] == 1
    assert facts["seconds"] > 0 and facts["energy"] is None
    assert facts["score"]["step"] == 1 and facts["score"]["is_best"]
    assert set(facts["versions"]) == {"torch", "transformers", "trl", "peft", "accelerate", "datasets"}


def test_its_card_says_what_it_is_not_and_what_the_law_limits(pushed):
    text = pushed[0].repos["model", "owner/emollm"].files["README.md"].data.decode()
    for told in ("It is not", "12.1%", "Article 5(1)(f)", "Article 50(3)", "device-hours", "has not been evaluated"):
        assert told in text
    assert "| the foundation | not known to the training: that of the foundation |" in text


# --- The facts


NO_INDEX = "mit\nmodel-index:\n- name: 3"
FAULTY = "[mit", "mit\n- a list", "\xff"


@pytest.mark.parametrize(
    ("readme", "licence"),
    [(None, None), ("mit", "mit"), ("other", None), ("[mit, llama2]", None), (NO_INDEX, "mit")]
    + [(faulty, None) for faulty in FAULTY],
)
def test_the_licence_of_a_foundation_in_a_folder_is_that_of_its_card(tmp_path, readme, licence):
    if readme:
        (tmp_path / "README.md").write_text(f"---\nlicense: {readme}\n---\n", encoding="latin-1")
    facts = {"foundation": None, "revision": None, "licence": licence, "earlier": []}
    assert describe_foundation(str(tmp_path), None) == facts


def test_of_a_foundation_without_a_mapping_at_its_head_no_licence_is_known(tmp_path):
    (tmp_path / "README.md").write_text("---\n- mit\n---\n", encoding="utf-8")
    assert describe_foundation(str(tmp_path), None)["licence"] is None


def test_a_foundation_of_the_hub_has_its_commit_and_its_licence(tmp_path, monkeypatch):
    """From its card at that commit; tests/test_whole_road.py reads one from a Hub."""
    (tmp_path / "card.md").write_text("---\nlicense: llama2\n---\n", encoding="utf-8")
    commit = ResolvedRevision("a" * 40, "v1.0")
    monkeypatch.setattr("training.card.resolve_revision", lambda *_: commit)
    cards = {"llava-hf/llava-1.5-7b-hf": tmp_path / "card.md"}
    monkeypatch.setattr("training.card.cached_file", lambda name, *_, revision, **__: revision and cards.get(name))
    facts = {"foundation": "llava-hf/llava-1.5-7b-hf", "revision": "a" * 40, "licence": "llama2"}
    assert describe_foundation("llava-hf/llava-1.5-7b-hf", "v1.0") == facts | {"earlier": []}
    assert describe_foundation("owner/no-card", None)["licence"] is None
    trained = tmp_path / "trained"
    trained.mkdir()
    stages = [dict.fromkeys(STAGE, number) for number in (1, 2)]
    told = facts | {"earlier": stages[:1], "seed": 0, **stages[1]}
    (trained / "training.json").write_text(json.dumps(told), encoding="utf-8")
    monkeypatch.undo()
    told_again = facts | {"earlier": stages}
    assert describe_foundation(str(trained), None) == told_again, "what a training has left started where that had"
    (trained / "training.json").write_text(json.dumps(facts | {"earlier": []}), encoding="utf-8")
    with pytest.raises(ValueError, match="training.json has no datasets, rows, .*, weights, which the card"):
        describe_foundation(str(trained), None)


def test_rows_are_counted_by_source_and_by_dataset(drawn_dataset, captions):
    rows = load_mixture([f"{drawn_dataset}:hate_detection,emotion_recognition", str(captions)], None, "train", 0)
    assert describe_rows(rows) == [
        {"source": "drawn", "task": "hate_detection", "licence": "Apache-2.0", "rows": 16},
        {"source": "drawn", "task": "emotion_recognition", "licence": "Apache-2.0", "rows": 32},
        {"source": "captions", "task": "captioning", "licence": None, "rows": 8},
    ]
    rows = Dataset.from_list([words(i) | {"id": f"me/chat:default/train/{i}", "task": None} for i in range(3)])
    assert describe_rows(rows) == [{"source": "me/chat", "task": None, "licence": None, "rows": 3}]


def test_every_device_counts(tmp_path, monkeypatch):
    """Also those of one process, among which torch divides its batches."""
    monkeypatch.setattr(SFTConfig, "n_gpu", 4)
    args = SFTConfig(tmp_path, use_cpu=True, report_to="none")
    handler = SimpleNamespace(callbacks=[Clock()])
    trainer = SimpleNamespace(args=args, state=TrainerState(), callback_handler=handler)
    assert describe_training(trainer)["device"]["count"] == 4


def test_until_it_ends_a_training_leaves_what_an_earlier_one_told(
    tiny_foundations, drawn_dataset, tmp_path, monkeypatch
):
    """Of the weights that are there."""
    train(tiny_foundations["llava"], f"{drawn_dataset}:hate_detection", tmp_path, seed=1, save_strategy="no")
    told = {name: (tmp_path / name).read_bytes() for name in ("training.json", "README.md")}
    assert facts_of(tmp_path)["weights"] == digest_safetensors(tmp_path)
    monkeypatch.setattr("train_sft.save_trained", lambda trainer: None)
    fields = {"seed": 2, "save_strategy": "steps", "save_steps": 1}
    train(tiny_foundations["llava"], f"{drawn_dataset}:hate_detection", tmp_path, **fields)
    assert (tmp_path / "checkpoint-2").is_dir()
    assert {name: (tmp_path / name).read_bytes() for name in told} == told


def test_the_time_of_a_resumed_training_is_that_of_all_its_parts(
    tiny_foundations, drawn_dataset, tmp_path, monkeypatch
):
    now = [0.0]
    monkeypatch.setattr("training.card.time.monotonic", lambda: now[0])
    step = EmoLLMTrainer.training_step

    def slow(self, *args, **kwargs):
        now[0] += 100
        return step(self, *args, **kwargs)

    monkeypatch.setattr(EmoLLMTrainer, "training_step", slow)
    fields = {"save_strategy": "steps", "save_steps": 1, "report_to": "none"}
    train(tiny_foundations["llava"], f"{drawn_dataset}:hate_detection", tmp_path, **fields)
    assert facts_of(tmp_path)["seconds"] == 200
    os.rename(tmp_path / "checkpoint-2", tmp_path / "lost")
    now[0] = 5.0  # another process
    train(
        tiny_foundations["llava"], f"{drawn_dataset}:hate_detection", tmp_path, resume_from_checkpoint="last", **fields
    )
    assert facts_of(tmp_path)["seconds"] == 200, "a hundred before the checkpoint, and a hundred after it"


def test_energy_is_that_of_this_training_as_codecarbon_measured_it(
    tiny_foundations, drawn_dataset, tmp_path, monkeypatch
):
    """By a stand-in, which writes as codecarbon does: what a run used so far, to the file of all runs of a folder."""
    columns = "timestamp,run_id,emissions,energy_consumed,country_name"

    class Tracker:
        def __init__(self, output_dir):
            self.file = tmp_path / "emissions.csv"
            assert str(tmp_path) == output_dir

        def start(self):
            self.file.write_text(f"{columns}\n2001-01-01T00:00:00,earlier,9.0,90.0,France\n", encoding="utf-8")

        def stop(self):
            now = datetime.now().isoformat(timespec="seconds")
            with open(self.file, "a", encoding="utf-8") as file:
                file.write(f"{now},this,0.1,1.0,France\n{now},this,0.25,2.5,France\n{now},that,0.5,5.0,France\n")

    stand_in = SimpleNamespace(__spec__=SimpleNamespace(), EmissionsTracker=Tracker)
    monkeypatch.setitem(sys.modules, "codecarbon", stand_in)
    train(tiny_foundations["llava"], f"{drawn_dataset}:hate_detection", tmp_path, max_steps=1, report_to="codecarbon")
    assert facts_of(tmp_path)["energy"] == {"kwh": 7.5, "kg_co2eq": 0.75, "country": "France"}
    card = ModelCard.load(tmp_path / "README.md")
    assert "7.5 kWh, or 0.75 kg of CO2 equivalents with the electricity of France" in card.text
    assert card.data.co2_eq_emissions["emissions"] == 750


# --- The card


def test_the_card_of_a_resumed_mixture_is_that_of_an_uninterrupted_one(tiny_foundations, drawn_dataset, tmp_path):
    fields = {"train": "full", "upgrade": False, "save_strategy": "steps", "save_steps": 1, "dataset_weights": 3.0}
    dataset = f"{drawn_dataset}:hate_detection"
    fields |= SCORED
    train(tiny_foundations["llava"], dataset, tmp_path, **fields)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    score = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())["log_history"][-1]
    assert "- Data: drawn:hate_detection, mixed in the proportions 3.0\n" in card
    assert "- Trained weights: all\n" in card and "best of all" not in card
    assert f"- Validation: mean macro F1 {score['eval_mean_macro_f1']:.3f} at step 2\n" in card
    facts = facts_of(tmp_path)
    os.rename(tmp_path / "checkpoint-2", tmp_path / "later")
    train(tiny_foundations["llava"], dataset, tmp_path, resume_from_checkpoint="last", **fields)
    assert facts_of(tmp_path) | {"seconds": facts["seconds"]} == facts  # and so the weights
    took = r"Training took .* minutes"
    assert re.sub(took, "", (tmp_path / "README.md").read_text(encoding="utf-8")) == re.sub(took, "", card)


def test_a_run_that_was_not_scored_says_nothing_of_it(trained):
    assert "Validation" not in (trained / "README.md").read_text(encoding="utf-8")


# --- Trackers


def test_tensorboard_is_told_the_loss_and_the_scores(tiny_foundations, drawn_dataset, tmp_path):
    dataset = f"{drawn_dataset}:hate_detection,humor_detection"
    fields = {"report_to": "tensorboard", "logging_steps": 1, "save_strategy": "steps", "save_steps": 2, **SCORED}
    train(tiny_foundations["llava"], dataset, tmp_path, **fields)
    (folder,) = (tmp_path / "runs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]
    logs = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    for name in ("loss", "mean_macro_f1", "hate_macro_f1", "humor_macro_f1"):
        expected = [(log["step"], log[f"eval_{name}"]) for log in logs if f"eval_{name}" in log]
        told = [(event.step, event.value) for event in events.Scalars(f"eval/{name}")]
        assert len(expected) == 2 and told == [pytest.approx(pair, rel=1e-6) for pair in expected]


def test_trackio_is_told_the_scores(tiny_foundations, drawn_dataset, tmp_path, monkeypatch):
    """By a stand-in, since trackio needs Pillow < 13; what it is told comes from transformers."""
    told = []
    stand_in = SimpleNamespace(
        __spec__=SimpleNamespace(),
        init=lambda **settings: told.append(settings),
        log=lambda logs, **_: told.append(logs),
        finish=lambda: told.append("finished"),
        context_vars=SimpleNamespace(current_space_id=SimpleNamespace(get=lambda: None)),
    )
    stand_in.config = type("Config", (dict,), {"update": lambda self, values, **_: dict.update(self, values)})()
    monkeypatch.setitem(sys.modules, "trackio", stand_in)
    fields = {"report_to": "trackio", "project": "emollm", "run_name": "tiny", "max_steps": 1, **SCORED}
    train(tiny_foundations["llava"], f"{drawn_dataset}:hate_detection", tmp_path, **fields)
    assert (told[0]["project"], told[0]["name"], told[-1]) == ("emollm", "tiny", "finished")
    (score,) = [logs["eval/mean_macro_f1"] for logs in told[1:-1] if "eval/mean_macro_f1" in logs]
    assert 0 <= score <= 1
