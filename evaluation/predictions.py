"""The predictions file: one JSON object a line, and everything else is computed from it.

| key | |
|---|---|
| id, source, task, setting, answer, answers, choices, label_distribution | as in the dataset |
| groups | of people that the row is about, as pairs of attribute and value, where its source names them |
| split | that was asked; of sources with several labels, validation rows are there too, to choose the threshold on |
| prediction | one of `choices`, or null if the text names none or there is an `error`; of several the likeliest |
| predictions | for a source with several labels, those that the generated text names; else null |
| probabilities | of `choices` in their order when the labels were scored, else null; see `decoding.label_scores` |
| text | what was generated, null when the labels were scored |
| greedy | for some of the scored rows the label that generation gives, "" if its text names none; else null |
| error | why a row has no answer, else null |
| emoprompt | null, "answer" or "reason" |
| input | "all", "text" (grey pictures) or "picture" (without the words that a question quotes) |
| seconds | the row's share of the time that its batch took |
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path


PREDICTIONS, RESULTS, SETTINGS = "predictions.jsonl", "results.json", "settings.json"
PART = "predictions.{}.part"  # what a process has answered, until all parts are put together


def digest(files: Iterable[Path]) -> str | None:
    """Changes when a file does, without reading it; None for no file (a Hub id, whose revision can be pinned)."""
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(files) if file.is_file()]
    return hashlib.sha256(repr(states).encode()).hexdigest() if states else None


def draw_samples(samples: Iterable[str], limit: int, seed: int) -> set[str]:
    """At most `limit` of the ids, which follow from the ids and the seed alone; more of them are a larger set."""
    return set(sorted(set(samples), key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())[:limit])


def write_text(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_json(path: Path, value: dict) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def append_predictions(folder: Path, process: int, records: list[dict]) -> None:
    with open(folder / PART.format(process), "a", encoding="utf-8") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records))


def collect_predictions(folder: Path) -> list[dict]:
    """
    All that has been answered, by whatever number of processes and however they ended, in one file in the order of
    tasks and ids. A last line that was only written in part is left out, to be asked again.
    """
    parts = sorted(folder.glob(PART.format("*")))
    files = [folder / PREDICTIONS, *parts]
    contents = [file.read_bytes() for file in files if file.exists()]
    lines = [line for content in contents for line in content[: content.rfind(b"\n") + 1].splitlines()]
    found = {(record["task"], record["id"]): record for record in map(json.loads, lines)}
    records = [found[key] for key in sorted(found)]
    if parts:
        write_text(folder / PREDICTIONS, "".join(json.dumps(record) + "\n" for record in records))
        for part in parts:
            part.unlink()
    return records


def read_predictions(folder: str | Path) -> list[dict]:
    """
    All predictions of a finished run.

    Raises:
        `ValueError`: if there are none, or the run has not reached its end.
    """
    folder = Path(folder)
    path = folder / PREDICTIONS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if not lines:
        raise ValueError(f"{path} has no predictions; make them with `python -m evaluation.run --output {folder}`.")
    expected = json.loads((folder / RESULTS).read_text())["n"] if (folder / RESULTS).exists() else None
    if len(lines) != expected:
        raise ValueError(
            f"{path} has {len(lines)} predictions, but {folder / RESULTS} "
            f"{'is missing' if expected is None else f'speaks of {expected}'}; "
            "repeat the `python -m evaluation.run` that was interrupted, it takes up where it stopped."
        )
    return [json.loads(line) for line in lines]
