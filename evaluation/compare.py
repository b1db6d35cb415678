"""
Compare evaluations of the same samples; the first is the reference.

python -m evaluation.compare results/foundation results/EmoLLM --output comparison.png
"""

import argparse
from pathlib import Path

from .comparison import GENERAL, Run, baseline_scores, differences, format_difference, load_runs, missing_baselines
from .figures import draw_comparison, to_bytes, write_atomically


def align(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def format_scores(runs: list[Run], baselines: dict[str, dict[str, dict]]) -> str:
    """Macro F1 in per cent, a line a sub-task, and beneath it what else the models can do."""
    columns = [*baselines.values(), *(run.scores for run in runs)]
    lines = [["macro F1", "chance", *baselines, *(run.name for run in runs)]]
    for task, first in runs[0].scores.items():
        cells = [first["chance"], *(scores[task]["macro_f1"] for scores in columns)]
        lines.append([task, *(f"{100 * cell:.1f}" for cell in cells)])
    general = [run.results["general"] for run in runs]
    if measured := next(filter(None, general), None):
        for name, title in GENERAL.items():
            scale = 100 if name == "token_accuracy" else 1
            cells = [f"{scale * of[name]:.1f}" if of else "–" for of in general]
            lines.append([title, *[""] * (1 + len(baselines)), *cells])
        return f"{align(lines)}\n({' and '.join(GENERAL.values())} on {measured['n']} rows of {measured['dataset']})"
    return align(lines)


def format_differences(reference: str, by_run: dict[str, dict[str, dict]]) -> str:
    lines = [["", *by_run]]
    for task in next(iter(by_run.values())):
        cells = [format_difference(compared[task]) for compared in by_run.values()]
        lines.append([task, *(f"{difference} {p:>6}" for difference, p in cells)])
    title = (
        f"Difference to {reference} in points of macro F1 [95% interval, paired bootstrap], p of McNemar's exact test"
    )
    return f"{title}\n{align(lines)}"


def main(args: argparse.Namespace) -> None:
    runs = load_runs(args.results)
    compared = differences(runs)
    baselines = baseline_scores(runs[0])
    print(format_scores(runs, baselines))
    if compared:
        print("\n" + format_differences(runs[0].name, compared))
    for kind, command in missing_baselines(runs).items():
        print(f"\nThe {kind} baseline is missing; this makes it:\n{command}")
    if args.output:
        scores = baselines | {run.name: run.scores for run in runs}
        write_atomically(args.output, to_bytes(draw_comparison(scores), args.output.suffix[1:]))
        print(f"\nDrawn in {args.output}")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="folders that evaluation.run wrote, the reference first")
    parser.add_argument("--output", type=Path, help="the figure: .png, .svg or .pdf")
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
