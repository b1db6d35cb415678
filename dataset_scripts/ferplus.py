"""FER+ reader: cropped faces with ten people's votes, for closed- and open-set emotion recognition.

- Name: FER+ (`ferplus`)
- Dataset: https://github.com/microsoft/FERPlus, new labels for the pictures of FER2013
- Paper: Barsoum et al. 2016, "Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label
  Distribution", https://arxiv.org/abs/1608.01041
- Licence: votes MIT (Microsoft); the pictures are FER2013's, for research; no image licence is stated
- How to obtain: fer2013.csv from the Kaggle challenge "Challenges in Representation Learning: Facial Expression
  Recognition", then `src/generate_training_data.py` of the FERPlus repository, which writes
  `FER2013Train|FER2013Valid|FER2013Test`, each with `label.csv` and 48x48 PNGs
- Version: 1.0.0

A picture counts when one of the eight emotions has at least 5 of the 10 votes and no label has as many.

FERPlus comes with two tables whose votes differ for some 7% of the pictures: `label.csv` (2016), which the authors'
training reads, and `fer2013new.csv` (2017). The original layout is read with `label.csv`; a sampled copy with the
votes in its `labels.csv`, which has the columns split (train, val, test), path, and the ten votes by name.
"""

import csv

from tqdm import tqdm

from dataset_scripts.media import MediaError, read_media
from dataset_scripts.sample import EmoSample, Skipped
from dataset_scripts.tasks import TASKS


TASK = "emotion_recognition"
LICENCE = "votes MIT, pictures FER2013 (research)"
HOW_TO_OBTAIN = (
    "FER+ is made from Kaggle's fer2013.csv by https://github.com/microsoft/FERPlus (src/generate_training_data.py); "
    "give the folder that holds FER2013Train, FER2013Valid and FER2013Test"
)
EMOTIONS = TASKS[TASK].label_sets["ferplus"]
COLUMNS = (*EMOTIONS, "unknown", "NF")
FOLDERS = {"train": "FER2013Train", "validation": "FER2013Valid", "test": "FER2013Test"}
SAMPLED = {"train": "train", "validation": "val", "test": "test"}  # split names of a sampled copy's labels.csv


def splits(root):
    """The splits found below `root` (`Path`); raises a `ValueError` that says how to obtain FER+ if none is."""
    if (root / "labels.csv").is_file():
        return tuple(SAMPLED)
    found = tuple(split for split, folder in FOLDERS.items() if (root / folder / "label.csv").is_file())
    if not found:
        raise ValueError(f"ferplus: nothing of FER+ in {root}. {HOW_TO_OBTAIN}")
    return found


def decide(votes):
    """The majority label of ten votes, in the order of `COLUMNS`.

    Returns:
        `tuple[str | None, str | None]`: Label and `None`, or `None` and the reason why there is none.
    """
    most = max(votes)
    if most < 5:
        return None, "fewer than 5 of 10 votes for one label"
    if list(votes).count(most) > 1:
        return None, "tie"
    label = COLUMNS[list(votes).index(most)]
    if label not in EMOTIONS:
        return None, "most votes for unknown" if label == "unknown" else "most votes for not a face"
    return label, None


def rows(root, split):
    """Lists of picture path below `root` and ten vote cells, from the original layout or from a sampled copy."""
    sampled = root / "labels.csv"
    if sampled.is_file():
        with sampled.open(newline="") as file:
            table = csv.DictReader(file)
            missing = [column for column in ("split", "path", *COLUMNS) if column not in (table.fieldnames or ())]
            if missing:
                raise ValueError(f"ferplus: {sampled} has no column {', '.join(missing)}")
            kept = [row for row in table if row["split"] == SAMPLED[split]]
        return [(row["path"], [row[column] for column in COLUMNS]) for row in kept]
    folder = FOLDERS[split]
    with (root / folder / "label.csv").open(newline="") as file:
        # picture, face box, then the ten votes
        return [(f"{folder}/{row[0]}", row[2:]) for row in csv.reader(file)]


def read(root, split):
    """Yield an `EmoSample` or a `Skipped` for every record of a split of FER+ in `root` (`Path`).

    Raises:
        `ValueError`: If a row does not hold ten whole numbers of votes.
    """
    for path, cells in tqdm(rows(root, split), desc=f"ferplus {split}", leave=False):
        if len(cells) != len(COLUMNS) or not all(cell.isdecimal() for cell in cells):
            raise ValueError(f"ferplus: {path} in {root} needs ten whole numbers of votes, has {cells}")
        votes = [int(cell) for cell in cells]
        label, reason = decide(votes)
        if label is None:
            yield Skipped(path, reason)
            continue
        try:
            image = read_media(root, path)
        except MediaError as error:
            yield Skipped(path, str(error))
            continue
        emotions = votes[: len(EMOTIONS)]
        yield EmoSample(
            source="ferplus",
            split=split,
            record=path.rsplit("/", 1)[-1].removesuffix(".png"),
            task=TASK,
            images=(image,),
            answer=label,
            licence=LICENCE,
            label_distribution=tuple(count / sum(emotions) for count in emotions),
        )
