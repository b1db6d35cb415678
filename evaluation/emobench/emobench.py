"""EmoBench's scores as a module of Hugging Face's evaluate, `evaluate.load("evaluation/emobench")` from the root.

The computing is `evaluation.metrics`', so from here this repository must be installed or be where Python is started;
the copy that `python -m model_cards.publish metric` puts on the Hub has all of it beside it.
"""

import datasets
import evaluate  # a line of its own: evaluate's loader reads `import datasets, evaluate` as one name

from dataset_scripts.tasks import get_task
from evaluation.metrics import score


_DESCRIPTION = """
Scores of one source of EmoBench, as `python -m evaluation.run` gives them: macro F1, the headline, with its 95%
bootstrap interval, accuracy, weighted F1, unweighted average recall, chance and majority, precision, recall and F1 of
each label and the confusion matrix; with probabilities also AUROC where the task is binary, calibration error and the
Brier score; with several labels a row also micro and samples F1.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]` or `list[list[str]]`): the label of each row, `""` or None where there is none; lists for
        a source with several labels a row.
    references (`list[str]` or `list[list[str]]`): the answers.
    task (`str`): one of EmoBench's five, as `"hate_detection"`.
    source (`str`): one of the task's, as `"harmeme"`, or a name of your own.
    labels (`list[str]`, *optional*): the label set; EmoBench's for its own sources.
    probabilities (`list[list[float]]`, *optional*): for each row those of `labels`, which sum to 1.
    seed (`int`, *optional*, defaults to 0): of the bootstrap.

Returns:
    `dict`: as `"sources"` in `evaluation.metrics.score`.

Example:
    >>> emobench = evaluate.load("evaluation/emobench")
    >>> rows = {"predictions": ["no", "yes", "yes"], "references": ["no", "yes", "no"]}
    >>> round(emobench.compute(**rows, task="hate_detection", source="harmeme")["macro_f1"], 3)
    0.667
"""


class EmoBench(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        single, several = datasets.Value("string"), datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=[datasets.Features({"predictions": kind, "references": kind}) for kind in (single, several)],
        )

    def _compute(self, predictions, references, task, source, labels=None, probabilities=None, seed=0):
        asked = get_task(task).sources.get(source)
        choices = labels or asked and list(asked.labels)
        if not choices:
            raise ValueError(f"{source!r} is no source of {task}; give its labels, as labels=['no', 'yes'].")
        if probabilities is not None and (len(probabilities) != len(references) or asked and asked.several):
            raise ValueError(
                f"{len(probabilities)} probabilities for {len(references)} rows of {source}; give one list for each "
                "row, and none for a source with several labels a row, whose predictions are at your threshold."
            )
        records = []
        for i, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
            answers = [reference] if isinstance(reference, str) else reference
            guess = [prediction] if isinstance(prediction, str) else prediction or []
            guess = [label for label in guess if label]
            records.append(
                {
                    "id": f"{i:09}",  # the bootstrap sorts by it
                    "source": source,
                    "task": task,
                    "setting": "closed",
                    "split": "test",
                    "answer": answers[0] if answers else None,
                    "answers": answers,
                    "choices": choices,
                    "label_distribution": [],
                    "prediction": guess[0] if guess else None,
                    "predictions": guess,
                    "probabilities": None if probabilities is None else probabilities[i],
                    "greedy": None,
                    "error": None,
                }
            )
        (scores,) = score(records, seed)["scores"].values()
        return scores["sources"][source]
