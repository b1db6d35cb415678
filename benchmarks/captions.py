"""
Plain captions of drawn pictures, to pretrain a tiny foundation on: one to four people named by colour, or one of them
asked for, three-frame shows and scenes. They teach it to see, to look where it is told to, and to say what is there,
before EmoBench-Drawn asks questions whose answers need picture and text together.

python -m benchmarks.captions --output data/captions --size 5120
"""

import argparse
import hashlib
import random
import shutil
import tempfile
from pathlib import Path

from datasets import Dataset, Features, Image, Json, List, Value
from tqdm import tqdm

from benchmarks.drawn_words import PAYOFF, PROMISE, SEEN
from dataset_scripts.drawn import COLOURS, THINGS, draw_door, draw_four, draw_show, draw_weather
from dataset_scripts.tasks import get_task


FEATURES = Features(
    {
        "id": Value("string"),
        "task": Value("string"),
        "setting": Value("string"),
        "images": List(Image()),
        "choices": List(Value("string")),
        "rationale": Value("string"),
        "messages": List(Json()),
    }
)
CARD = """\
---
configs:
- config_name: captions
  data_files:
  - split: train
    path: captions/{name}
---
Captions of drawn pictures, made by `python -m benchmarks.captions`.
"""


PEOPLE = ("emotion_recognition", "intent_understanding")
SCENES = {"door": (draw_door, ("welcome", "exclude")), "weather": (draw_weather, ("sun", "storm"))}
KINDS = (*PEOPLE, *PEOPLE, "show", *PEOPLE, *PEOPLE, "show", *SCENES)


def draw_caption(index: int, seed: int) -> dict:
    """Row `index`, with the columns that `train_sft.py` reads; the same arguments give the same bytes."""
    rng = random.Random(f"{seed}/captions/{index}")
    kind = KINDS[index % len(KINDS)]
    if kind == "show":
        first, last = rng.choice(list(THINGS)), rng.choice(list(THINGS))
        images = draw_show(first, last, rng)
        question, caption = rng.choice(
            [
                ("What do the frames show?", f"{first}, cloth, {last}"),
                ("What is to be seen?", f"{PROMISE.format(first)}. {PAYOFF.format(last)}."),
            ]
        )
    elif kind in SCENES:
        draw, seen = SCENES[kind]
        scene = rng.choice(seen)
        images, question, caption = (draw(scene, rng),), "What is to be seen?", f"{SEEN[scene]}."
    else:
        # Labels are drawn one by one, not as a permutation: then a picture tells something even before a reader can
        # bind a label to a colour, and learning has a slope to start on.
        labels = get_task(kind).sources["drawn"].labels
        people = {colour: rng.choice(labels) for colour in rng.sample(list(COLOURS), rng.choice([1, 1, 2, 3, 4]))}
        cells = [*people.items(), *[None] * (4 - len(people))]
        rng.shuffle(cells)
        colour, label = rng.choice(list(people.items()))
        images = (draw_four(cells, kind, rng),)
        question, caption = rng.choice(
            [
                ("Who is in the picture?", ", ".join(f"{one} {people[one]}" for one in COLOURS if one in people)),
                (f"What about the person in {colour}?", label),
                (f"What is to be seen of the person in {colour}?", f"the person in {colour} {SEEN[label]}."),
            ]
        )
    content = [*[{"type": "image"}] * len(images), {"type": "text", "text": question}]
    return {
        "id": f"captions/train/{index:06d}",
        "task": "captioning",
        "setting": "open",
        "images": [{"bytes": image, "path": None} for image in images],
        "choices": [],
        "rationale": None,
        "messages": [
            {"role": "user", "content": content},
            {"role": "assistant", "content": [{"type": "text", "text": caption}]},
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--size", required=True, type=int, help="number of pictures and clips")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.output.exists():
        raise ValueError(f"{args.output} exists already: give a new folder, or remove it first.")
    rows = [draw_caption(index, args.seed) for index in tqdm(range(args.size), desc="captions")]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output.parent) as scratch:
        path = Path(scratch, "captions", "train.parquet")
        path.parent.mkdir()
        Dataset.from_list(rows, features=FEATURES).to_parquet(path)
        # load_dataset's cache goes by the card, not by the files: a name of its own keeps it from serving older rows.
        name = f"train-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.parquet"
        path.rename(path.with_name(name))
        Path(scratch, "README.md").write_text(CARD.format(name=name), encoding="utf-8")
        shutil.copytree(scratch, args.output)
    print(f"wrote {args.size} captions to {args.output}")


if __name__ == "__main__":
    main()
