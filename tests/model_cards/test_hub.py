"""The push itself, with the demo's folder, which is small: what is shown and asked, and that the Hub is as it was
after everything that can go wrong on the way."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import loopback_hub
import pytest
import yaml
from loopback_hub import OWNER, READER, Fault, File, Refusal, Repo

from model_cards.hub import TRIAL


DEMO = ("space", "--repo-id", "owner/demo", "--model", "owner/emollm")


@pytest.fixture(autouse=True)
def model(hub) -> str:
    """A model for the demo to show; the hash of its commit."""
    repo = hub.repos["model", "owner/emollm"] = Repo("model", "owner/emollm")
    return repo.commit("main", "weights", "", {"config.json": File(b"{}", lfs=False)}).oid


@pytest.fixture
def earlier(hub) -> Repo:
    """The demo as it was some time ago, and a file of somebody else's."""
    repo = hub.repos["space", "owner/demo"] = Repo("space", "owner/demo")
    files = {
        "app.py": b"import gradio\n\nold = 1\n",
        "space/old.py": b"",
        "requirements.txt": b"gradio",
        "NOTES": b"!",
    }
    repo.commit("main", "by hand", "", {name: File(data, lfs=False) for name, data in files.items()})
    return repo


def state(repo: Repo) -> tuple:
    return repo.private, repo.gated, dict(repo.branches), repo.files


def test_the_demo_has_all_that_it_imports_and_what_to_show(hub, publish, run, model, tmp_path):
    printed = publish(*DEMO)
    repo = hub.repos["space", "owner/demo"]
    files, sha = {name: file.data.decode() for name, file in repo.files.items()}, repo.branches["main"]
    assert json.loads(files["settings.json"]) == {"model": "owner/emollm", "revision": model}
    assert f"published {hub.endpoint}/spaces/owner/demo/commit/{sha}\n{sha}\n" in printed
    assert not repo.private and list(repo.branches) == ["main"]
    assert repo.history == ["Demo of owner/emollm", "initial commit"]
    page = "/api/spaces/owner/demo"
    done = [hub.requests.index(("POST", f"{page}/commit/{branch}", "owner")) for branch in (TRIAL, "main")]
    assert done[0] < done[1] < hub.requests.index(("PUT", f"{page}/settings", "owner")), "public before it was whole"
    head = yaml.safe_load(files["README.md"].split("---\n")[1])
    assert head["app_file"] in files and f"gradio=={head['sdk_version']}\n" in files["requirements.txt"]
    for name, text in files.items():
        (tmp_path / "space" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "space" / name).write_text(text)
    # all but Gradio, which has an environment of its own
    code = """
import ast, sys
sys.path.insert(0, ".")
for node in ast.walk(ast.parse(open("app.py").read())):
    if isinstance(node, (ast.Import, ast.ImportFrom)) and "gradio" not in ast.unparse(node):
        exec(ast.unparse(node))
ours = {"space", "evaluation", "modeling_emollm", "dataset_scripts"}
files = [module.__file__ for name, module in sys.modules.items() if name.split(".")[0] in ours]
assert files and all(file.startswith(sys.argv[1]) for file in files), files
"""
    done = run("-I", "-c", code, str(tmp_path / "space"), token=None, folder=tmp_path / "space")
    assert done.returncode == 0, done.stderr


def test_what_changes_is_shown_and_asked(earlier, publish):
    before, commits = state(earlier), len(earlier.commits)
    dry = publish(*DEMO, "--dry-run", answer="")
    assert "  ~ app.py  " in dry and "  - space/old.py\n" in dry and "left alone: NOTES\n" in dry
    assert "-old = 1\n" in dry and "+gradio==" in dry and "--dry-run" in dry
    refused = publish(*DEMO, answer="no\n")
    assert refused.startswith(dry.split("Nothing was")[0]) and "[y/N] Nothing was changed" in refused
    assert state(earlier) == before and len(earlier.commits) == commits
    publish(*DEMO)
    assert earlier.history[:2] == ["Demo of owner/emollm", "by hand"]
    assert "space/old.py" not in earlier.files and earlier.files["NOTES"].data == b"!"
    assert list(earlier.branches) == ["main"] and before[3]["app.py"] != earlier.files["app.py"]
    assert "It is published already" in publish(*DEMO, answer="")
    assert len(earlier.history) == 2


