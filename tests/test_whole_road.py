"""
The whole road, each step by its user's command: build EmoBench, publish it, load it from the Hub, train on it, push,
load by commit in a fresh interpreter and an empty cache, evaluate, and put the scores on the model's card.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from loopback_hub import OWNER, LoopbackHub

from evaluation.predictions import RESULTS


ROOT = Path(__file__).parents[1]
LOAD_ROWS = """
import sys
from datasets import load_dataset

rows = load_dataset("owner/EmoBench", "hate_detection", split="test", revision=sys.argv[1])
print(len(rows), rows[0]["images"][0].size, rows.features["messages"].feature)
"""
LOAD_MODEL = """
import json
import sys
from transformers import AutoModel

model = AutoModel.from_pretrained("owner/EmoLLM", trust_remote_code=True, revision=sys.argv[1])
kind = type(model)
facts = {"name": kind.__name__, "module": kind.__module__}
print(json.dumps(facts | {"trained": bool(model.multi_perspective_projection.up.weight.any())}))
"""
UPLOAD = """
from huggingface_hub import HfApi

HfApi().create_repo("owner/foundation")
HfApi().upload_folder(repo_id="owner/foundation", folder_path="foundation")
"""


@pytest.fixture
def run(tmp_path):
    """Runs Python with some arguments beside the Hub, each time in an empty cache, and returns what it printed."""
    with LoopbackHub() as hub:

        def run(*arguments: str, folder: Path = tmp_path, module: bool = True) -> str:
            home = tmp_path / "caches" / str(len(list(tmp_path.glob("caches/*"))))
            home.mkdir(parents=True)
            command = [sys.executable, *(["-m"] if module else []), *map(str, arguments)]
            result = subprocess.run(
                command, cwd=folder, env=hub.environment(home, OWNER), stdin=subprocess.DEVNULL,
                capture_output=True, text=True,
            )  # fmt: skip
            assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-3000:]}"
            return result.stdout

        run.hub = hub
        yield run


def head(run, kind: str, name: str) -> str:
    return run.hub.repos[kind, name].branches["main"]


def test_the_whole_road(run, tmp_path):
    # EmoBench, from a folder to the Hub and back
    run("dataset_scripts.build_emobench", "--output", "EmoBench", "--drawn-size", 16)
    run("model_cards.publish", "dataset", "EmoBench", "--repo-id", "owner/EmoBench", "--yes")
    data = head(run, "dataset", "owner/EmoBench")
    number, *_ = run("-c", LOAD_ROWS, data, module=False).split()
    stats = json.loads((tmp_path / "EmoBench" / "stats.json").read_text(encoding="utf-8"))
    assert int(number) == stats["configs"]["hate_detection"]["sources"]["drawn"]["test"]["rows"]

    # a foundation that is on the Hub, upgraded and trained on what was published
    run("benchmarks.tiny_foundations", "--kind", "llava", "--dataset", "EmoBench", "--output", "foundation",
        "--hidden-size", 32, "--num-layers", 1)  # fmt: skip
    run("-c", UPLOAD, module=False)
    foundation = head(run, "model", "owner/foundation")
    run("accelerate.commands.launch", "--cpu", "--num_processes", 1, ROOT / "train_sft.py",
        "--config", ROOT / "recipes" / "demo_emollm.yaml", "--max_steps", 2, "--per_device_train_batch_size", 4,
        "--mvp_size", 16, "--model_name_or_path", "owner/foundation", "--model_revision", foundation,
        "--datasets", "owner/EmoBench", "--output_dir", "outputs/EmoLLM",
        "--push_to_hub", "--hub_model_id", "owner/EmoLLM")  # fmt: skip
    pushed = head(run, "model", "owner/EmoLLM")

    # loaded by its commit where nothing of this repository is installed or at hand
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    facts = json.loads(run("-I", "-c", LOAD_MODEL, pushed, folder=elsewhere, module=False).splitlines()[-1])
    assert facts["name"] == "EmoLLMModel" and facts["trained"]
    assert facts["module"].startswith("transformers_modules.") and pushed in facts["module"]

    # evaluated, by commit as well, and its scores on the card
    run("evaluation.run", "--model", "owner/EmoLLM", "--revision", pushed, "--dataset", "owner/EmoBench",
        "--dataset-revision", data, "--limit", 2, "--emoprompt", "answer", "--output", "results/EmoLLM")  # fmt: skip
    results = json.loads((tmp_path / "results" / "EmoLLM" / RESULTS).read_text(encoding="utf-8"))
    assert results["commit"] == pushed
    printed = run("model_cards.publish", "model", "outputs/EmoLLM", "--repo-id", "owner/EmoLLM",
                  "--results", "results/EmoLLM", "--dataset-id", "owner/EmoBench", "--yes")  # fmt: skip
    repo, released = run.hub.repos["model", "owner/EmoLLM"], head(run, "model", "owner/EmoLLM")
    assert released in printed and repo.commits[released].parent == pushed
    card = repo.files["README.md"].data.decode()
    low, high = results["mean"]["interval"]
    for value in (results["mean"]["macro_f1"], low, high):
        assert f"{100 * value:.1f}" in card
    assert "owner/foundation" in card and foundation in card and "owner/EmoBench" in card
    entries = yaml.safe_load(repo.files[".eval_results/emobench.yaml"].data)
    assert {entry["dataset"]["id"] for entry in entries} == {"owner/EmoBench"}
    weights = "model.safetensors"
    assert repo.files[weights].oid == repo.commits[pushed].files[weights].oid

    # the metric and the demo beside them
    run("model_cards.publish", "metric", "--repo-id", "owner/emobench-metric", "--yes")
    run("model_cards.publish", "space", "--repo-id", "owner/EmoLLM-Demo", "--model", "owner/EmoLLM", "--yes")
    settings = json.loads(run.hub.repos["space", "owner/EmoLLM-Demo"].files["settings.json"].data)
    assert settings == {"model": "owner/EmoLLM", "revision": released}
    loaded = run("-I", "-c", "import evaluate; print(evaluate.load('owner/emobench-metric').name)",
                 folder=elsewhere, module=False)  # fmt: skip
    assert loaded.strip()
