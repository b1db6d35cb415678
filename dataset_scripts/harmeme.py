"""HarMeme reader: memes about COVID-19 and US politics, rated for harm.

- Name: HarMeme (`harmeme`)
- Dataset: https://github.com/di-dimitrov/mmf (the authors' fork of MMF), data/datasets/memes/defaults
- Paper: Pramanick et al. 2021, "MOMENTA: A Multimodal Framework for Detecting Harmful Memes and Their Targets",
  https://arxiv.org/abs/2109.05184, and "Detecting Harmful Memes and Their Targets", https://arxiv.org/abs/2110.00413
- Licence: none stated for the memes: research only, never redistribute
- How to obtain: clone the repository above; give its folder data/datasets/memes/defaults
- Version: 1.0.0

The mapping to two classes is ours: "somewhat harmful" and "very harmful" are yes. Harm is broader than hate; the level
and the target are kept in `attributes`. Content warning: offensive memes.
"""

import json

from tqdm import tqdm

from dataset_scripts.media import MediaError, read_media
from dataset_scripts.sample import EmoSample, Skipped


TASK = "hate_detection"
LICENCE = "none stated (research only)"
HOW_TO_OBTAIN = (
    "HarMeme is in https://github.com/di-dimitrov/mmf; give its folder data/datasets/memes/defaults, which holds "
    "annotations/train.jsonl, annotations/val.jsonl and images"
)
FILES = {"train": "train.jsonl", "validation": "val.jsonl", "test": "test.jsonl"}
ANSWERS = {"not harmful": "no", "somewhat harmful": "yes", "very harmful": "yes"}


def annotation(root, split):
    """Path of a split's annotations: below `annotations` as the authors have it, or beside `images`."""
    folder = root / "annotations"
    return (folder if folder.is_dir() else root) / FILES[split]


def splits(root):
    """The splits found below `root` (`Path`); raises a `ValueError` that says how to obtain HarMeme if none is."""
    found = tuple(split for split in FILES if annotation(root, split).is_file())
    if not found:
        raise ValueError(f"harmeme: nothing of HarMeme in {root}. {HOW_TO_OBTAIN}")
    return found


def read(root, split):
    """Yield an `EmoSample` or a `Skipped` for every record of a split of HarMeme in `root` (`Path`).

    Raises:
        `ValueError`: If a line is no JSON or its level of harm is unknown.
    """
    path = annotation(root, split)
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(tqdm(lines, desc=f"harmeme {split}", leave=False), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"harmeme: {path} line {number} is no JSON: {error}") from error
        missing = [key for key in ("id", "image", "labels", "text") if key not in row]
        if missing:
            raise ValueError(f"harmeme: {path} line {number} has no {', '.join(missing)}")
        level, target = (*row["labels"], None, None)[:2]
        if level not in ANSWERS:
            raise ValueError(
                f"harmeme: {path} line {number} ({row['id']}): label {level!r} is outside the label set: "
                + ", ".join(ANSWERS)
            )
        try:
            image = read_media(root / "images", row["image"])
        except MediaError as error:
            yield Skipped(row["id"], str(error))
            continue
        yield EmoSample(
            source="harmeme",
            split=split,
            record=row["id"],
            task=TASK,
            images=(image,),
            answer=ANSWERS[level],
            licence=LICENCE,
            context=row["text"].strip(),
            attributes={"level": level, "target": target},
        )
