"""
The whole road in some minutes on two cores, by the same commands that a user types: draw EmoBench-Drawn, have a
scripted teacher write rationales, train a tiny foundation on captions and on the plain tasks, fine-tune it with and
without MVP for the same steps on the same data, evaluate both without EmoPrompt and in its two modes, and one of them
by words and by pictures alone, compare, report, and explain one answer. A step that is done is not done again;
`rm -r demo` starts anew.

python -m benchmarks.demo
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets import load_dataset


MODELS = ("sft", "emollm")  # the foundation fine-tuned as it is, and with MVP
MODES = ("none", "answer", "reason")  # of EmoPrompt
TEACHER_STEP = "write rationales"
SUB_TASKS = ("Emo-C", "Emo-O", "intent", "hate", "humor", "sarcasm")


def steps(folder: Path) -> list[tuple[str, list[str]]]:
    """Name and command of each step, in order; `python` stands for this interpreter."""
    data, reasons = folder / "EmoBench-Drawn", folder / "EmoBench-Reasons"
    captions, results = folder / "captions", folder / "results"

    def train(recipe: str, model: Path, output: Path, *datasets: Path) -> str:
        return (
            "python -m accelerate.commands.launch --cpu --num_processes 1 train_sft.py "
            f"--config recipes/demo_{recipe}.yaml --model_name_or_path {model} "
            f"--datasets {' '.join(map(str, datasets))} --output_dir {output}"
        )

    commands = [
        ("draw EmoBench-Drawn", f"python -m dataset_scripts.build_emobench --output {data}"),
        (TEACHER_STEP, f"python -m evaluation.rationales --dataset {data} --output {reasons}"),
        ("draw captions", f"python -m benchmarks.captions --size 8192 --output {captions}"),
        (
            "make a foundation",
            f"python -m benchmarks.tiny_foundations --kind llava --num-layers 2 --dataset {reasons} "
            f"--output {folder / 'untrained'}",
        ),
        ("train it to see", train("captions", folder / "untrained", folder / "seeing", captions)),
        (
            "train it on the plain tasks",
            train("foundation", folder / "seeing", folder / "foundation", reasons, captions),
        ),
    ]
    for name in MODELS:
        command = train(name, folder / "foundation", folder / name, reasons)
        commands.append((f"fine-tune {name}", f"{command} --reason_share 0.67"))

    def evaluate(model: str, *runs: Path) -> str:
        outputs = " ".join(map(str, runs))
        return (
            f"python -m evaluation.run --model {folder / model} --dataset {data} --batch-size 60 --general {captions} "
            f"--output {outputs}"
        )

    runs = [results / f"{name}-{mode}" for name in MODELS for mode in MODES]
    for name in MODELS:
        own = [run for run in runs if run.name.startswith(name)]
        commands.append((f"evaluate {name}", f"{evaluate(name, *own)} --emoprompt {' '.join(MODES)}"))
    blind = [folder / "baselines" / f"{MODELS[0]}-{given}" for given in ("text", "picture")]
    for run in blind:
        given = run.name.partition("-")[2]
        commands.append((f"evaluate {run.name}", f"{evaluate(MODELS[0], run)} --input {given}"))
    together = " ".join(map(str, [*runs, *blind]))
    commands.append(("compare", f"python -m evaluation.compare {together} --output {folder / 'comparison.png'}"))
    commands.append(("report", f"python -m evaluation.report {together} --output {folder / 'report.html'}"))
    return [(name, shlex.split(command)) for name, command in commands]


def done_file(folder: Path, name: str) -> Path:
    return folder / ".done" / name.replace(" ", "-")


def run_step(folder: Path, name: str, command: list[str]) -> None:
    done = done_file(folder, name)
    if done.exists():
        print(f"== {name}: done already")
        return
    print(f"== {name}\n$ {shlex.join(command)}", flush=True)
    start = time.monotonic()
    subprocess.run([sys.executable if word == "python" else word for word in command], check=True)
    done.parent.mkdir(parents=True, exist_ok=True)
    done.touch()
    print(f"== {name}: {time.monotonic() - start:.0f} s", flush=True)


@contextmanager
def teacher(dataset: Path) -> Iterator[str]:
    """The URL of a teacher that knows what was drawn, while it runs."""
    command = [sys.executable, "-m", "benchmarks.drawn_teacher", "--dataset", str(dataset)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def explain(folder: Path) -> tuple[str, list[str]]:
    """The step that asks the trained EmoLLM about the first test picture, saved beside the explanation."""
    row = load_dataset(str(folder / "EmoBench-Drawn"), "emotion_recognition", split="test")[0]
    picture = folder / "picture.png"
    row["images"][0].save(picture)
    command = ["python", "-m", "evaluation.explain", "--model", str(folder / "emollm"), "--image", str(picture)]
    command += ["--question", row["instruction"], "--labels", *row["choices"]]
    return "explain", [*command, "--output", str(folder / "explanation.png")]


def report(folder: Path) -> None:
    """Says of every model and sub-task that it is above chance, or that it is not."""
    weak = []
    for run in sorted((folder / "results").iterdir()):
        scores = json.loads((run / "results.json").read_text())["scores"]
        weak += [f"{run.name}: {task}" for task in SUB_TASKS if scores[task]["interval"][0] <= scores[task]["chance"]]
    if weak:
        print(f"NOT clearly above chance (95% interval reaches it): {'; '.join(weak)}")
    else:
        print("Every model is clearly above chance on all six sub-tasks (95% intervals).")
    print(f"Report: {folder / 'report.html'}; figures: {folder / 'comparison.png'} and {folder / 'explanation.png'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo"))
    folder = parser.parse_args().output
    for name, command in steps(folder):
        if name == TEACHER_STEP and not done_file(folder, name).exists():
            with teacher(folder / "EmoBench-Drawn") as url:
                run_step(folder, name, [*command, "--teacher", url])
        else:
            run_step(folder, name, command)
    run_step(folder, *explain(folder))
    report(folder)


if __name__ == "__main__":
    main()
