"""
The README's commands and snippets run as they stand, in its order, in a copy of the repository, beside a Hub on the
loopback interface; USER becomes the name of who signed in there.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from loopback_hub import OWNER, File, LoopbackHub, Repo

from dataset_scripts.readers import READERS


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMOLVLM2 = "HuggingFaceTB/SmolVLM2-256M-Video-Instruct"  # whose training is estimated


def blocks(*languages: str) -> list[tuple[str, str]]:
    return re.findall(rf"```({'|'.join(languages)})\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    folder = tmp_path_factory.mktemp("clone")
    for name in filter(None, files.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def test_every_command_and_snippet_runs(clone):
    (_, make), *rest = blocks("bash", "python")
    assert [line.split("#")[0].strip() for line in make.splitlines()] == ["make demo", "make test"]  # run by CI
    script = ["trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"]  # else what runs on holds the pipes open
    for language, group in itertools.groupby(rest, key=lambda block: block[0]):
        text = "".join(block for _, block in group)  # snippets go on with each other's variables
        script.append(f"python - <<'SNIPPETS'\n{text}SNIPPETS\n" if language == "python" else text)
    (clone / "demo").mkdir()  # what `make demo` draws, but for its rationales, is drawn by a later command as well
    (clone / "demo" / "EmoBench-Reasons").symlink_to(clone / "data" / "EmoBench-Drawn")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with LoopbackHub() as hub:
        foundation = hub.repos["model", SMOLVLM2] = Repo("model", SMOLVLM2)
        config = (ROOT / "tests" / "training" / "foundation_configs" / "smolvlm2_256m.json").read_bytes()
        foundation.commit("main", "config", "", {"config.json": File(config, lfs=False)})
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "".join(script).replace("USER/", "owner/")],
            cwd=clone, env=hub.environment(clone / "home", OWNER) | {"PATH": path},
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    published = {("dataset", "EmoBench"), ("dataset", "EmoBench-Drawn"), ("model", "EmoLLM"), ("space", "EmoLLM-Demo")}
    assert {(kind, f"owner/{name}") for kind, name in published | {("space", "emobench")}} < set(hub.repos)
    for picture in ("results/comparison.png", "explanation.png"):
        assert (clone / picture).stat().st_size > 10_000


def test_the_tree_names_what_there_is():
    tree = blocks("text")[-1][1]
    named = set(re.findall(r"^ {0,2}([\w./]+\.\w+|\w+/)", tree, re.MULTILINE))
    for name in named:
        places = [
            ROOT / room / name
            for room in (
                "",
                "modeling_emollm",
                "dataset_scripts",
                "training",
                "evaluation",
                "benchmarks",
                "model_cards",
            )
        ]
        assert any(place.exists() for place in places), f"the README's tree names {name}, which is not there"
    rooms = {f"{path.parent.name}/" for path in ROOT.glob("[a-z]*/*.py")}
    assert rooms <= named, f"not in the README's tree: {sorted(rooms - named)}"


def test_the_table_of_sources_is_what_the_readers_say():
    for name, reader in READERS.items():
        source = reader.SOURCE
        records, tasks = sum(source.published.values()), ", ".join(task.partition("_")[0] for task in source.tasks)
        row = f"| `{name}` | [{source.title}]({source.url}) | {tasks} | {records:,} | {source.licence_tag} |"
        assert row in README, f"the README's table of sources needs this row:\n{row}"
