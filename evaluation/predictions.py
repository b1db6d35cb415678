"""The predictions file: one JSON object a line, appended in batches, and everything else is computed from it.

| key | |
|---|---|
| id, source, task, setting, answer, choices, label_distribution | as in the dataset |
| prediction | one of `choices`, or null if the generated text names none |
| probabilities | of `choices` in their order when the labels were scored, else null |
| text | what was generated, null when the labels were scored |
| emoprompt | null, "answer" or "reason" |
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path


PREDICTIONS, RESULTS, SETTINGS = "predictions.jsonl", "results.json", "settings.json"


def digest(files: Iterable[Path]) -> str | None:
    """Changes when a file does, without reading it; None for no file (a Hub id, whose revision can be pinned)."""
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(files) if file.is_file()]
    return hashlib.sha256(repr(states).encode()).hexdigest() if states else None


def draw_samples(samples: Iterable[str], limit: int, seed: int) -> set[str]:
    """At most `limit` of the ids, which follow from the ids and the seed alone; more of them are a larger set."""
    return set(sorted(set(samples), key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())[:limit])


def write_json(path: Path, value: dict) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def append_predictions(folder: Path, records: list[dict]) -> None:
    with open(folder / PREDICTIONS, "a", encoding="utf-8") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records))


def resume_predictions(folder: Path) -> list[dict]:
    """What an interrupted run has predicted; a last line that was only written in part is cut off the file."""
    path = folder / PREDICTIONS
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return [json.loads(line) for line in whole.splitlines()]


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