def test_nobody_to_answer_is_no_answer(hub, run):
    done = run("-m", "model_cards.publish", *DEMO, token=OWNER)
    assert "nobody answers: give --yes" in done.stderr.splitlines()[-1] and done.returncode == 1
    assert ("space", "owner/demo") not in hub.repos


def test_a_dry_run_changes_nothing_and_needs_no_token(hub, run):
    done = run("-m", "model_cards.publish", *DEMO, "--dry-run", token=None)
    assert "which is not there yet" in done.stdout, done.stderr
    assert ("space", "owner/demo") not in hub.repos
    assert {method for method, _, _ in hub.requests} <= {"GET", "HEAD"}


def test_a_branch_is_made_and_the_rest_left_alone(earlier, publish):
    main = earlier.branches["main"]
    sha = publish(*DEMO, "--revision", "try").splitlines()[-1]
    assert earlier.branches == {"main": main, "try": sha}
    assert "space/old.py" not in earlier.at("try").files and "space/old.py" in earlier.files


def test_a_public_demo_is_of_a_model_that_all_may_see(hub, publish, refuse):
    hub.repos["model", "owner/emollm"].private = True
    ending, missing = refuse((OWNER, *DEMO), (OWNER, *DEMO[:-1], "owner/none"))
    assert "owner/emollm is private" in ending and "there is no model owner/none that you may see" in missing
    assert ("space", "owner/demo") not in hub.repos
    publish(*DEMO, "--private")
    assert hub.repos["space", "owner/demo"].private


def test_a_revision_is_a_branch_and_not_our_own(earlier, hub, refuse):
    earlier.tags["v1"] = sha = earlier.branches["main"]
    before, commits = state(earlier), len(earlier.commits)
    endings = refuse(*((OWNER, *DEMO, "--revision", name) for name in ("v1", sha, TRIAL)))
    for ending, told in zip(endings, ("v1 is a tag or a commit", f"{sha} is a tag", f"branch {TRIAL}"), strict=True):
        assert told in ending
    assert state(earlier) == before and len(earlier.commits) == commits


def test_a_branch_called_publishing_is_the_users_own(earlier, publish):
    mine = earlier.commit("publishing", "mine", "", {}).oid
    publish(*DEMO)
    assert earlier.branches["publishing"] == mine and len(earlier.branches) == 2


FAULTS = {
    "401": ({"whoami": Fault(401)}, "run `hf auth login`"),
    "404": ({"commit": Fault(404)}, "no such repository"),
    "409": ({"commit": Fault(409)}, "something else is changing this repository"),
    "412 at the last commit": ({"commit": Fault(412, requests=[2])}, "something else has changed this repository"),
    "429 at the last commit": ({"commit": Fault(429, retry_after=0, requests=[2])}, "the Hub wants fewer requests"),
    "500": ({"commit": Fault(500)}, "the Hub has a fault"),
    "500 at the last commit": ({"commit": Fault(500, requests=[2])}, "the Hub has a fault"),
    "a request that is cut": ({"commit": Fault(cut="request", requests=[1])}, "cannot be reached"),
    "the last request is cut": ({"commit": Fault(cut="request", requests=[2])}, "cannot be reached"),
    "a file that comes back with another byte": ({"resolve": Fault(wrong=True)}, "came back from the Hub with other"),
    "the branch can't be made": ({"branch": Fault(403)}, "your token may not do that"),
}


def test_an_existing_repository_is_as_it_was_after_every_fault(earlier, hub, refuse):
    before = state(earlier)
    for name, (faults, told) in FAULTS.items():
        hub.broken, _ = faults, hub.seen.clear()
        (ending,) = refuse((OWNER, *DEMO))
        hub.broken = {}
        assert ending and ending.startswith("publish: ") and told in ending and "\n" not in ending, (name, ending)
        assert state(earlier) == before, name


def test_a_commit_that_holds_other_bytes_is_no_success(earlier, refuse, monkeypatch):
    before, commit = state(earlier), earlier.commit

    def other(branch, title, message, files):
        return commit(branch, title, message, files | {"README.md": File(b"other", lfs=False)})

    monkeypatch.setattr(earlier, "commit", other)
    (ending,) = refuse((OWNER, *DEMO))
    assert "README.md is another in commit" in ending and state(earlier) == before


