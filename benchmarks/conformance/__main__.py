"""
Which foundation models EmoLLM upgrades: every check on a tiny model of every family, as a table in Markdown.

# All families, printed
python -m benchmarks.conformance

# Two of them
python -m benchmarks.conformance --families llava qwen3_vl

# All of them, into the README between the markers
python -m benchmarks.conformance --write README.md
"""

import argparse
import tempfile
from pathlib import Path

from tqdm import tqdm

from . import fixed_size, free_size, tiled
from .checks import CHECKS, make_family, reload_all, run_checks


FAMILIES = dict(sorted({**fixed_size.FAMILIES, **free_size.FAMILIES, **tiled.FAMILIES}.items()))
KNOWN_FAILURES = {**fixed_size.KNOWN_FAILURES, **free_size.KNOWN_FAILURES, **tiled.KNOWN_FAILURES}
REFUSED = dict(sorted({**fixed_size.REFUSED, **free_size.REFUSED, **tiled.REFUSED}.items()))
BEGIN, END = "<!-- begin: python -m benchmarks.conformance --write README.md -->\n", "<!-- end -->"
COLUMNS = (*CHECKS, "reload")


def render_row(name: str, outcomes: dict[str, str]) -> str:
    """One row of the table: ✓ passed, – does not apply, ✗ failed."""
    marks = [{"passed": "✓", "does not apply": "–"}.get(outcomes[column].partition(":")[0], "✗") for column in COLUMNS]
    return f"| {name} | {' | '.join(marks)} |"


def render(rows: list[str]) -> str:
    """The table, its legend, and what is known not to work."""
    head = [f"| family | {' | '.join(COLUMNS)} |", "|---|" + ":-:|" * len(COLUMNS)]
    failures = [f"- {family}, {check}: {reason}" for (family, check), reason in sorted(KNOWN_FAILURES.items())]
    refused = [f"- {family}: {reason}" for family, reason in REFUSED.items()]
    parts = ["\n".join([*head, *rows]), "✓ passes, – does not apply, ✗ fails."]
    if failures:
        parts.append("Known failures:\n\n" + "\n".join(failures))
    if refused:
        parts.append("Not in the table:\n\n" + "\n".join(refused))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), metavar="FAMILY")
    parser.add_argument("--write", type=Path, help="a Markdown file with the markers, whose table is replaced")
    args = parser.parse_args()
    if args.write and args.families != list(FAMILIES):
        parser.error("--write needs all families; leave out --families.")
    outcomes = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in tqdm(args.families, desc="families"):
            outcomes[name] = run_checks(make_family(FAMILIES[name]), Path(scratch) / name)
        for name, outcome in reload_all(Path(scratch)).items():
            outcomes[name]["reload"] = outcome
    rows = [render_row(name, outcome) for name, outcome in outcomes.items()]
    for name, outcome in outcomes.items():
        for check, text in outcome.items():
            if text != "passed":
                print(f"{name}, {check}: {text}")
    if args.write:
        before, _, rest = args.write.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        args.write.write_text(f"{before}{BEGIN}{render(rows)}{END}{after}", encoding="utf-8")
    else:
        print(render(rows))


if __name__ == "__main__":
    main()
