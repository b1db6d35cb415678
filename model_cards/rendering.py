"""Cards of what is published, from measured files: `training.json` of `train_sft.py`, `results.json` of evaluation."""

import json
import re
from itertools import groupby
from pathlib import Path

from huggingface_hub.utils import validate_repo_id
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dataset_scripts.readers import READERS

from .tables import INPUTS, MODES, describe_runs, title_of


CARDS = Path(__file__).parent
FACTS, RESULTS = "training.json", "results.json"
ASKED = ("dataset", "dataset_revision", "split", "limit", "seed")  # what runs in one table have in common


def check_id(repo_id: str) -> None:
    """Raises a `ValueError` for what is no `USER/NAME`."""
    validate_repo_id(repo_id)
    if "/" not in repo_id:
        raise ValueError(f"{repo_id} must be USER/NAME.")


def render(template: str, **values) -> str:
    environment = Environment(
        loader=FileSystemLoader(CARDS), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template(template).render(**values)
    return re.sub(r"\n{3,}", "\n\n", page).strip() + "\n"  # parts that are left out leave their empty lines


def read_runs(paths: list[Path]) -> list[dict]:
    """
    The content of `results.json` of finished runs, or of these files themselves.

    Raises:
        `ValueError`: for a folder without one, and for another file.
    """
    runs = []
    for path in paths:
        file = path / RESULTS if path.is_dir() else path
        if not file.is_file():
            raise ValueError(f"There is no {file}; make it with `python -m evaluation.run --output {path}`.")
        run = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(run, dict) or not {"scores", "mean", "model", "dataset", "emoprompt"} <= run.keys():
            raise ValueError(f"{file} is no {RESULTS} of evaluation.run: give the folder that it wrote.")
        runs.append(run)
    return runs


def read_facts(folder: Path) -> dict:
    """
    What `training.json` tells of a training.

    Raises:
        `ValueError`: if there is none, or if the licence of the foundation is not in it.
    """
    path = folder / FACTS
    if not path.is_file():
        raise ValueError(f"There is no {path}: train with train_sft.py, which writes it.")
    facts = json.loads(path.read_text(encoding="utf-8"))
    if not facts["licence"]:
        raise ValueError(
            f'{path}: "licence" is null, as the licence of the foundation ({facts["foundation"] or "a local folder"}) '
            'was not known. Look it up, and write it there as the Hub spells it, as "licence": "apache-2.0".'
        )
    return facts


def render_facts(facts: dict, runs: list[dict], repo_id: str, dataset_id: str | None) -> str:
    """
    The card from what was read.

    Raises:
        `ValueError`: for a Hub id that is none, and for runs on the same samples that score different sub-tasks.
    """
    for given in filter(None, (repo_id, dataset_id)):
        check_id(given)

    def asked(run: dict) -> list[str]:
        return [str(run[name]) for name in ASKED]

    def order(run: dict) -> tuple:
        return asked(run), list(INPUTS).index(run["input"]), run["label_score"], MODES.index(run["emoprompt"])

    evaluations = []
    for _, together in groupby(sorted(runs, key=order), key=asked):
        group = list(together)
        found = {tuple((name, scores["n"]) for name, scores in run["scores"].items()) for run in group}
        titles = list(map(title_of, group))
        if len(found) > 1 or len(set(titles)) < len(titles):
            raise ValueError(
                f"The runs {', '.join(titles)} on {group[0]['dataset']} must be different runs on the same rows: give "
                "each once, evaluated with the same tasks."
            )
        evaluations.append(describe_runs(group, repo_id, dataset_id))
    sources = {row["source"]: READERS[row["source"]].SOURCE for row in facts["rows"] if row["source"] in READERS}
    return render(
        "emollm.md.jinja",
        training=facts,
        name=repo_id,
        sources=sources,
        evaluations=evaluations,
        dataset_id=dataset_id,
    )


def render_model_card(folder: Path, results: list[Path], repo_id: str, dataset_id: str | None = None) -> str:
    """
    The card of a trained model, as it is published.

    Args:
        folder (`Path`): what `train_sft.py` wrote.
        results (`list[Path]`): folders that `evaluation.run` wrote, or their `results.json`.
        repo_id (`str`): the model on the Hub, as `"USER/NAME"`.
        dataset_id (`str`, *optional*): the dataset of the results on the Hub.

    Returns:
        `str`: YAML and Markdown.

    Raises:
        `ValueError`: if something is missing, as [`read_facts`] and [`read_runs`] say, or a run is another model's.
    """
    runs = read_runs(results)
    for path, run in zip(results, runs, strict=True):
        if run["model"] != repo_id and Path(run["model"]).name != folder.resolve().name:
            raise ValueError(
                f"{path} is a run of {run['model']}, not of {folder} or {repo_id}: evaluate this model, or leave out "
                "that run."
            )
    return render_facts(read_facts(folder), runs, repo_id, dataset_id)


def render_metric_card(repo_id: str) -> str:
    """The card of EmoBench's metric as a Space that `evaluate.load` loads."""
    check_id(repo_id)
    return render("metric.md.jinja", name=repo_id)


def render_space_card(repo_id: str, model: str, revision: str, sdk_version: str) -> str:
    """
    The card of the demo Space.

    Args:
        repo_id (`str`): the Space on the Hub, as `"USER/NAME"`.
        model (`str`): the Hub id of the model that it shows.
        revision (`str`): the model's commit.
        sdk_version (`str`): the release of Gradio that it runs with.
    """
    check_id(repo_id)
    check_id(model)
    return render("space.md.jinja", name=repo_id, model=model, revision=revision, sdk_version=sdk_version)
