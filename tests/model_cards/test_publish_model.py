"""A model from its folder to the Hub and back, and what may not be published."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from loopback_hub import OWNER, File, Repo
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor

from dataset_scripts.manifest import digest_safetensors
from modeling_emollm import EmoLLMForConditionalGeneration, attach_emoprompt


ROOT = Path(__file__).parents[2]
DRAWN = ROOT / "model_cards" / "EmoLLM-Drawn"
CODE = {"compact.py", "configuration_emollm.py", "modeling_emollm.py", "mvp.py"}
FILES = CODE | {
    "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
    "processor_config.json", "tokenizer.json", "tokenizer_config.json", "training.json",
}  # fmt: skip
# Prints where the code of a model comes from, and a sum of its weights.
LOAD = """
import sys
from transformers import AutoModelForImageTextToText, AutoProcessor
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], revision=sys.argv[2], trust_remote_code=True)
AutoProcessor.from_pretrained(sys.argv[1], revision=sys.argv[2], trust_remote_code=True)
print(type(model).__module__, sum(weights.double().sum().item() for weights in model.parameters()))
"""


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def sign(folder: Path) -> None:
    """As the training that left these weights."""
    edit(folder / "training.json", weights=digest_safetensors(folder))


@pytest.fixture(scope="module")
def trained(tiny_foundations, tmp_path_factory) -> Path:
    """What a training leaves: a model, and much beside it."""
    folder = tmp_path_factory.mktemp("models") / "emollm"
    EmoLLMForConditionalGeneration.from_foundation(tiny_foundations["llava"], mvp_size=8).save_pretrained(folder)
    attach_emoprompt(AutoProcessor.from_pretrained(tiny_foundations["llava"])).save_pretrained(folder)
    shutil.copy(DRAWN / "training.json", folder)
    sign(folder)
    (folder / "checkpoint-1").mkdir()
    torch.save({"state": 1}, folder / "checkpoint-1" / "optimizer.pt")
    torch.save({"output_dir": str(folder)}, folder / "training_args.bin")
    (folder / "trainer_state.json").write_text(json.dumps({"best": str(folder / "checkpoint-1")}))
    (folder / ".cache").mkdir()
    (folder / "README.md").write_text("old")
    return folder


@pytest.fixture
def model(trained, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(trained, tmp_path / "emollm"))


@pytest.fixture
def run_folder(trained, tmp_path) -> Path:
    """As evaluation.run leaves it."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(DRAWN / "results" / "none.json", folder / "results.json")
    edit(folder / "results.json", weights=digest_safetensors(trained))
    return folder


def test_a_model_is_published_without_what_a_training_leaves(trained, run_folder, hub, publish, run):
    repo = hub.repos["model", "owner/emollm"] = Repo("model", "owner/emollm")
    old = {"adapter_model.safetensors": b"old", "training_args.bin": b"old", "LICENSE": b"mine", "mvp.py": b"old"}
    repo.commit("main", "by hand", "", {name: File(data, lfs=False) for name, data in old.items()})
    options = ("--results", run_folder, "--dataset-id", "owner/EmoBench")
    printed = publish("model", trained, "--repo-id", "owner/emollm", *options)
    assert set(repo.files) == FILES | {".eval_results/emobench.yaml", "LICENSE"}
    assert b"dataset:" in repo.files[".eval_results/emobench.yaml"].data
    assert repo.files["model.safetensors"].data == (trained / "model.safetensors").read_bytes()
    assert all(repo.files[name].data == (ROOT / "modeling_emollm" / name).read_bytes() for name in CODE)
    card = repo.files["README.md"].data.decode()
    assert card.startswith("---\n") and "owner/emollm" in card and "owner/EmoBench" in card
    for left in (".cache/", "checkpoint-1/", "trainer_state.json", "training_args.bin"):
        assert left in printed.splitlines()[0]
    for line in ("  ~ mvp.py", "  - adapter_model.safetensors\n", "  - training_args.bin\n", "left alone: LICENSE\n"):
        assert line in printed
    sha = printed.splitlines()[-1]
    assert sha == repo.branches["main"] and repo.history == ["EmoLLM", "by hand"]
    done = run("-c", LOAD, "owner/emollm", sha, token=None)
    assert done.returncode == 0, done.stderr
    module, total = done.stdout.splitlines()[-1].split()
    weights = sum(w.double().sum().item() for w in load_file(trained / "model.safetensors").values())
    assert module.startswith("transformers_modules.") and float(total) == pytest.approx(weights)


