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

from . import fixed_size, packed, padded, tiled
from .checks import CHECKS, make_family, reload_all, run_checks


FAMILIES = dict(sorted((fixed_size.FAMILIES | padded.FAMILIES | tiled.FAMILIES | packed.FAMILIES).items()))
KNOWN_FAILURES = {
    ("hunyuan_vl", "neighbours"): "transformers numbers the images of all rows in one go in its position ids, so that "
    "an answer depends on the other rows",
    ("kimi_k25", "video"): "transformers itself fails on clips of more than one frame (`get_video_features` averages "
    "over time, then splits as if it had not)",
    ("nemotron_h_omni", "video"): "transformers' own `forward` fails on its videos (`torch.cat` of a tensor)",
    ("perception_lm", "video"): "it has no `get_video_features`; its videos are encoded as before, unseen by MVP",
}
NO_ENCODED_IMAGES = """
blip evolla florence2 git idefics kosmos-2 kosmos-2.5 mistral4 mllama pi0 pix2struct pp_formulanet t5gemma2 udop
vision-encoder-decoder
"""
REFUSED = {  # or not tried: all else that AutoModelForImageTextToText loads
    **dict.fromkeys(NO_ENCODED_IMAGES.split(), "`forward` takes no `mm_encoder_outputs`"),
    **dict.fromkeys(("blip-2", "instructblip"), "`generate` encodes the pixels itself and takes no encoded images"),
    "diffusion_gemma": "text diffusion model, whose base model has no `get_image_features`",
    "fuyu": "no image encoder: `get_image_features` gives no `pooler_output` and does not tell images apart",
    "gemma3n": "not tried: its image encoder comes from timm, which is not installed for the tests",
    "glm_image": "it draws pictures; `AutoModelForImageTextToText` does not load it, and its language model sees code "
    "book entries instead of visual features",
    "granite4_vision": "its visual features go into several layers of the language model, none into `pooler_output`",
    "instructblipvideo": "videos only (no `get_image_features`), and `generate` encodes the pixels itself",
    "llama4": "its `get_image_features` stops before the projector, which runs inside `forward`",
    "shieldgemma2": "a classifier; transformers itself renames its weights when it is saved as a language model",
}
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
    refused = [
        f"- {', '.join(family for family in REFUSED if REFUSED[family] == reason)}: {reason}"
        for reason in dict.fromkeys(REFUSED.values())
    ]
    parts = ["\n".join([*head, *rows]), "✓ passes, – does not apply, ✗ fails."]
    parts += ["Known failures:\n\n" + "\n".join(failures), "Not in the table:\n\n" + "\n".join(refused)]
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
