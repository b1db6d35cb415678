"""CONTRIBUTING.md, SECURITY.md and docs/: their diffs are real, their links lead somewhere, and their commands run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_readme import clone  # noqa: F401  (a fixture)


ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
CONTRIBUTING = DOCUMENTS[0].read_text(encoding="utf-8")
DIFFS = re.findall(r"`git show (\w+) -- (\S+)`:\n\n```diff\n(.*?)```", CONTRIBUTING, re.DOTALL)


def test_every_diff_is_taken_from_a_commit():
    assert len(DIFFS) == CONTRIBUTING.count("```diff") > 10


@pytest.mark.parametrize("commit, file, shown", DIFFS, ids=[f"{commit}-{file}" for commit, file, _ in DIFFS])
def test_the_diffs_are_those_of_the_history(commit, file, shown):
    known = subprocess.run(["git", "cat-file", "-e", f"{commit}^{{commit}}"], cwd=ROOT, capture_output=True)
    if known.returncode:
        pytest.skip("a checkout without its history")
    lines = subprocess.run(
        ["git", "show", "--format=", commit, "--", file], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.splitlines()
    for part in shown.removesuffix("\n").split("\n …\n"):
        part = part.split("\n")
        places = [i for i in range(len(lines)) if lines[i : i + len(part)] == part]
        assert places, f"{commit} has no such lines in {file}:\n" + "\n".join(part)
        lines = lines[places[0] + len(part) :]  # what follows comes later in the file


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_files_are_there(document):
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for name in re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|md|jinja|txt|yaml|svg)|[\w-]+\.(?:md|sha256|cfg|cff))`", prose):
        places = [ROOT, ROOT / "modeling_emollm", ROOT / "dataset_scripts", ROOT / "space", document.parent]
        assert "NAME" in name or any((place / name).exists() for place in places), name
    for anchor in re.findall(r"\]\(#([\w-]+)\)", text):
        titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, anchor


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "docs/release.md"])
def test_the_commands_run(document, clone):  # noqa: F811
    """`SECURITY.md`'s check of a snapshot has a test of its own; ```text blocks need the Hub, or hours."""
    script = "".join(re.findall(r"```bash\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL))
    # with the environment as it is, which `make` would bring up to date for the clone
    script = re.sub(r"^make ", f"make -o {sys.prefix}/.complete VENV={sys.prefix} ", script, flags=re.MULTILINE)
    for command in (["git", "init", "--quiet"], ["git", "add", "--all"]):
        subprocess.run(command, cwd=clone, check=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=clone, env=os.environ | {"PATH": path}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