def spoil_weights(model: Path) -> None:
    """A tensor is missing."""
    weights = load_file(model / "model.safetensors")
    weights.pop(next(name for name in weights if "multi_perspective" in name))
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def sign_weights(model: Path) -> None:
    save_file(load_file(model / "model.safetensors"), model / "model.safetensors", metadata={"from": str(model)})


def pickle_weights(model: Path) -> None:
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()


def link_out(model: Path) -> None:
    (model / "generation_config.json").rename(model.parent / "elsewhere.json")
    (model / "generation_config.json").symlink_to(model.parent / "elsewhere.json")


def add_line(name: str):
    def add(model: Path) -> None:
        with (model / name).open("a") as file:
            file.write("\n# mine\n")

    return add


SPOILT = {
    "only a pickle": (pickle_weights, "no *.safetensors"),
    "a pickle by another name": (
        lambda model: torch.save({}, model / "model.safetensors"),
        "model.safetensors: a pickle or an archive",
    ),
    "an old pickle": (
        lambda model: torch.save({}, model / "vocab.json", _use_new_zipfile_serialization=False),
        "vocab.json: a pickle or an archive",
    ),
    "a damaged list of tokens": (
        lambda model: (model / "special_tokens_map.json").write_text("{"),
        "special_tokens_map.json: ",
    ),
    "a damaged index": (
        lambda model: (model / "model.safetensors").rename(model / "model.safetensors.index.json"),
        "model.safetensors.index.json is damaged",
    ),
    "a damaged config": (lambda model: (model / "config.json").write_text("{"), "config.json is damaged"),
    "no weights at all": (
        lambda model: (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "model.safetensors: no safetensors file",
    ),
    "a path in the weights": (sign_weights, "model.safetensors: a local path"),
    "a path of this machine": (
        lambda model: edit(model / "tokenizer_config.json", name_or_path=str(model)),
        "tokenizer_config.json: a local path",
    ),
    "a path of another machine": (
        lambda model: edit(model / "training.json", notes="see /home/somebody/runs"),
        "training.json: a local path, '/home/somebody",
    ),
    "a relative path that is nowhere": (
        lambda model: edit(model / "tokenizer_config.json", name_or_path="outputs/foundation"),
        "tokenizer_config.json: a local path, 'outputs/foundation'",
    ),
    "a path of three parts": (
        lambda model: edit(model / "tokenizer_config.json", name_or_path="some/secret/foundation"),
        "tokenizer_config.json: a local path, 'some/secret/foundation'",
    ),
    "a relative path": (
        lambda model: edit(model / "training.json", foundation=os.path.relpath(ROOT / "model_cards" / "checks.py")),
        "model_cards/checks.py",
    ),
    "other code": (add_line("mvp.py"), "mvp.py differs from this repository's modeling_emollm/mvp.py"),
    "a file of code too few": (
        lambda model: (model / "compact.py").unlink(),
        "compact.py is needed to load the model",
    ),
    "code of somebody else": (
        lambda model: edit(model / "config.json", auto_map={"AutoModel": "who/ever--modeling.Model"}),
        "auto_map names who/ever--modeling.Model, code of another repository",
    ),
    "a link out of the folder": (link_out, "outside of the folder"),
    "a setting that there is not": (
        lambda model: edit(model / "config.json", mvp_sise=8),
        "config.json has mvp_sise, which EmoLLMConfig does not know",
    ),
    "a tensor too few": (spoil_weights, "multi_perspective_projection"),
    "a processor too few": (lambda model: (model / "tokenizer.json").unlink(), "does not load"),
    "no facts for the card": (lambda model: (model / "training.json").unlink(), "training.json"),
    "facts of a plain foundation": (
        lambda model: edit(model / "training.json", is_emollm=False),
        "training.json is of another model",
    ),
    "no licence": (lambda model: edit(model / "training.json", licence=None), "licence"),
    "no model": (lambda model: (model / "config.json").unlink(), "has no config.json"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_may_not_be_published_is_named(name, model, hub, refuse):
    spoil, told = SPOILT[name]
    spoil(model)
    if (model / "training.json").is_file():
        sign(model)
    (ending,) = refuse((OWNER, "model", model, "--repo-id", "owner/emollm"))
    assert ending.startswith("publish: ") and told in ending and "\n" not in ending
    assert not hub.repos


def test_a_plain_foundation_needs_no_code(tiny_foundations, model, hub, publish, tmp_path):
    shutil.copytree(tiny_foundations["llava"], tmp_path / "sft")
    shutil.copy(DRAWN / "training.json", tmp_path / "sft")
    edit(tmp_path / "sft" / "training.json", is_emollm=False)
    sign(tmp_path / "sft")
    publish("model", tmp_path / "sft", "--repo-id", "owner/sft", "--private")
    repo = hub.repos["model", "owner/sft"]
    assert repo.private and set(repo.files) - {".gitattributes"} == FILES - CODE


def test_a_foundations_own_code_is_not_published(tiny_foundations, hub, refuse, tmp_path):
    shutil.copytree(tiny_foundations["llava"], folder := tmp_path / "sft")
    shutil.copy(DRAWN / "training.json", folder)
    edit(folder / "training.json", is_emollm=False)
    edit(folder / "processor_config.json", auto_map={"AutoProcessor": "own.Processor"})
    (folder / "own.py").write_text("raise SystemExit('it ran')\n")
    (ending,) = refuse((OWNER, "model", folder, "--repo-id", "owner/sft"))
    assert "has code of its own (own.py)" in ending and not hub.repos


def test_an_adapter_is_no_whole_model(trained, hub, refuse, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file({"lora": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    (ending,) = refuse((OWNER, "model", tmp_path, "--repo-id", "owner/emollm"))
    assert "is an adapter" in ending and "merge_and_unload" in ending and not hub.repos


def test_weights_are_those_that_are_loaded(model, hub, publish, refuse):
    """A whole file, or what the index of shards names; neither other shards, nor other files."""
    shutil.copytree(model, whole := model.parent / "whole")
    EmoLLMForConditionalGeneration.from_pretrained(model).save_pretrained(model, max_shard_size="100KB")
    (model / "model.safetensors").unlink(missing_ok=True)
    shards = {path.name for path in model.glob("*.safetensors")}
    for folder in (model, whole):
        save_file({"old": torch.zeros(1)}, folder / "model-00009-of-00009.safetensors")
        sign(folder)
    (whole / "model.safetensors.index.json").write_text("{}")
    printed = publish("model", whole, "--repo-id", "owner/whole")
    assert set(hub.repos["model", "owner/whole"].files) - {".gitattributes"} == FILES
    assert "model-00009-of-00009.safetensors, model.safetensors.index.json" in printed.splitlines()[0]
    printed = publish("model", model, "--repo-id", "owner/shards")
    expected = FILES - {"model.safetensors"} | shards | {"model.safetensors.index.json"}
    assert len(shards) > 1 and set(hub.repos["model", "owner/shards"].files) - {".gitattributes"} == expected
    assert "model-00009-of-00009.safetensors" in printed.splitlines()[0]
    (model / max(shards)).unlink()
    (ending,) = refuse((OWNER, "model", model, "--repo-id", "owner/shards"))
    assert f"model.safetensors.index.json names {max(shards)}, which is not there" in ending


def test_results_may_be_the_file(model, run_folder, hub, publish):
    """Other scores than of these, which lie in the folder or on the Hub, are not the model's."""
    repo = hub.repos["model", "owner/emollm"] = Repo("model", "owner/emollm")
    old = {".eval_results/emobench.yaml": b"old", "additional_chat_templates/old.jinja": b"old"}
    repo.commit("main", "by hand", "", {name: File(data, lfs=False) for name, data in old.items()})
    (model / ".eval_results").mkdir()
    (model / ".eval_results" / "emobench.yaml").write_text("- dataset: {id: a/b, task_id: x}\n  value: 0.99\n")
    call = ("model", model, "--repo-id", "owner/emollm", "--dataset-id", "owner/EmoBench")
    publish(*call)
    assert set(repo.files) == FILES
    publish(*call, "--results", run_folder / "results.json")
    assert set(repo.files) == FILES | {".eval_results/emobench.yaml"}
    assert b"owner/EmoBench" in repo.files[".eval_results/emobench.yaml"].data
