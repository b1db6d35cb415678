"""CM_MEMES reader: memes in a mixture of Hindi and English, asked about twice: offence and sarcasm.

- Name: CM_MEMES (`cm_memes`), the data of CM-Off-Meme
- Dataset: https://github.com/Gitanjali1801/CM_MEMES
- Paper: Kumari et al. 2024, "CM-Off-Meme: Code-Mixed Hindi-English Offensive Meme Detection with Multi-Task Learning
  by Leveraging Contextual Knowledge", LREC-COLING, https://aclanthology.org/2024.lrec-main.300
- Licence: none stated: research only, never redistribute
- How to obtain: clone the repository above; give the clone
- Expected files: `sample_data.csv` and the pictures in `LREC_COLING_meme`, PNG; or, of a copy with smaller pictures,
  `labels.csv` and `images`, JPEG
- Published counts: 1,094 rows of the table have their picture beside it; our split has 764, 119 and 211 of them
- Version: 1.0.0

Level1 answers `hate_detection`, Sarcasm `sarcasm_detection`; a record whose cell is empty is left out of that task
alone. The mapping is ours: "off" is yes, but offence is broader than hate, and much of it here mocks politicians.
Level2 (explicit or implicit) and Valence are kept in `attributes`. Nearly all that is "off" is labelled "sarcasm" too.

The source has no splits; these are ours, by a hash of the record's name: about 70% train, 10% validation and 20% test,
both tasks of a meme in the same one. Memes that are there more than once may straddle them; the builder removes those.
Content warning: offensive memes.
"""

from hashlib import sha256

from dataset_scripts.readers.files import read_table
from dataset_scripts.sample import EmoSample, Skipped, Source


SOURCE = Source(
    name="cm_memes",
    task="hate_detection",
    title="CM_MEMES",
    paper="Kumari et al. 2024, https://aclanthology.org/2024.lrec-main.300",
    url="https://github.com/Gitanjali1801/CM_MEMES",
    licence="none stated: research only, never redistribute",
    licence_tag="none stated (research only)",
    how_to_obtain=(
        "CM_MEMES is at https://github.com/Gitanjali1801/CM_MEMES; give the clone, which holds sample_data.csv and "
        "LREC_COLING_meme"
    ),
    about=(
        "Memes in Hindi, written in Latin letters, and English, many about politicians and film stars of India; text "
        "by OCR; annotators rated offence and sarcasm. Offence is broader than hate, and nearly all that is offensive "
        "is labelled sarcastic too. The splits are ours."
    ),
    published={"train": 764, "validation": 119, "test": 211},
    languages=("en", "hi"),
    offensive=True,
)
# the table of each layout, the folder of its pictures and how their names end
LAYOUTS = {"sample_data.csv": ("LREC_COLING_meme", ".png"), "labels.csv": ("images", ".jpg")}
ANSWERS = {
    "hate_detection": ("Level1", {"non-off": "no", "off": "yes"}),
    "sarcasm_detection": ("Sarcasm", {"non-sarcastic": "no", "sarcasm": "yes"}),
}
TENTHS = (*["train"] * 7, "validation", *["test"] * 2)


def find_table(root):
    """The name of the table in `root` (`Path`); raises a `ValueError` that says how to obtain CM_MEMES if none is."""
    for table in LAYOUTS:
        if (root / table).is_file():
            return table
    raise ValueError(f"{SOURCE.name}: nothing of CM_MEMES in {root}. {SOURCE.how_to_obtain}")


def splits(root):
    """All three splits, which are ours; raises a `ValueError` if `root` (`Path`) has no table."""
    find_table(root)
    return tuple(SOURCE.published)


def split_of(record):
    """The split of a record (`str`), the same on every machine and for either task."""
    return TENTHS[int(sha256(record.encode()).hexdigest(), 16) % len(TENTHS)]


def read(root, split):
    """Yield an `EmoSample` or a `Skipped` of each task for every record of a split of CM_MEMES in `root` (`Path`).

    Raises:
        `ValueError`: If the table is broken or a label is unknown.
    """
    table = find_table(root)
    folder, ending = LAYOUTS[table]
    columns = ("Name", "Text", "Level2", "Valence", *(column for column, _ in ANSWERS.values()))
    for number, row in read_table(SOURCE, root / table, columns):
        record = row["Name"].removesuffix(ending)
        if split_of(record) != split:
            continue
        for task, (column, answers) in ANSWERS.items():
            label = row[column].strip()
            if not label:
                yield Skipped(record, "no label", task)
                continue
            if label not in answers:
                raise ValueError(
                    f"{SOURCE.name}: {root / table} line {number} ({row['Name']}): {column} {label!r} is outside the "
                    f"label set: {', '.join(answers)}"
                )
            yield EmoSample(
                source=SOURCE.name,
                split=split,
                record=record,
                task=task,
                answers=(answers[label],),
                licence=SOURCE.licence_tag,
                images=(f"{folder}/{row['Name']}",),
                context=row["Text"].strip(),
                attributes={"level": row["Level2"], "valence": row["Valence"]},
            )
