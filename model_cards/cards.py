"""
Renders anew what is committed: the card of the demo's model, from what its training and its evaluation measured, those
of the metric and of the Space, and the hash list of the model's code.

python -m model_cards.cards
"""

from pathlib import Path

from .code_list import CODE_LIST, render_code_list
from .rendering import read_runs, render_metric_card, render_model_card, render_space_card


HERE = Path(__file__).parent


def render_all() -> dict[Path, str]:
    """Every file with its text; `USER` stands for whoever publishes, `COMMIT` for what they publish."""
    cards = {CODE_LIST: render_code_list()}
    for folder in sorted(path.parent for path in HERE.glob("*/training.json")):
        results = sorted((folder / "results").glob("*.json"))
        dataset = f"USER/{Path(read_runs(results)[0]['dataset']).name}"
        cards[folder / "README.md"] = render_model_card(folder, results, f"USER/{folder.name}", dataset)
    cards[HERE / "metric.md"] = render_metric_card("USER/emobench")
    cards[HERE / "space.md"] = render_space_card("USER/EmoLLM-Drawn-demo", "USER/EmoLLM-Drawn", "COMMIT")
    return cards


def main() -> None:
    for path, text in render_all().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(HERE.parent))


if __name__ == "__main__":
    main()
