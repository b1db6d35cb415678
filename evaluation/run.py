"""
Evaluate a vision-language model, foundation or EmoLLM, on an EmoBench folder.

python -m evaluation.run --model models/EmoLLM --dataset EmoBench --tasks all --output results/EmoLLM
python -m evaluation.run --model models/EmoLLM --dataset EmoBench --emoprompt answer --output results/EmoLLM-EmoPrompt

The same command again resumes an interrupted run.
"""

import argparse
import hashlib
import json
from pathlib import Path

import datasets
import torch
import transformers
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_emollm.emoprompt import EMOTION_TASKS, PROLOGUE, attach_emoprompt

from .metrics import score
from .predictions import RESULTS, SETTINGS, append_predictions, digest, resume_predictions, write_json
from .rows import batches, load_rows
from .scoring import answer_rows


def check_settings(folder: Path, settings: dict) -> None:
    """Records the settings in a new folder. Raises a `ValueError` if the folder is another run's."""
    path = folder / SETTINGS
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
        return
    recorded = json.loads(path.read_text())
    if changed := [name for name in settings if settings[name] != recorded.get(name)]:
        changes = "; ".join(f"{name}: {recorded.get(name)!r}, now {settings[name]!r}" for name in changed)
        raise ValueError(
            f"{folder} holds a run with other settings ({changes}); choose another --output, or delete it."
        )


def main(args: argparse.Namespace) -> None:
    emoprompt = None if args.emoprompt == "none" else args.emoprompt
    settings = {
        "model": args.model,
        "revision": args.revision,
        "dataset": args.dataset,
        "tasks": args.tasks,
        "emoprompt": emoprompt,
        "emoprompt_wording": hashlib.sha256(PROLOGUE.encode()).hexdigest()[:16] if emoprompt else None,
        "split": args.split,
        "limit": args.limit,
        "seed": args.seed,
        "model_files": digest(Path(args.model).glob("*")),
        "dataset_files": digest(Path(args.dataset).rglob("*.parquet")),
    }
    rows, several = load_rows(args.dataset, args.tasks, args.split, args.limit, args.seed)
    if unscored := sorted(several.keys() - rows.keys()):
        raise ValueError(
            f"All rows of {', '.join(unscored)} have several labels, which are not scored yet: name other --tasks."
        )
    for task, number in several.items():
        print(f"{task}: {number} rows with several labels are left out, they are not scored yet")
    check_settings(args.output, settings)
    records = resume_predictions(args.output)

    todo = []
    for task, task_rows in rows.items():
        done = {record["id"] for record in records if record["task"] == task}
        todo += [(task_rows, batch) for batch in batches(task_rows, done, args.batch_size)]
    if todo:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        source = {"revision": args.revision, "trust_remote_code": True}
        model = AutoModelForImageTextToText.from_pretrained(args.model, **source).to(device).eval()
        processor = AutoProcessor.from_pretrained(args.model, **source)
        if emoprompt:
            attach_emoprompt(processor)
    total = sum(map(len, rows.values()))
    correct = sum(record["prediction"] == record["answer"] for record in records)
    with tqdm(total=total, initial=len(records), desc=str(args.output), unit="row") as progress:
        for task_rows, batch in todo:
            answered = answer_rows(model, processor, [task_rows[i] for i in batch], emoprompt)
            append_predictions(args.output, answered)
            records += answered
            correct += sum(record["prediction"] == record["answer"] for record in answered)
            progress.update(len(batch))
            progress.set_postfix(accuracy=f"{correct / len(records):.3f}")

    names = ("model", "revision", "dataset", "split", "emoprompt", "emoprompt_wording", "seed", "limit")
    results = {name: settings[name] for name in names} | {
        "versions": {library.__name__: library.__version__ for library in (torch, transformers, datasets)},
        "n": len(records),
        "rows_with_several_labels": several,
        **score(records, args.seed),
    }
    write_json(args.output / RESULTS, results)
    for name, scores in [*results["scores"].items(), ("mean", results["mean"])]:
        low, high = scores["interval"]
        print(
            f"{name:8} macro F1 {scores['macro_f1']:.3f} [{low:.3f}, {high:.3f}]  accuracy {scores['accuracy']:.3f}  "
            f"chance {scores['chance']:.3f}  majority {scores['majority']:.3f}  n {scores['n']}"
        )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id; its own code, if it has any, is trusted")
    parser.add_argument("--revision", help="branch, tag or commit of the Hub id")
    parser.add_argument("--dataset", required=True, help="folder that dataset_scripts.build_emobench made, or Hub id")
    parser.add_argument("--tasks", nargs="+", default=["all"], help=f"all, or some of {' '.join(EMOTION_TASKS)}")
    parser.add_argument("--output", required=True, type=Path, help="folder for predictions and scores")
    parser.add_argument("--emoprompt", default="none", choices=["none", "answer", "reason"])
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, help="samples a task, drawn by --seed")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0, help="of --limit and the bootstrap intervals")
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
