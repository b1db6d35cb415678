"""
How much MVP and EmoPrompt lift several foundation models: every foundation as it is, with EmoPrompt, and fine-tuned
plainly, with a plain adapter, with MVP, and with both, on the same data for the same steps, with several seeds.

# Make the foundations, train and evaluate every cell, store the predictions, and print the tables
python -m benchmarks.ablation --plan recipes/ablation/drawn.yaml

# What a lab would need for real foundations
python -m benchmarks.ablation --plan recipes/ablation/full.yaml --estimate

# The tables and figures again, from the stored predictions, in README.md and RESULTS.md as well
python -m benchmarks.ablation --plan recipes/ablation/*.yaml --tables

It can be stopped at any moment: the same command goes on with the cells that are not done. Several of it, on a folder
that all see, share the cells.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import yaml
from filelock import FileLock, Timeout
from tqdm import tqdm

from evaluation.figures import to_bytes, write_atomically
from evaluation.predictions import write_text

from .estimate import estimate
from .plan import Cell, Plan
from .store import RESULTS, score_predictions, store_predictions
from .tables import Scores, draw, fill, tables


DOCUMENTS = (Path("README.md"), Path("benchmarks/RESULTS.md"))


def run(command: list[str], log: Path) -> None:
    """Ends this command if that one fails, and says where what it printed is."""
    command = [sys.executable if word == "python" else word for word in command]
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(command)}\n")
        file.flush()
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
    if code:
        sys.exit(f"{shlex.join(command)} ended with {code}. What it printed is in {log}.")


def pretrain(plan: Plan, name: str) -> None:
    folder = plan.output / "foundations" / name
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # others need it as well
        for number, command in enumerate(plan.pretraining(name)):
            done = folder / f".done-{number}"
            if not done.exists():
                run(command, folder / "log.txt")
                done.touch()


def complete(plan: Plan, cell: Cell) -> None:
    """Trains and evaluates a cell, as far as that is not done."""
    folder = plan.folder(cell)
    trained, _ = plan.model(cell)
    if Path(trained).is_relative_to(folder) and not (folder / "model" / "config.json").exists():
        (folder / "train.yaml").write_text(yaml.safe_dump(plan.training(cell)), encoding="utf-8")
        launch = shlex.split(plan.values["launch"])
        command = [*launch, "train_sft.py", "--config", str(folder / "train.yaml"), "--output_dir", trained]
        command += ["--resume_from_checkpoint", "last"]
        run(command, folder / "log.txt")
    for command in plan.evaluations(cell):
        if not (Path(command[-1]) / "results.json").exists():
            run(command, folder / "log.txt")


def is_done(plan: Plan, cell: Cell) -> bool:
    return all((Path(command[-1]) / "results.json").exists() for command in plan.evaluations(cell))


def run_cells(plan: Plan) -> list[Cell]:
    """Runs what no other process is at. Returns the cells that are not done then."""
    cells = [cell for cell in plan.cells if not is_done(plan, cell)]
    for cell in tqdm(cells, desc=plan.name, unit="cell"):
        folder = plan.folder(cell)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / ".lock", timeout=0):
                if not is_done(plan, cell):
                    pretrain(plan, cell.foundation)
                    complete(plan, cell)
        except Timeout:
            continue
    return [cell for cell in plan.cells if not is_done(plan, cell)]


def main(args: argparse.Namespace) -> None:
    for plan in [Plan.read(path, args.output) for path in args.plan]:
        if args.estimate:
            print(estimate(plan))
            continue
        if not args.tables:
            if left := run_cells(plan):
                print(f"{plan.name}: {len(left)} of {len(plan.cells)} cells are with other processes.")
                continue
            store_predictions(plan)
        scores = Scores(score_predictions(plan))
        write_atomically(RESULTS / f"{plan.name}.png", to_bytes(draw(scores), "png"))
        for document in DOCUMENTS:
            text = document.read_text(encoding="utf-8")
            write_text(document, fill(text, plan.name, tables(scores)))
        print("\n\n".join(tables(scores).values()))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", required=True, nargs="+", type=Path, help="files as in recipes/ablation")
    parser.add_argument("--output", type=Path, default=Path("outputs/ablation"), help="for models and predictions")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--estimate", action="store_true", help="print GPU hours, and do not train")
    what.add_argument("--tables", action="store_true", help="from the stored predictions, and do not train")
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
