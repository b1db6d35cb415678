"""The command of publishing, in interpreters that know no Hub but ours."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_hub import OWNER, LoopbackHub


ROOT = Path(__file__).parents[2]
# Runs the command with the arguments that come line by line, and says how each ended and what it printed.
COMMANDS = """
import contextlib, io, json, os, sys
from model_cards import publish
lines, answers = sys.stdin, sys.stdout
for line in lines:
    os.environ["HF_TOKEN"], arguments, said = json.loads(line)
    sys.stdin, end = io.StringIO(said), None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            publish.main(publish.make_parser().parse_args(arguments))
        except SystemExit as exit:
            end = exit.code
    print(json.dumps([end, printed.getvalue()]), file=answers, flush=True)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture
def hub(server) -> LoopbackHub:
    """A Hub where there is nothing yet."""
    server.reset()
    return server


@pytest.fixture
def environment(hub, tmp_path):
    """Of a process that knows this Hub alone, each time with an empty cache."""

    def environment(token: str | None) -> dict[str, str]:
        home = tmp_path / f"home{len(list(tmp_path.glob('home*')))}"
        home.mkdir()
        return hub.environment(home, token) | {"PYTHONPATH": str(ROOT)}

    return environment


@pytest.fixture
def run(environment):
    """Run Python in a fresh interpreter."""

    def run(*arguments: str, token: str | None, stdin: str = "", folder: Path | None = None):
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=environment(token), input=stdin, capture_output=True, text=True, cwd=folder)

    return run


@pytest.fixture(scope="module")
def worker(server, tmp_path_factory):
    """An interpreter that runs the command again and again, since importing takes longer than publishing."""
    home = tmp_path_factory.mktemp("worker")
    process = subprocess.Popen(
        [sys.executable, "-c", COMMANDS],
        env=server.environment(home, OWNER) | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(home / "stderr").open("wb"),
        text=True,
    )

    def call(token: str, arguments: tuple, said: str) -> tuple[str | int | None, str]:
        print(json.dumps([token, [*map(str, arguments)], said]), file=process.stdin, flush=True)
        answer = process.stdout.readline()
        assert answer, (home / "stderr").read_text()
        return json.loads(answer)

    yield call
    process.stdin.close()
    process.wait()


@pytest.fixture
def publish(hub, worker):
    def publish(*arguments: str | Path, answer: str = "yes\n") -> str:
        """What the command prints, of which the owner is asked once."""
        end, printed = worker(OWNER, arguments, answer)
        assert end is None, end
        return printed

    return publish


@pytest.fixture
def refuse(hub, worker):
    """How the command ends, for each token and arguments, not being asked."""

    def refuse(*calls: tuple) -> list[str]:
        return [worker(token, (*arguments, "--yes"), "")[0] for token, *arguments in calls]

    return refuse
