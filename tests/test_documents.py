"""CONTRIBUTING.md, SECURITY.md and docs/: their diffs are real, their links lead somewhere, and their commands run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression
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
        pytest.skip(
            f"this checkout lacks commit {commit}, as one without its whole history does: the diff is not checked"
        )
    plain = ["--format=", "--no-color", "--no-ext-diff", "--no-textconv", "--diff-algorithm=default"]
    lines = subprocess.run(  # the same with anybody's settings
        ["git", "-c", "core.pager=cat", "show", *plain, "-U3", "--inter-hunk-context=0", commit, "--", file],
        cwd=ROOT, capture_output=True, check=True, text=True,
    ).stdout.splitlines()  # fmt: skip
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


RUN = ("CONTRIBUTING.md", "docs/release.md")  # `SECURITY.md`'s check of a snapshot has a test of its own
TEST = re.compile(r"^(?:\w+=\S+ )?python -m pytest (.*)\n", re.MULTILINE)


def read_script(document: str) -> str:
    """Its commands; ```text blocks need the Hub, or hours."""
    return "".join(re.findall(r"```bash\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL))


def test_the_tests_that_are_named_are_there():
    """They run in this suite already."""
    commands = [shlex.split(line) for document in RUN for line in TEST.findall(read_script(document))]
    files = [[word for word in words if word.startswith("tests/")] for words in commands]
    named = sorted({file for group in files for file in group})
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", *named],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    found = [line for line in result.stdout.splitlines() if "::" in line]
    assert len(commands) > 4
    for words, group in zip(commands, files, strict=True):
        assert set(words) - set(group) <= {"-q", "-k", words[-1]}, f"not understood here: {words}"
        chosen = Expression.compile(words[words.index("-k") + 1] if "-k" in words else "tests")
        for file in group if "-k" not in words else [""]:
            names = [name.lower() for name in found if name.startswith(tuple(group)) and file in name]
            assert any(chosen.evaluate(lambda part, name=name, **_: part.lower() in name) for name in names), words


@pytest.mark.parametrize("document", RUN)
def test_the_commands_run(document, clone):  # noqa: F811
    script = TEST.sub("", read_script(document))
    # with the environment as it is, which `make` would bring up to date for the clone
    script = re.sub(r"^make ", f"make -o {sys.prefix}/.complete VENV={sys.prefix} ", script, flags=re.MULTILINE)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "GIT_CONFIG_GLOBAL": os.devnull}
    for command in (["git", "init", "--quiet"], ["git", "add", "--all"]):
        subprocess.run(command, cwd=clone, env=environment, check=True)
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=clone, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
