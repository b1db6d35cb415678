"""Results folders as evaluation.run leaves them, of predictions that are written down here."""

import json

from dataset_scripts.tasks import TASKS
from evaluation.metrics import score


def make_records(task, source, accuracy, n=40, setting="closed", split="test", **changed):
    """The first `accuracy` of the rows are right, the others name the next label; closed ones with probabilities."""
    questions, records = TASKS[task].sources[source], []
    choices = list(questions.labels)
    for i in range(n):
        answers = [choices[(i + j) % len(choices)] for j in range(1 + (questions.several and i % 2))]
        prediction = answers[0] if i < accuracy * n else choices[(i + 1) % len(choices)]
        sure = 0.5 + 0.4 * (i + 1) / n
        rest = (1 - sure) / (len(choices) - 1)
        scored = setting == "closed"
        record = {
            "id": f"{source}/{split}/{i:03}#{setting}",
            **{"source": source, "task": task, "setting": setting, "split": split, "choices": choices},
            **{"answer": answers[0], "answers": answers, "label_distribution": [], "prediction": prediction},
            "predictions": [prediction] if questions.several and not scored else None,
            "probabilities": [sure if label == prediction else rest for label in choices] if scored else None,
            "text": None if scored else f"It is {prediction}.",
            **{"greedy": None, "error": None, "emoprompt": None, "input": "all", "seconds": 0.25},
        }
        records.append(record | changed)
    return records


def write_run(folder, records, **changed):
    folder.mkdir(parents=True)
    (folder / "predictions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    results = {"model": "models/tiny", "revision": None, "endpoint_model": None, "dataset": "data/EmoBench"}
    results |= {
        "split": "test",
        "emoprompt": None,
        "emoprompt_wording": None,
        "input": "all",
        "seed": 0,
        "limit": None,
    }
    results |= {"label_score": "likelihood", "versions": {"torch": "2.13.0"}, "n": len(records), "seconds": 9.0}
    results |= {"general": None, **score(records), **changed}
    (folder / "results.json").write_text(json.dumps(results))
    return folder
