"""Every family of foundation models that EmoLLM upgrades, on a tiny model of each, and the table in the README.

What is checked stands in benchmarks/conformance/checks.py. The README's table is made anew with
`python -m benchmarks.conformance --write README.md`.
"""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from benchmarks.conformance.__main__ import BEGIN, END, FAMILIES, KNOWN_FAILURES, REFUSED, render, render_row
from benchmarks.conformance.checks import make_family, reload_all, run_checks


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLE = README.partition(BEGIN)[2].partition(END)[0]


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory) -> dict[str, dict[str, str]]:
    """Of the families that were chosen on the command line, all of them by default, with one interpreter to reload."""
    folder = tmp_path_factory.mktemp("families")
    names = {item.callspec.params["name"] for item in request.session.items if "outcomes" in item.fixturenames}
    found = {name: run_checks(make_family(FAMILIES[name]), folder / name) for name in sorted(names)}
    for name, outcome in reload_all(folder).items():
        found[name]["reload"] = outcome
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_conforms(name, outcomes):
    failures = {column: text for column, text in outcomes[name].items() if text.startswith("failed")}
    known = {check for family, check in KNOWN_FAILURES if family == name}
    assert {column: text for column, text in failures.items() if column not in known} == {}
    assert known <= set(failures), "no longer fails: take it out of KNOWN_FAILURES"
    assert render_row(name, outcomes[name]) in TABLE, "python -m benchmarks.conformance --write README.md"


def test_the_readmes_table_is_the_generated_one():
    rows = [line for line in TABLE.splitlines() if line.startswith("| ") and line.split(" | ")[0][2:] in FAMILIES]
    assert [row.split(" | ")[0][2:] for row in rows] == list(FAMILIES)
    assert render(rows) == TABLE
    assert f"{len(FAMILIES)} families" in README.replace("\n", " ")


def test_the_command_prints_a_table(tmp_path):
    command = [sys.executable, "-m", "benchmarks.conformance", "--families", "llava"]
    result = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    row = next(line for line in TABLE.splitlines() if line.startswith("| llava |"))
    assert row in result.stdout and "llava, video: does not apply" in result.stdout
    refused = subprocess.run(
        [*command, "--write", tmp_path / "README.md"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 2 and "--write needs all families" in refused.stderr


def test_no_family_of_transformers_is_forgotten():
    offered = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    assert set(offered) - set(FAMILIES) - set(REFUSED) == set()
    assert not set(FAMILIES) & set(REFUSED)
    forward = {name: inspect.signature(getattr(transformers, offered[name]).forward).parameters for name in offered}
    without = {name for name, parameters in forward.items() if "mm_encoder_outputs" not in parameters}
    assert without == {name for name, reason in REFUSED.items() if "takes no `mm_encoder_outputs`" in reason}
