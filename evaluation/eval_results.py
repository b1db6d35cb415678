"""
Write the scores of a run where the Hub shows them: in `.eval_results/emobench.yaml` of the model's repository.

python -m evaluation.eval_results results/EmoLLM --dataset-id USER/EmoBench --output models/EmoLLM

USER/EmoBench is the Hub id of the dataset, and --output the folder of the model that is then uploaded. Each sub-task
is an entry, its task_id being the sub-task's name, and so is their mean; the value is macro F1, 0 to 1. The format:
https://huggingface.co/docs/hub/eval-results. The Hub shows them on the model's page. A leaderboard on the dataset's
would need an `eval.yaml` there, whose `evaluation_framework` must be one that Hugging Face lists, as ours is not.
"""

import argparse
import json
from pathlib import Path

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.utils import validate_repo_id

from .predictions import RESULTS, write_text


def make_entries(results: dict, dataset_id: str) -> list[EvalResultEntry]:
    """
    An entry for each sub-task and the mean.

    Args:
        results (`dict`): the content of a `results.json`.
        dataset_id (`str`): the dataset on the Hub, as `"USER/EmoBench"`.

    Raises:
        `ValueError`: if it is no Hub id, or the model did not see the whole question.
    """
    validate_repo_id(dataset_id)
    if results["input"] != "all":
        raise ValueError(
            f"The run has input {results['input']!r}, which is a baseline of the model and no score of it; give one "
            "with --input all."
        )
    limit = "" if results["limit"] is None else f", at most {results['limit']} samples a task"
    emoprompt = f", EmoPrompt {results['emoprompt']}" if results["emoprompt"] else ""
    return [
        EvalResultEntry(
            dataset_id=dataset_id,
            task_id=name,
            value=scores["macro_f1"],
            dataset_revision=results.get("dataset_commit"),
            notes=f"macro F1, 95% interval {scores['interval'][0]:.4f} to {scores['interval'][1]:.4f}, chance "
            f"{scores['chance']:.4f}, n {scores['n']}, {results['split']} split{limit}{emoprompt}",
        )
        for name, scores in [*results["scores"].items(), ("mean", results["mean"])]
    ]


def main(args: argparse.Namespace) -> None:
    path = args.results / RESULTS
    if not path.is_file():
        raise ValueError(f"There is no {path}; make it with `python -m evaluation.run --output {args.results}`.")
    entries = make_entries(json.loads(path.read_text(encoding="utf-8")), args.dataset_id)
    file = args.output / ".eval_results" / "emobench.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False))
    print(f"{len(entries)} scores in {file}")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder that evaluation.run wrote")
    parser.add_argument("--dataset-id", required=True, help="the dataset on the Hub")
    parser.add_argument("--output", required=True, type=Path, help="folder of the model")
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
