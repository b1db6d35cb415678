"""What SECURITY.md promises of the code that is loaded, of files of weights, and of sources that strangers made."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from test_layout import FILES
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.fake_sources import make_sources
from dataset_scripts.manifest import verify
from dataset_scripts.media import MediaError, fingerprint, locate
from dataset_scripts.pipeline import build
from dataset_scripts.readers import READERS
from dataset_scripts.sample import EmoSample
from dataset_scripts.video import check_clip
from model_cards.code_list import CODE_LIST, render_code_list
from modeling_emollm import EmoLLMForConditionalGeneration


ROOT = Path(__file__).parents[1]
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def emollm(tiny_foundations, tmp_path_factory):
    """The folder of an EmoLLM, as it is published."""
    folder = tmp_path_factory.mktemp("security") / "emollm"
    EmoLLMForConditionalGeneration.from_foundation(tiny_foundations["llava"], mvp_size=16).save_pretrained(folder)
    AutoProcessor.from_pretrained(tiny_foundations["llava"]).save_pretrained(folder)
    return folder


# --- Remote code


def test_the_hash_list_is_that_of_the_code():
    assert CODE_LIST.read_text(encoding="utf-8") == render_code_list(), "run make cards"


HARMS = (None, "changed", "added", "removed", "custom_generate", "elsewhere", "below", "nested", "adapter")


@pytest.mark.parametrize("harm", HARMS)
def test_a_snapshot_is_checked_as_the_note_says(emollm, tmp_path, harm):
    snapshot = shutil.copytree(emollm, tmp_path / "snapshot")
    if harm == "changed":
        (snapshot / "mvp.py").write_text((snapshot / "mvp.py").read_text(encoding="utf-8") + "\n", encoding="utf-8")
    elif harm == "added":
        (snapshot / "helpers.py").touch()
    elif harm == "removed":
        (snapshot / "compact.py").unlink()
    elif harm == "custom_generate":  # which `generate` runs
        (snapshot / harm).mkdir()
        (snapshot / harm / "generate.py").touch()
    elif harm == "adapter":  # by a Hub id, AutoModel loads the model that it names
        (snapshot / "adapter_config.json").write_text('{"base_model_name_or_path": "OTHER/EmoLLM"}', encoding="utf-8")
    elif harm:
        named = {"elsewhere": "OTHER--modeling_emollm.X", "below": "sub/modeling_emollm.X", "nested": "O--a.X"}[harm]
        config = json.loads((snapshot / "config.json").read_text(encoding="utf-8"))
        (config["foundation_config"] if harm == "nested" else config)["auto_map"] = {"AutoConfig": named}
        (snapshot / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (script,) = re.findall(r"```bash\n(# Check a snapshot\n.*?)```", SECURITY, re.DOTALL)
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=os.environ | {"SNAPSHOT": str(snapshot), "LIST": str(CODE_LIST)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (result.returncode == 0) == (harm is None), result.stdout + result.stderr


def test_the_notes_snippet_loads_a_model(emollm):
    (snippet,) = re.findall(r"```python\n(.*?)```", SECURITY, re.DOTALL)
    snippet = snippet.replace("USER/EmoLLM", str(emollm)).replace("COMMIT", "main")
    code = f"from transformers import AutoModelForImageTextToText\n{snippet}print(type(model).__name__)"
    result = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=emollm.parent
    )
    assert result.stdout == "EmoLLMForConditionalGeneration\n", result.stderr[-2000:]


CLOSED = """
import socket, sys

class Closed(socket.socket):
    def __init__(self, *args, **kwargs):
        raise OSError("sockets are closed")

def closed(*args, **kwargs):
    raise OSError("sockets are closed")

socket.socket, socket.create_connection, socket.getaddrinfo = Closed, closed, closed
tried = []
calls = ("socket", "urllib", "http")
sys.addaudithook(lambda event, args: tried.append(event) if event.split(".")[0] in calls else None)

from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

folder = sys.argv[1]
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How does she feel?"}]}]
text = processor.apply_chat_template(chat, add_generation_prompt=True)
inputs = processor(text=[text], images=[Image.new("RGB", (64, 64))], return_tensors="pt")
print("tokens", model.generate(**inputs, max_new_tokens=2, min_new_tokens=2).shape[1] - inputs["input_ids"].shape[1])
print("tried", sorted(set(tried)))
"""
CALLS_HOME = """
import contextlib
import socket

with contextlib.suppress(OSError):
    socket.create_connection(("192.0.2.1", 80), timeout=1)
with contextlib.suppress(OSError):
    import urllib.request
    urllib.request.urlopen("http://192.0.2.1/", timeout=1)
"""


@pytest.mark.parametrize("calls_home", [False, True])
def test_the_models_code_needs_no_network(emollm, tmp_path, calls_home):
    folder = shutil.copytree(emollm, tmp_path / "model")
    if calls_home:  # the test would see it
        (folder / "mvp.py").write_text((folder / "mvp.py").read_text(encoding="utf-8") + CALLS_HOME, encoding="utf-8")
    online = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    result = subprocess.run(
        [sys.executable, "-I", "-c", CLOSED, folder], cwd=tmp_path, env=online | {"HF_HOME": str(tmp_path / "home")},
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert "tokens 2" in result.stdout
    assert ("tried []" in result.stdout) != calls_home, result.stdout


# --- Pickles


class Calls:
    """Unpickled, it leaves a file behind."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def as_pickle(folder, target, marker):
    """A copy of a model whose weights are in a pickle, which runs code if it is let."""
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    (target / "model.safetensors").unlink()
    torch.save({**weights, "more": Calls(marker)}, target / "pytorch_model.bin")
    return target