def test_what_somebody_else_commits_meanwhile_is_not_overwritten(earlier, refuse, monkeypatch):
    commit = earlier.commit

    def two(branch, title, message, files):
        made = commit(branch, title, message, files)
        if branch != "main":
            commit("main", "meanwhile", "", earlier.files)
        return made

    monkeypatch.setattr(earlier, "commit", two)
    (ending,) = refuse((OWNER, *DEMO))
    assert "something else has changed this repository meanwhile" in ending
    assert earlier.history == ["meanwhile", "by hand"] and list(earlier.branches) == ["main"]


@pytest.mark.parametrize("fault", [Fault(500, requests=[1]), Fault(cut="request", requests=[2])])
def test_a_repository_that_was_made_for_a_failed_push_is_deleted(hub, refuse, fault):
    hub.broken = {"commit": fault}
    (ending,) = refuse((OWNER, *DEMO))
    assert ending.startswith("publish: ") and ("space", "owner/demo") not in hub.repos
    assert ("DELETE", "/api/repos/delete", "owner") in hub.requests


def test_a_branch_that_was_made_for_a_failed_push_is_deleted(earlier, hub, refuse):
    before = state(earlier)
    hub.broken = {"commit": Fault(500, requests=[2])}
    (ending,) = refuse((OWNER, *DEMO, "--revision", "try"))
    assert "the Hub has a fault" in ending and state(earlier) == before


def test_an_answer_that_is_lost_is_looked_up(earlier, hub, publish):
    """The commit has been made: it is no failure, and not made twice."""
    hub.broken = {"commit": Fault(cut="answer", requests=[2])}
    sha = publish(*DEMO).splitlines()[-1]
    assert earlier.branches == {"main": sha} and earlier.history[:2] == ["Demo of owner/emollm", "by hand"]


def test_a_commit_that_the_hub_broke_down_after_is_looked_up(earlier, publish, monkeypatch):
    commit = earlier.commit

    def broken(branch, *rest):
        commit(branch, *rest)
        raise Refusal(504, "gateway timeout")

    monkeypatch.setattr(earlier, "commit", broken)
    sha = publish(*DEMO).splitlines()[-1]
    assert earlier.branches == {"main": sha} and earlier.history[:2] == ["Demo of owner/emollm", "by hand"]


def test_somebody_elses_commit_is_not_taken_for_ours(earlier, refuse, monkeypatch):
    commit = earlier.commit

    def broken(branch, title, message, files):
        if branch == "main":
            commit(branch, "theirs", "", {})
            raise Refusal(504, "gateway timeout")
        return commit(branch, title, message, files)

    monkeypatch.setattr(earlier, "commit", broken)
    (ending,) = refuse((OWNER, *DEMO))
    assert "the Hub has a fault" in ending and earlier.history == ["theirs", "by hand"]


def test_no_failure_is_told_of_once_the_branch_has_changed(earlier, hub, refuse):
    """Whichever request about the repository fails: either it is as it was, or all is well."""
    before, ending, number = state(earlier), "", 0
    while ending is not None:
        number += 1
        hub.broken, _ = {"repo_info": Fault(500, requests=[number])}, hub.seen.clear()
        (ending,) = refuse((OWNER, *DEMO))
        assert (state(earlier) == before) == (ending is not None), number
    assert number > 3


def replace_route(monkeypatch, name: str, by: Callable) -> Callable:
    """Let the Hub do something else; returns what it did."""
    routes = [(*rest, by if route.__name__ == name else route) for *rest, route in loopback_hub.ROUTES]
    monkeypatch.setattr(loopback_hub, "ROUTES", routes)
    return getattr(loopback_hub.HubHandler, name)


@pytest.mark.parametrize("route, number", [("create_repo", 1), ("branch", 1), ("branch", 2)])
@pytest.mark.parametrize("broken", [False, True])
def test_what_was_made_though_its_answer_is_lost_is_undone(hub, refuse, monkeypatch, request, route, number, broken):
    before = state(request.getfixturevalue("earlier")) if route == "branch" else None
    made = []

    def late(handler, **arguments):
        answer = original(handler, **arguments)
        if handler.command == "POST":
            made.append(arguments)
            if len(made) == number:
                raise Refusal(504, "gateway timeout")
        return answer

    if broken:
        original = replace_route(monkeypatch, route, late)
    else:
        hub.broken = {route: Fault(cut="answer", requests=[number])}
    (ending,) = refuse((OWNER, *DEMO, "--revision", "try"))
    assert ending.startswith("publish: ")
    if before:
        assert state(hub.repos["space", "owner/demo"]) == before
    else:
        assert ("space", "owner/demo") not in hub.repos and ("POST", "/api/repos/create", "owner") in hub.requests


