"""Cards of what is published, from measured files: `training.json` of `train_sft.py`, `results.json` of evaluation."""

import json
import re
from itertools import groupby
from pathlib import Path

from huggingface_hub.utils import validate_repo_id
from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

from dataset_scripts.manifest import digest_safetensors
from dataset_scripts.readers import READERS

from .tables import INPUTS, MODES, describe_runs, title_of


CARDS = Path(__file__).parent
TEMPLATES = [CARDS, CARDS.parent / "dataset_scripts"]
REQUIREMENTS = CARDS.parent / "space" / "requirements.txt"
FACTS, RESULTS = "training.json", "results.json"
TOLD = """
    foundation revision licence earlier is_emollm visual_tokens_per_image dtype datasets rows train lora_r lora_alpha
    parameters trained_parameters emoprompt_share reason_share feature_cache steps batch_size learning_rate
    lr_scheduler_type warmup_steps weight_decay optimizer precision seed score device seconds energy versions weights
""".split()  # in training.json
ASKED = ("dataset", "dataset_revision", "split", "limit", "seed")  # what runs in one table have in common


def check_id(repo_id: str) -> None:
    """Raises a `ValueError` for what is no `USER/NAME`."""
    validate_repo_id(repo_id)
    if "/" not in repo_id:
        raise ValueError(f"{repo_id} must be USER/NAME.")


def render(template: str, **values) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
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
        `ValueError`: if there is none, if it lacks something, or if the licence of the foundation is not in it.
    """
    path = folder / FACTS
    if not path.is_file():
        raise ValueError(f"There is no {path}: train with train_sft.py, which writes it.")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): train again, or copy it again from where it was.") from None
    if missing := [name for name in TOLD if name not in facts]:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}, which the card tells: train again with this version of train_sft.py, "
            "or write there what you know of it."
        )
    if not facts["licence"] or not isinstance(facts["licence"], str):
        raise ValueError(
            f'{path}: "licence" is {json.dumps(facts["licence"])}, as the one licence of the foundation '
            f"({facts['foundation'] or 'a local folder'}) was not known. Look it up, and write it there as the Hub "
            'spells it, as "licence": "apache-2.0".'
        )
    return facts


def render_facts(facts: dict, runs: list[dict], repo_id: str, dataset_id: str | None) -> str:
    """
    The card from what was read.

    Raises:
        `ValueError`: for a Hub id that is none, for facts without a part of theirs, and for runs on the same samples
            that score different sub-tasks.
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
    values = {"training": facts, "name": repo_id, "evaluations": evaluations, "dataset_id": dataset_id}
    try:
        names = {row["source"] for stage in (facts, *facts["earlier"]) for row in stage["rows"]}
        sources = {name: reader.SOURCE for name, reader in READERS.items() if name in names}
        return render("emollm.md.jinja", sources=sources, **values)
    except (KeyError, UndefinedError) as error:
        raise ValueError(f"{FACTS} is not whole ({error}): train again with this version of train_sft.py.") from None


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
        `ValueError`: if something is missing, as [`read_facts`] and [`read_runs`] say, or if what was trained, what
            was evaluated and what is in the folder are not the same weights. A folder may have none.
    """
    runs, facts = read_runs(results), read_facts(folder)
    if digest_safetensors(folder) not in (None, facts["weights"]):
        raise ValueError(
            f"{folder} holds other weights than those of which its {FACTS} tells: give the folder as train_sft.py "
            "left it, or train again."
        )
    for path, run in zip(results, runs, strict=True):
        if run.get("weights") != facts["weights"]:
            raise ValueError(
                f"{path}, a run of {run['model']}, evaluated other weights than those in {folder}: evaluate again, or "
                "leave out that run."
            )
    return render_facts(facts, runs, repo_id, dataset_id)


def render_metric_card(repo_id: str) -> str:
    """The card of EmoBench's metric as a Space that `evaluate.load` loads."""
    check_id(repo_id)
    return render("metric.md.jinja", name=repo_id)


def render_space_card(repo_id: str, model: str, revision: str) -> str:
    """
    The card of the demo Space.

    Args:
        repo_id (`str`): the Space on the Hub, as `"USER/NAME"`.
        model (`str`): the Hub id of the model that it shows.
        revision (`str`): the model's commit.
    """
    check_id(repo_id)
    check_id(model)
    requirements = REQUIREMENTS.read_text(encoding="utf-8")
    gradio = re.search(r"^gradio(?:\[.*\])?==([\d.]+)", requirements, re.MULTILINE).group(1)
    return render("space.md.jinja", name=repo_id, model=model, revision=revision, sdk_version=gradio)
