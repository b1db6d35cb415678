"""What others see of a training: the repository that it pushes, its model card, and what trackers are told."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard
from loopback_hub import OWNER, File, LoopbackHub, Repo
from sft_run import RECIPE, ROOT, options, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


MODEL_FILES = {
    "chat_template.jinja", "compact.py", "config.json", "configuration_emollm.py", "generation_config.json",
    "model.safetensors", "modeling_emollm.py", "mvp.py", "processor_config.json", "tokenizer.json",
    "tokenizer_config.json", "README.md",
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
gates = model.model.multi_perspective_projection.gates
facts = {
    "code": type(model).__module__.split(".")[0],
    "trained": bool((gates != 0).any()),
    "text": processor.decode(inputs["input_ids"][0]),
    "tokens": tokens.shape[1] - inputs["input_ids"].shape[1],
}
print(json.dumps(facts))
"""


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
    assert 'from_pretrained("owner/emollm", trust_remote_code=True)' in text
    assert "- Data: drawn:hate_detection\n" in text
    assert "- Trained weights: MVP; LoRA of rank 4 on the language model, merged into it\n" in text
    state = json.loads((pushed[1] / "checkpoint-1" / "trainer_state.json").read_text(encoding="utf-8"))
    (log,) = [log for log in state["log_history"] if "eval_loss" in log]
    assert f"- Validation: mean macro F1 {log['eval_mean_macro_f1']:.3f} at step 1, the best of all eva" in text
    assert "3 steps of 4 samples, learning rate 0.01, seed 5\n" in text
    card = ModelCard(text)
    assert card.data.library_name == "transformers" and "emollm" in card.data.tags


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
    os.rename(tmp_path / "checkpoint-2", tmp_path / "later")
    train(tiny_foundations["llava"], dataset, tmp_path, resume_from_checkpoint="last", **fields)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == card


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