def test_a_repository_that_somebody_made_meanwhile_stays(hub, refuse, monkeypatch):
    def create(handler):
        hub.repos["space", "owner/demo"] = Repo("space", "owner/demo")
        return original(handler)

    original = replace_route(monkeypatch, "create_repo", create)
    (ending,) = refuse((OWNER, *DEMO))
    assert "something else is changing" in ending and ("space", "owner/demo") in hub.repos


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_last_commit_is_not_stopped(earlier, environment, monkeypatch, number):
    ended, err = end_while_committing(earlier, environment, monkeypatch, "main", number)
    assert ended == 0, err
    assert earlier.history[:2] == ["Demo of owner/emollm", "by hand"] and list(earlier.branches) == ["main"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_repository_is_made_takes_it_back(hub, environment, monkeypatch, number):
    ended, err = end_while_committing(Repo, environment, monkeypatch, "initial commit", number)
    assert ended == 128 + number, err
    assert ("space", "owner/demo") not in hub.repos and ("DELETE", "/api/repos/delete", "owner") in hub.requests


def end_while_committing(where, environment, monkeypatch, word: str, number: int) -> tuple[int, str]:
    """Sends a signal to the command when a commit by this branch or title is made, and its answer is not yet sent."""
    commit, done = where.commit, threading.Event()

    def slow(*arguments):
        made = commit(*arguments)
        if word in arguments[:3]:
            done.set()
            time.sleep(1)
        return made

    monkeypatch.setattr(where, "commit", slow)
    command = [sys.executable, "-m", "model_cards.publish", *DEMO, "--yes"]
    process = subprocess.Popen(
        command, env=environment(OWNER), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert done.wait(120)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def test_what_can_be_asked_again_is_asked_again(earlier, hub, publish):
    """Downloads, by huggingface_hub itself, which waits as long as it is told to."""
    hub.broken = {"resolve": Fault(429, retry_after=1, requests=[3]), "preupload": Fault(500, requests=[1])}
    sha = publish(*DEMO).splitlines()[-1]
    assert earlier.branches == {"main": sha} and hub.seen["resolve"] > 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("there", [True, False])
def test_a_signal_in_the_middle_takes_everything_back(hub, environment, request, number, there):
    before = state(request.getfixturevalue("earlier")) if there else None
    assert end_in_the_middle(hub, environment, number) == 128 + number
    if there:
        assert state(hub.repos["space", "owner/demo"]) == before
    else:
        assert ("space", "owner/demo") not in hub.repos


def test_a_killed_push_leaves_what_the_next_one_clears_away(earlier, hub, environment, publish):
    before = state(earlier)
    assert end_in_the_middle(hub, environment, signal.SIGKILL) == -signal.SIGKILL
    private, gated, branches, files = state(earlier)
    assert branches.pop(TRIAL) and (private, gated, branches, files) == before
    publish(*DEMO)
    assert list(earlier.branches) == ["main"] and "space/old.py" not in earlier.files


def test_a_killed_push_leaves_of_a_new_repository_an_empty_private_one(hub, environment, refuse):
    end_in_the_middle(hub, environment, signal.SIGKILL)
    repo = hub.repos["space", "owner/demo"]
    assert repo.private and set(repo.files) == {".gitattributes"}
    (ending,) = refuse((OWNER, *DEMO))
    assert "exists and is private, but was to be public" in ending and "an empty one" in ending


def end_in_the_middle(hub, environment, number: int) -> int:
    """Sends a signal to the command when it reads its first commit back; returns how it ended."""
    command = [sys.executable, "-m", "model_cards.publish", *DEMO, "--yes"]
    process = subprocess.Popen(command, env=environment(OWNER), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline, start = time.monotonic() + 120, len(hub.requests)
    while time.monotonic() < deadline and process.poll() is None:
        paths = [path for method, path, _ in hub.requests[start:] if method == "POST"]
        if any(path.endswith(f"/commit/{TRIAL}") for path in paths):
            process.send_signal(number)
            break
        time.sleep(0.01)
    return process.wait(timeout=60)


def test_others_may_not(earlier, hub, refuse):
    before = state(earlier)
    (ending,) = refuse((READER, *DEMO))
    assert "your token may not do that" in ending and state(earlier) == before
