"""
Score predictions for Fine-Grained Hateful Memes, the shared task of WOAH 2021: micro F1 and AUROC of three questions.

python -m evaluation.fine_grained_hate --answers dev_seen.json --predictions predictions/dev_seen.json

Both files have one JSON object a line, as https://github.com/facebookresearch/fine_grained_hateful_memes has them:
`gold_hate`, `gold_pc` (protected categories) and `gold_attack` (kinds of attack) are lists of labels, `pred_hate`,
`pred_pc` and `pred_attack` give each label its probability. The task and its metric: Mathias et al. 2021, "Findings of
the WOAH 5 Shared Task on Fine Grained Hateful Memes Detection". Scores are printed as JSON.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.metrics import f1_score, roc_auc_score


QUESTIONS = ("hate", "pc", "attack")


def fine_grained_scores(answers: list[dict], predictions: list[dict]) -> dict[str, dict[str, float]]:
    """
    Micro F1 at a threshold of 0.5, and micro AUROC, over all pairs of a meme and a label.

    As in the organisers' scorer, the labels are those that are the first of some meme's answers, an id that is
    predicted several times counts as often (the shipped predictions repeat 4), and memes without prediction don't.

    Args:
        answers (`list[dict]`): `id`, and by question the true labels as `gold_hate`, `gold_pc` and `gold_attack`.
        predictions (`list[dict]`): `id`, and by question each label's probability as `pred_hate` and so on.

    Returns:
        `dict`: by question `f1_micro` and `roc_auc`, and `n` predictions.

    Raises:
        `ValueError`: if no prediction is about one of the memes, or one lacks a label.
    """
    by_id = {row["id"]: row for row in answers}
    pairs = [(by_id[row["id"]], row) for row in predictions if row["id"] in by_id]
    if not pairs:
        raise ValueError(
            f"None of the {len(predictions)} predictions is about one of the {len(answers)} memes; give the files of "
            "one and the same split."
        )
    scores = {}
    for question in QUESTIONS:
        labels = sorted({truth[f"gold_{question}"][0] for truth, _ in pairs})
        for _, predicted in pairs:
            if missing := set(labels) - set(predicted[f"pred_{question}"]):
                raise ValueError(
                    f"Meme {predicted['id']}: pred_{question} has {len(predicted[f'pred_{question}'])} labels and "
                    f"lacks {', '.join(sorted(missing))}; give each label of {labels} a probability."
                )
        truths = np.array([[label in truth[f"gold_{question}"] for label in labels] for truth, _ in pairs])
        shares = np.array([[predicted[f"pred_{question}"][label] for label in labels] for _, predicted in pairs])
        scores[question] = {
            "f1_micro": float(f1_score(truths, shares > 0.5, average="micro")),
            "roc_auc": float(roc_auc_score(truths, shares, average="micro")),
            "n": len(pairs),
        }
    return scores


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main(args: argparse.Namespace) -> None:
    print(json.dumps(fine_grained_scores(read_lines(args.answers), read_lines(args.predictions)), indent=2))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", required=True, type=Path, help="file of a split, with gold_hate and so on")
    parser.add_argument("--predictions", required=True, type=Path, help="file with pred_hate and so on")
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
