"""
Fake copies of EmoBench's thirteen sources: the original folders and annotation files, at the published sizes times
`--scale`, with made-up texts, labels in turn, and tiny pictures and clips of noise. The same arguments give the same
bytes. The trouble that real copies have is planted in every split, and planted.json says how a build must count it.

python -m benchmarks.fake_sources --output DIR --scale 0.01
python -m dataset_scripts.build_emobench --sources DIR/sources.yaml --output BUILT
"""

import argparse
import csv
import io
import itertools
import json
import multiprocessing
import pickle
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial, reduce
from operator import xor
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageChops, ImageOps

from dataset_scripts.readers import READERS
from dataset_scripts.readers.cm_memes import split_of
from dataset_scripts.readers.intentonomy import INTENTS
from dataset_scripts.tasks import TASKS


SMALLEST = 32  # records of a split, whatever the scale
WORDS = (
    "well so now we they never always maybe lunch train dog office rain music great awful late again home you".split()
)
COPIES = ("duplicate of a held-out sample", "near-duplicate of a held-out sample")
REPEATED = ("repeated id", "picture name repeated")
NO_SARCASM = "no label"  # of cm_memes, which has labels of two tasks
PICTURE = ("picture missing", "picture broken or truncated", "picture empty")
CLIP = ("clip missing", "clip broken or truncated", "clip empty")
# What is planted: the last records of every split are to be left out for these reasons, in this order. Those whose
# folders are the annotations cannot miss a picture; an object of JSON cannot repeat an id.
PLANTED = {
    "emoset": (*PICTURE, "repeated id", "attribute file broken"),
    "caers": (*PICTURE[1:], "hidden file", "no PNG"),
    "ferplus": (
        *PICTURE,
        "picture name repeated",
        "no picture name",
        "tie",
        "fewer than 5 of 10 votes for one label",
        "most votes for unknown",
        "most votes for not a face",
    ),
    "meld": (*CLIP, "repeated id"),
    "intentonomy": (
        *PICTURE,
        "repeated id",
        "no intent",
        "annotation without a picture",
        "picture without an annotation",
    ),
    "mintrec": (*CLIP, "repeated id"),
    "hateful_memes": (*PICTURE, "repeated id"),
    "harmeme": (*PICTURE, "repeated id"),
    "cm_memes": (*PICTURE, "repeated id", NO_SARCASM),
    "ur_funny": (*CLIP, "repeated id", "no label", "no words"),
    "humordb": (*PICTURE[1:], "hidden file", "no rating"),
    "mmsd2": (*PICTURE, "repeated id"),
    "mustard": CLIP,
}
FORMS = {
    "caers": "png",
    "ferplus": "grey",
    "hateful_memes": "png",
    "harmeme": "png",
    "cm_memes": "png",
}  # others: JPEG
ALSO = "also in dev_seen"
OVERLAPS = "overlaps a held-out clip"
BASE = {"train": 124, "validation": 109, "test": 0}  # MELD's first dialogue, so that the two broken clips are there
WAVES = np.cos(np.pi / 64 * np.arange(8)[:, None] * (2 * np.arange(32) + 1))
COLOURS = ("white", "khaki", "skyblue", "pink", "palegreen")
SHOWS = {"train": "BBT", "test": "FRIENDS"}
CAERS = dict(
    zip(
        ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
        ("Anger", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise"),
        strict=True,
    )
)


@dataclass
class Record:
    """A record of an annotation file.

    Args:
        number (`int`): Names it; unique in its source, unless the record is a repetition.
        content (`int`): Which picture or clip it has; unique in all sources, unless it is a copy.
        answers (`tuple[str, ...]`): Its labels.
        reason (`str`): Why a build must leave it out; empty if it is fine.
    """

    number: int
    content: int
    answers: tuple[str, ...]
    reason: str = ""


def plan(name: str, scale: float, contents: Iterator[int]) -> dict[str, list[Record]]:
    """The records of a source by split, with the planted trouble but for copies."""
    source, numbers, splits = READERS[name].SOURCE, itertools.count(), {}
    asked = TASKS[source.task].sources[name]
    for split, published in source.published.items():
        size = max(SMALLEST, round(published * scale))
        records = []
        for number in itertools.islice(numbers, size):
            labels = [
                asked.labels[place % len(asked.labels)] for place in (number, 3 * number + 1)[: asked.several + 1]
            ]
            answers = tuple(label for label in asked.labels if label in labels)
            records.append(Record(number, next(contents), answers))
        splits[split] = records
        if (name, split) == ("hateful_memes", "test"):  # published without labels
            for record in records:
                record.reason = "no label"
            continue
        if (name, split) == ("hateful_memes", "validation"):  # both of its files have 400 of its 1,040 records
            shared = round(size * 400 / 1040)
            records[size - shared :] = [replace(record, reason=ALSO) for record in records[:shared]]
            records = records[: size - shared]
        if name == "meld" and split != "test":
            records[{"train": 13, "validation": 17}[split]].reason = "clip known to be broken"
            records[0].reason = OVERLAPS
        reasons = PLANTED[name]
        ordinary = records[-len(reasons) - 1]
        for record, reason in zip(records[-len(reasons) :], reasons, strict=True):
            record.reason = reason
            if reason in REPEATED:
                record.number, record.content, record.answers = ordinary.number, ordinary.content, ordinary.answers
    return splits


def plant_copies(sources: dict[str, dict[str, list[Record]]]) -> None:
    """Give records of each split before the held-out one its pictures: one as it is and one encoded anew."""

    def held_out(name: str) -> list[Record]:
        return sources[name]["validation" if name == "hateful_memes" else "test"]

    for name, splits in sources.items():
        fine = [[record for record in records if not record.reason] for records in splits.values()]
        for place, records in enumerate(fine):
            if not records or records[0] in held_out(name):
                break
            # clips are compared by their bytes only
            reasons = COPIES if PLANTED[name][0] not in CLIP else COPIES[:1]
            for record, reason, original in zip(records[-2:], reasons, held_out(name)[2 * place :], strict=False):
                record.content, record.reason = original.content, reason
    if {"harmeme", "hateful_memes"} <= set(sources):  # and one between sources
        record = [record for record in sources["harmeme"]["train"] if not record.reason][-1]
        record.content, record.reason = held_out("hateful_memes")[4].content, COPIES[0]


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def write_lines(path: Path, rows: list[dict]) -> None:
    write(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_table(path: Path, rows: list[list], **options: str) -> None:
    text = io.StringIO()
    csv.writer(text, **options).writerows(rows)
    write(path, text.getvalue())


# One function a source: it writes the annotation files below `root`, and yields each record, the name that EmoBench
# gives it, and the path of its picture or clip. `words` makes a sentence.
Written = Iterator[tuple[Record, str, str]]


def emoset(root: Path, splits: dict[str, list[Record]], words: Callable[[], str]) -> Written:
    for split, file in {"train": "train.json", "validation": "val.json", "test": "test.json"}.items():
        rows = []
        for record in splits[split]:
            (emotion,) = record.answers
            name = f"{emotion}_{record.number:05d}"
            image, annotation = f"image/{emotion}/{name}.jpg", f"annotation/{emotion}/{name}.json"
            rows.append([emotion, *([name] if split == "train" else []), image, annotation])  # both forms of the list
            found = {"image_id": name, "emotion": emotion, "brightness": 0.4, "scene": words()}
            write(root / annotation, "{" if record.reason == "attribute file broken" else json.dumps(found))
            yield record, name, image
        write(root / file, json.dumps(rows))


def caers(root: Path, splits: dict[str, list[Record]], words: Callable[[], str]) -> Written:
    for split, records in splits.items():
        for record in records:
            name = f"{CAERS[record.answers[0]]}/{'.' * (record.reason == 'hidden file')}{record.number:05d}"
            yield record, name, f"{split}/{name}{'.txt' if record.reason == 'no PNG' else '.png'}"


def ferplus(root: Path, splits: dict[str, list[Record]], words: Callable[[], str]) -> Written:
    emotions = TASKS["emotion_recognition"].sources["ferplus"].labels
    odd = {
        "tie": (5, 5, 0, 0, 0, 0, 0, 0, 0, 0),
        "fewer than 5 of 10 votes for one label": (4, 3, 3, 0, 0, 0, 0, 0, 0, 0),
        "most votes for unknown": (1, 1, 0, 0, 0, 0, 0, 0, 8, 0),
        "most votes for not a face": (1, 1, 0, 0, 0, 0, 0, 0, 0, 8),
    }
    for split, folder in {"train": "FER2013Train", "validation": "FER2013Valid", "test": "FER2013Test"}.items():
        rows = []
        for record in splits[split]:
            name = f"fer{record.number:07d}"
            votes = [0] * 10
            votes[emotions.index(record.answers[0])], votes[8] = 8, 2
            picture = "" if record.reason == "no picture name" else f"{name}.png"
            rows.append([picture, "(0, 0, 48, 48)", *odd.get(record.reason, votes)])
            yield record, name, f"{folder}/{name}.png"
        write_table(root / folder / "label.csv", rows)


def meld(root: Path, splits: dict[str, list[Record]], words: Callable[[], str]) -> Written:
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
    folders = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
    for (split, records), (file, folder) in zip(splits.items(), folders.items(), strict=True):
        rows = [header.split(",")]
        for record in records:
            dialogue, utterance = divmod(record.number - records[0].number, 10)
            dialogue += BASE[split]
            speaker = ("Joey", "Rachel", "All", "The Waiter")[utterance % 4]
            place = splits["test"][0].number if record.reason == OVERLAPS else record.number
            minute, second = divmod(place % 100 * 10, 60)
            times = (
                f"00:{minute:02}:{second:02},256",
                f"0:{minute:02}:{second + 2:02},100",
            )  # hours of 2 and 1 digits
            episode = divmod(place // 100, 24)
            rows.append(
                [len(rows), words(), speaker, *record.answers, "neutral", dialogue, utterance, *episode, *times]
            )
            name = f"dia{dialogue}_utt{utterance}"
            yield record, name, f"{folder}/{name}.mp4"
        write_table(root / f"{file}_sent_emo.csv", rows)


def intentonomy(root: Path, splits: dict[str, list[Record]], words: Callable[[], str]) -> Written:
    labels = TASKS["intent_understanding"].sources["intentonomy"].labels
    for split, file in {"train": "train", "validation": "val", "test": "test"}.items():
        images, annotations = {}, []
        for record in splits[split]:
            name = f"{record.number:032x}"
            chosen = [] if record.reason == "no intent" else [labels.index(answer) for answer in record.answers]
            if record.reason != "annotation without a picture":
                images[name] = {"id": name, "filename": f"low/{name}.jpg"}
            if record.reason != "picture without an annotation":
                shares = [round((intent in chosen) * 2 / 3, 2) for intent in range(len(labels))]
                votes = {"category_ids_softprob": shares} if split == "train" else {"category_ids": chosen}
                annotations.append({"id": len(annotations), "image_id": name, **votes})
            yield record, name, f"low/{name}.jpg"
        categories = [{"id": number, "name": name} for number, name in enumerate(INTENTS)]
        content = {"categories": categories, "images": list(images.values()), "annotations": annotations}
        write(root / "annotations" / f"intentonomy_{file}2020.json", json.dumps(content))


def mintrec(root: Path, splits: dict[str, list[Record]], words: Callable[[], str]) -> Written:
    for split, file in {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}.items():
        rows = [["season", "episode", "clip", "text", "label"]]
        for record in splits[split]:
            place = [f"S{record.number % 3 + 4:02d}", f"E{record.number % 20 + 1:02d}", str(record.number)]
            rows.append([*place, words(), record.answers[0].capitalize()])
            yield record, "_".join(place), f"raw_data/{'/'.join(place)}.mp4"
        write_table(root / file, rows, delimiter="\t", lineterminator="\n")


def hateful_memes(root: Path, splits: dict[str, list[Record]], words: Callable[[], str]) -> Written:
    for split, records in splits.items():
        first = {"train": len(records), "validation": len(records) * 500 // 1040, "test": len(records) // 3}[split]
        names = {"train": ("train",), "validation": ("dev_seen", "dev_unseen"), "test": ("test_seen", "test_unseen")}
        for name, part in zip(names[split], (records[:first], records[first:]), strict=False):
            rows = []
            for record in part:
                row = {"id": record.number, "img": f"img/{record.number:05d}.png", "text": words()}
                label = {} if split == "test" else {"label": int(record.answers == ("yes",))}
                rows.append({**row, **label})
                yield record, str(record.number), row["img"]
            write_lines(root / f"{name}.jsonl", rows)


def harmeme(root: Path, splits: dict[str, list[Record]], words: Callable[[], str]) -> Written:
    harmful = (["somewhat harmful", "individual"], ["very harmful", "organization"])
    for split, file in {"train": "train", "validation": "val", "test": "test"}.items():
        rows = []
        for record in splits[split]:
            name = f"covid_memes_{record.number}"
            labels = harmful[record.number // 2 % 2] if record.answers == ("yes",) else ["not harmful"]
            rows.append({"id": name, "image": f"{name}.png", "labels": labels, "text": words()})
            yield record, name, f"images/{name}.png"
        write_lines(root / "annotations" / f"{file}.jsonl", rows)


def cm_memes(root: Path, splits: dict[str, list[Record]], words: Callable[[], str]) -> Written:
    rows = ["Name,Text,Ground truth reality,Level1,Level2,Valence,Sarcasm".split(",")]
    for split, records in splits.items():
        for record in records:
            # the name decides on the split
            name = next(name for end in itertools.count() if split_of(name := f"meme{record.number}_{end}") == split)
            off, sarcasm = (("off", "sarcasm"), ("non-off", "non-sarcastic"))[record.answers == ("no",)]
            level = "implicit" if off == "off" else off
            sarcasm = "" if record.reason == NO_SARCASM else sarcasm
            rows.append([f"{name}.png", f"{words()} ", words(), off, level, "neutral", sarcasm])
            yield record, name, f"LREC_COLING_meme/{name}.png"
    write_table(root / "sample_data.csv", rows)


def ur_funny(root: Path, splits: dict[str, list[Record]], words: Callable[[], str]) -> Written:
    folds, labels, language = {}, {}, {}
    for split, fold in {"train": "train", "validation": "dev", "test": "test"}.items():
        folds[fold] = [record.number for record in splits[split]]
        for record in splits[split]:
            if record.reason != "no label":
                labels[record.number] = int(record.answers == ("yes",))
            if record.reason != "no words":
                sentences = {"context_sentences": [words(), words()], "punchline_sentence": words()}
                language[record.number] = {**sentences, "root": record.number // 8}
            yield record, str(record.number), f"urfunny2_videos/{record.number}.mp4"
    for name, content in (("data_folds", folds), ("humor_label_sdk", labels), ("language_sdk", language)):
        write(root / f"{name}.pkl", pickle.dumps(content, protocol=2))


def humordb(root: Path, splits: dict[str, list[Record]], words: Callable[[], str]) -> Written:
    shares, ratings, common, originals = [], [], [], []
    for split, folder in {"train": "Train", "validation": "Valid", "test": "Test"}.items():
        for record in splits[split]:
            funny = record.answers == ("yes",)
            name = f"{'.' * (record.reason == 'hidden file')}O{record.number}"
            if record.reason not in ("hidden file", "no rating"):
                shares.append([f"{name}.jpg", 0.8 if funny else 0.2])
                ratings.append([f"{name}.jpg", 6.5])
                common.append([f"{name}.jpg", f" {words()}"])
                originals.append([f"{name}.jpg", f"O{splits[split][0].number}.jpg"])
            yield record, name, f"Dataset/{folder}/{'Funny' if funny else 'Not_Funny'}/{name}.jpg"
    for file, rows in (("binary_ratings_mean.txt", shares), ("range_ratings_mean.txt", ratings)):
        write_table(root / file, rows)
    for file, rows in (("image_common_words.txt", common), ("mod2org.csv", originals)):
        write_table(root / file, rows)


def mmsd2(root: Path, splits: dict[str, list[Record]], words: Callable[[], str]) -> Written:
    for split, file in {"train": "train.json", "validation": "valid.json", "test": "test.json"}.items():
        rows = []
        for record in splits[split]:
            name = 2**59 + 7 * record.number  # exact only as an integer
            rows.append({"image_id": name, "text": words(), "label": int(record.answers == ("yes",))})
            yield record, str(name), f"data/dataset_image/{name}.jpg"
        write(root / "data" / "text_json_final" / file, json.dumps(rows))


def mustard(root: Path, splits: dict[str, list[Record]], words: Callable[[], str]) -> Written:
    rows = {}
    for split, records in splits.items():
        for record in records:
            name, turns = f"{1 if split == 'test' else 2}_{record.number}", [words(), words()]
            said = {
                "utterance": words(),
                "speaker": "PERSON",
                "context": turns,
                "context_speakers": ["JOEY", "PERSON2"],
            }
            rows[name] = {**said, "show": SHOWS[split], "sarcasm": record.answers == ("yes",)}
            yield record, name, f"mmsd_raw_data/utterances_final/{name}.mp4"
            yield replace(record, reason=""), "", f"mmsd_raw_data/context_final/{name}_c.mp4"
    folds = [[number for number in range(len(rows)) if number % 5 == fold] for fold in range(5)]
    content = [(sorted(set(range(len(rows))) - set(tested)), tested) for tested in folds]
    write(root / "data" / "sarcasm_data.json", json.dumps(rows))
    write(root / "data" / "split_indices.p", pickle.dumps(content, protocol=2))


WRITERS = (
    emoset, caers, ferplus, meld, intentonomy, mintrec, hateful_memes, harmeme, cm_memes, ur_funny, humordb, mmsd2,
    mustard,
)  # fmt: skip


def make_waves(content: int) -> Image.Image:
    """
    Grey waves that no other content resembles.

    Which of its lowest 8 x 8 frequencies are strong is a word of a code (BCH, 31 bits, 21 of them free) and the word's
    complement, so the perceptual hashes of any two of 2 million pictures differ in at least 10 bits.
    """
    word = reduce(xor, (0b11101101001 << bit for bit in range(21) if content >> bit & 1), 0)
    signs = np.array([word >> bit & 1 for bit in range(31)]) * 2.0 - 1
    grey = 128 + 11 * (WAVES.T @ np.concatenate([[0], signs, -signs, [0]]).reshape(8, 8) @ WAVES)
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def make_picture(content: int, form: str, picture_bytes: int, again: bool) -> bytes:
    """An encoded picture; `again` gives another version of it, larger and of another quality."""
    picture = make_waves(content)
    if form != "grey":
        picture = ImageOps.colorize(picture, "black", COLOURS[content % len(COLOURS)])
    # with the noise below, a JPEG takes some 0.25 bytes a pixel
    side = round((picture_bytes / 0.25) ** 0.5) if picture_bytes else 48 if form == "grey" else 32
    picture = picture.resize((side * 3 // 2,) * 2 if again else (side, side), Image.Resampling.BICUBIC)
    if picture_bytes:
        grain = make_grain(picture.size, content % 8).convert(picture.mode)
        picture = ImageChops.add(picture, grain, offset=-128)
    buffer = io.BytesIO()
    if form == "jpg" or picture_bytes:
        picture.save(buffer, "JPEG", quality=70 if again else 80)
    else:
        picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@cache
def make_grain(size: tuple[int, int], number: int) -> Image.Image:
    grain = np.random.default_rng(number).normal(128, 10, size[::-1])
    return Image.fromarray(grain.clip(0, 255).astype(np.uint8))


def make_clip(content: int, clip: tuple[int, int, int]) -> bytes:
    """A clip that fades away from a picture of its own."""
    (width, height, frames), buffer = clip, io.BytesIO()
    picture = make_waves(content).resize((width, height), Image.Resampling.BICUBIC)
    white = Image.new("L", (width, height), 255)
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", 25, {"preset": "ultrafast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in range(frames):
            view = Image.blend(picture, white, frame / frames).convert("RGB")
            container.mux(stream.encode(av.VideoFrame.from_image(view)))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def write_media(picture_bytes: int, clip: tuple[int, int, int], jobs: list[tuple[str, str, Record]]) -> None:
    for path, form, record in jobs:
        if form == "mp4":
            data = make_clip(record.content, clip)
        else:
            data = make_picture(record.content, form, picture_bytes, record.reason == COPIES[1])
        if record.reason in (PICTURE[1], CLIP[1]):
            data = data[: len(data) // 2]
        if record.reason in (PICTURE[2], CLIP[2]):
            data = b""
        Path(path).write_bytes(data)


def count(name: str, task: str, records: list[Record]) -> dict:
    """What stats.json must say of these records in a task."""
    asked = TASKS[task].sources[name]
    spared = NO_SARCASM if (name, task) == ("cm_memes", "hate_detection") else ""
    fine = [record for record in records if record.reason in ("", spared)]
    labels = Counter(answer for record in fine for answer in record.answers)
    skipped = Counter(record.reason for record in records if record.reason not in ("", spared))
    return {
        "read": len(records),
        "kept": len(fine),
        "rows": len(fine) * (2 if asked.open else 1),
        "skipped": dict(sorted(skipped.items())),
        "labels": {label: labels[label] for label in asked.labels},
    }


def make_sources(
    root: Path,
    scale: float = 1.0,
    names: tuple[str, ...] = tuple(READERS),
    picture_bytes: int = 0,
    clip: tuple[int, int, int] = (64, 48, 12),
    num_proc: int = 1,
) -> dict:
    """
    Writes fake sources below `root`, and `sources.yaml` and `planted.json` beside them.

    Args:
        root (`Path`): A new folder.
        scale (`float`): Records of a split, as a share of the published ones; 32 at least.
        names (`tuple[str, ...]`): Of the sources.
        picture_bytes (`int`): Average size of a picture, which then is a JPEG whatever its name ends in; 0 for tiny
            ones of the original formats.
        clip (`tuple[int, int, int]`): Width, height and frames of a clip.
        num_proc (`int`): Processes.

    Returns:
        `dict`: What planted.json says: `counts`, task → source → split → what stats.json must say of it, and
        `duplicates`, the samples that a build must remove as copies of held-out pictures, once for each task.
    """
    contents, jobs, duplicates = itertools.count(1), [], []
    sources = {name: plan(name, scale, contents) for name in names}
    plant_copies(sources)
    for writer in WRITERS:
        name = writer.__name__
        if name not in sources:
            continue
        generator = random.Random(name)
        words = lambda generator=generator: " ".join(generator.choices(WORDS, k=generator.randint(4, 16)))  # noqa: E731
        where = {id(record): split for split, records in sources[name].items() for record in records}
        for record, made, path in writer(root / name, sources[name], words):
            if record.reason in COPIES:
                duplicates += [f"{name}/{where[id(record)]}/{made}"] * len(READERS[name].SOURCE.tasks)
            if record.reason not in (PICTURE[0], CLIP[0], ALSO, *REPEATED):
                form = "mp4" if path.endswith(".mp4") else FORMS.get(name, "jpg")
                jobs.append((str(root / name / path), form, record))
    for folder in {Path(path).parent for path, _, _ in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    work = partial(write_media, picture_bytes, clip)
    parts = [jobs[start : start + 500] for start in range(0, len(jobs), 500)]
    if num_proc == 1:
        for part in parts:
            work(part)
    else:
        with multiprocessing.get_context("spawn").Pool(num_proc) as pool:
            pool.map(work, parts, chunksize=1)
    counts = {
        task: {
            name: {split: count(name, task, records) for split, records in splits.items()}
            for name, splits in sources.items()
            if name in asked.sources
        }
        for task, asked in TASKS.items()
        if set(asked.sources) & set(sources)
    }
    planted = {"counts": counts, "duplicates": sorted(duplicates)}
    write(root / "planted.json", json.dumps(planted, indent=1))
    write(root / "sources.yaml", "".join(f"{name}: {name}\n" for name in sources) + "drawn:\n")
    return planted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--names", nargs="+", default=list(READERS), choices=list(READERS), metavar="SOURCE")
    parser.add_argument("--picture-bytes", type=int, default=0, help="make JPEGs of about this size (default: tiny)")
    parser.add_argument("--clip", type=int, nargs=3, default=(64, 48, 12), metavar=("WIDTH", "HEIGHT", "FRAMES"))
    parser.add_argument("--num-proc", type=int, default=2)
    args = parser.parse_args()
    make_sources(args.output, args.scale, tuple(args.names), args.picture_bytes, tuple(args.clip), args.num_proc)


if __name__ == "__main__":
    main()