def test_weights_in_a_pickle_are_refused_unread(emollm, tiny_foundations, tmp_path):
    marker = tmp_path / "marker"
    model = as_pickle(emollm, tmp_path / "emollm", marker)
    foundation = as_pickle(tiny_foundations["llava"], tmp_path / "foundation", marker)
    for load in (
        lambda: EmoLLMForConditionalGeneration.from_pretrained(model),
        lambda: AutoModelForImageTextToText.from_pretrained(model, trust_remote_code=True),
        lambda: EmoLLMForConditionalGeneration.from_foundation(foundation, mvp_size=16),
    ):
        with pytest.raises(OSError, match="model.safetensors"):
            load()
    assert not marker.exists()
    torch.load(model / "pytorch_model.bin", weights_only=False)  # the attack is a real one
    assert marker.exists()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_loads_pickles_or_runs_texts(file):
    """`pickle` is there to be restricted in one file; `yaml.load` and a shell run what they are given, too."""
    banned = r"(torch|numpy|np|pickle|dill|joblib|marshal|shelve|yaml)\.(load|loads|open|unsafe_load|full_load)"
    banned += r"|pickle\.Unpickler|eval|exec|os\.(system|popen)|subprocess\.getoutput"
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert not re.fullmatch(banned, name), f"line {node.lineno} calls {name}"
            assert all(word.arg != "shell" for word in node.keywords), f"line {node.lineno} starts a shell"
            assert all(word.arg != "allow_pickle" for word in node.keywords), f"line {node.lineno} allows pickles"


def test_every_model_is_loaded_from_safetensors():
    """By us: EmoLLM's `from_pretrained`, which hands it to its `super`, does it by itself; foundations don't."""
    others = r"(\w*(Processor|Tokenizer|Config)|EmoLLM\w*|super\(\)|type\(processor\))\.from_pretrained"
    just_written = {("training/model.py", f"{name}.from_pretrained") for name in ("PeftModel", "type(trained)")}
    for file in FILES:
        if file.relative_to(ROOT).parts[0] == "benchmarks":  # which load what they have just made
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if (str(file.relative_to(ROOT)), name) in just_written or re.fullmatch(others, name):
                continue
            if name.endswith(".from_pretrained"):
                assert "use_safetensors" in {word.arg for word in node.keywords}, f"{file}: line {node.lineno}"


# --- Names that lead out of a source's folder

# In the first record of the training split: the annotation file, what is in it, and what takes its place.
NAMES = {
    "emoset": ("train.json", r"image/\w+/\w+\.jpg", "../secret.jpg"),
    "ferplus": ("FER2013Train/label.csv", r"fer\d+\.png", "../../secret.png"),
    "intentonomy": ("annotations/intentonomy_train2020.json", r"low/\w+\.jpg", "../secret.jpg"),
    "mintrec": ("train.tsv", r"\nS\d+\tE\d+\t\d+\t", "\n..\t..\tsecret\t"),
    "hateful_memes": ("train.jsonl", r"img/\d+\.png", "img/../../secret.png"),
    "cm_memes": ("sample_data.csv", r"meme\d+_\d+\.png", "../../secret.png"),
    "harmeme": ("annotations/train.jsonl", r"covid_memes_\d+\.png", "../../secret.png"),
    "mustard": ("data/sarcasm_data.json", r"2_\d+", "../../../secret"),
}


def good_sample(source, folder, copies):
    """The file of a training sample that a build keeps, in all tasks, and its id."""
    task = READERS[source].SOURCE.tasks[-1]
    for sample in reversed(list(READERS[source].read(folder, "train"))):  # the first one is renamed
        if isinstance(sample, EmoSample) and sample.task == task and sample.id not in copies:
            with suppress(MediaError):
                if sample.video:
                    check_clip(locate(folder, sample.video, "clip"))
                    return locate(folder, sample.video, "clip"), sample.id
                fingerprint(locate(folder, sample.images[0]).read_bytes())
                return locate(folder, sample.images[0]), sample.id


@pytest.mark.parametrize("source", READERS)
def test_no_reader_reads_outside_its_folder(source, tmp_path):
    """A link in the place of a picture, and, in the sources that have them, a name in an annotation file."""
    root = tmp_path.resolve() / "sources"
    copies = make_sources(root, 0.0, (source,))["duplicates"]
    folder = root / source
    file, name = good_sample(source, folder, copies)
    secret = root / f"secret{file.suffix}"
    file.rename(secret)
    file.symlink_to(secret)
    if source in NAMES:
        annotations, named, hostile = NAMES[source]
        text = (folder / annotations).read_text(encoding="utf-8")
        (folder / annotations).write_text(re.sub(named, hostile, text, count=1), encoding="utf-8")
    stats = build({source: str(folder)}, tmp_path / "build")
    for task, config in stats["configs"].items():
        found = config["sources"][source]["train"]
        assert found["skipped"].get("link out of the source folder") == 1
        assert found["skipped"].get("path outside the source folder", 0) == (source in NAMES)
        kept = pq.read_table(tmp_path / "build" / task / "train-00000-of-00001.parquet", columns=["id"])
        assert name not in {row.split("#")[0] for row in kept["id"].to_pylist()}
        assert kept.num_rows


def test_a_manifest_opens_nothing_outside_the_build(tmp_path):
    folder = tmp_path / "build"
    folder.mkdir()
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    names = ("../pipe", str(tmp_path / "pipe"), "a/../../pipe")
    files = {name: {"size": 0, "sha256": "0" * 64} for name in names}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    assert verify(folder) == [f"{name}: missing" for name in names]
