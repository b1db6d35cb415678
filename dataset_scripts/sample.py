"""The types that cross from the readers to the builder: a source, its samples, and what a reader leaves out."""

import json
import math
from dataclasses import dataclass, field
from itertools import chain

from dataset_scripts.tasks import TASKS, get_task


encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


@dataclass(frozen=True)
class Source:
    """What a reader says about its source; the card, the command's messages and the benchmark read it.

    Args:
        name (`str`): Short name, as in `sources.yaml`.
        task (`str`): One of the five tasks; of a source that answers several, the first.
        title (`str`): Its full name.
        paper (`str`): Authors, year and address.
        url (`str`): Where it is published.
        licence (`str`): As stated by the source, for annotations and media.
        licence_tag (`str`): Short tag that every sample bears.
        how_to_obtain (`str`): Where the files are and what folder to give.
        about (`str`): How it was collected and labelled, and its known biases, in a sentence or two.
        published (`dict[str, int]`): Records of each split (`"train"`, `"validation"`, `"test"`) as published.
        clips (`bool`): Whether its records are clips, not pictures.
        offensive (`bool`): Whether it holds hateful or offensive content.
        languages (`tuple[str, ...]`): Codes of the languages of its texts.
    """

    name: str
    task: str
    title: str
    paper: str
    url: str
    licence: str
    licence_tag: str
    how_to_obtain: str
    about: str
    published: dict[str, int]
    clips: bool = False
    offensive: bool = False
    languages: tuple[str, ...] = ("en",)

    @property
    def tasks(self):
        """Names of all tasks that it answers."""
        return tuple(task.name for task in TASKS.values() if self.name in task.sources)


@dataclass(frozen=True)
class EmoSample:
    """One question about one picture or clip.

    Args:
        source (`str`): Name of the source.
        split (`str`): `"train"`, `"validation"` or `"test"`.
        record (`str`): The record's name in its source, unique in the split.
        task (`str`): One of the five tasks.
        answers (`tuple[str, ...]`): Labels, of the task's for this source; one, unless a sample may have several.
        licence (`str`): Short tag.
        images (`tuple[str | bytes, ...]`): Pictures in order: paths below the source's folder, or encoded pictures
            that are computed. Empty for a clip.
        video (`str`): Path of the clip below the source's folder; empty for pictures.
        subject (`str`): Who is asked about.
        context (`str`): Caption, transcript of the clip or text on the meme; empty if there is none.
        turns (`tuple[tuple[str, str], ...]`): Earlier turns of the conversation, speaker and words.
        label_distribution (`tuple[float, ...]`): Share of votes for each label; empty without votes.
        attributes (`dict`): What else the source says, never shown to the model.

    Raises:
        `ValueError`: If a text is none or cannot be written as UTF-8, if the task, the source or an answer is unknown,
            if there is not either a picture or a clip, or if the distribution does not fit the labels.
    """

    source: str
    split: str
    record: str
    task: str
    answers: tuple[str, ...]
    licence: str
    images: tuple[str | bytes, ...] = ()
    video: str = ""
    subject: str = "the person"
    context: str = ""
    turns: tuple[tuple[str, str], ...] = ()
    label_distribution: tuple[float, ...] = ()
    attributes: dict = field(default_factory=dict)

    def __post_init__(self):
        texts = (self.source, self.split, self.record, self.licence, self.video, self.subject, self.context)
        paths = (image for image in self.images if not isinstance(image, bytes))
        try:
            "".join((*texts, *paths, *chain.from_iterable(self.turns), encode_json(self.attributes))).encode()
        except (TypeError, ValueError) as error:  # such as half a surrogate pair, which JSON can spell
            name = self.id.encode(errors="backslashreplace").decode()
            raise ValueError(f"{name}: texts must be Unicode, and attributes JSON, but {error}") from error
        task = get_task(self.task)
        if self.source not in task.sources:
            raise ValueError(f"{self.id}: {self.task} has no source {self.source!r}, only {', '.join(task.sources)}")
        labels, several = self.questions.labels, self.questions.several
        unknown = [answer for answer in self.answers if answer not in labels]
        if unknown:
            raise ValueError(
                f"{self.id}: label {unknown[0]!r} is outside the label set of {self.source}: {', '.join(labels)}"
            )
        if not self.answers or (len(self.answers) > 1 and not several):
            raise ValueError(
                f"{self.id}: {len(self.answers)} labels, but {self.source} has {'some' if several else 'one'} a sample"
            )
        if bool(self.images) == bool(self.video):
            raise ValueError(f"{self.id}: a sample needs either at least one image or a video")
        votes = self.label_distribution
        if votes and not (
            len(votes) == len(labels)
            and all(0 <= share <= 1 for share in votes)
            and (several or math.isclose(sum(votes), 1.0, abs_tol=1e-6))
        ):
            raise ValueError(
                f"{self.id}: label_distribution {votes} must be {len(labels)} shares"
                + ("" if several else " that sum to 1")
                + ", one a label"
            )

    @property
    def id(self):
        return f"{self.source}/{self.split}/{self.record}"

    @property
    def questions(self):
        return get_task(self.task).sources[self.source]

    @property
    def answer(self):
        """The labels as they are written in a conversation."""
        return ", ".join(self.answers)


@dataclass(frozen=True)
class Skipped:
    """A record that a reader leaves out, and why.

    Args:
        record (`str`): Its name.
        reason (`str`): A category that is counted.
        task (`str`): The one that it is left out of, for a source that answers several; empty for all.
    """

    record: str
    reason: str
    task: str = ""
