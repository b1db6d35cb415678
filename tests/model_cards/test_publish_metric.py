"""The metric on the Hub gives the scores of the metric here, without this repository."""

import json

import evaluate
import pytest
from loopback_hub import OWNER

from model_cards.checks import ROOT
from model_cards.probe import CASES


LOAD = """
import json, sys
sys.modules.update(dict.fromkeys(("evaluation", "dataset_scripts")))  # can't be imported
import evaluate
metric = evaluate.load(sys.argv[1], revision=sys.argv[2])
print(json.dumps([metric.compute(**case) for case in json.loads(sys.argv[3])]))
"""


def test_its_scores_are_those_of_this_repository(hub, publish, run, tmp_path):
    sha = publish("metric", "--repo-id", "owner/emobench").splitlines()[-1]
    repo = hub.repos["space", "owner/emobench"]
    assert not repo.private and repo.history == ["Scores of EmoBench", "initial commit"]
    assert {"README.md", "emobench.py", "index.html", "metrics.py", "tasks.py"} < set(repo.files)
    assert not any(b"from dataset_scripts" in file.data for file in repo.files.values())
    done = run("-c", LOAD, "owner/emobench", sha, json.dumps(CASES), token=None, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    metric = evaluate.load(str(ROOT / "evaluation" / "emobench"), cache_dir=str(tmp_path))
    assert json.loads(done.stdout.splitlines()[-1]) == [metric.compute(**case) for case in CASES]


@pytest.mark.parametrize("name, told", [("metrics", "has a module of its own called metrics"), ("a b", "a b")])
def test_names_that_can_not_be(hub, refuse, name, told):
    (ending,) = refuse((OWNER, "metric", "--repo-id", f"owner/{name}"))
    assert told in ending and not hub.repos
