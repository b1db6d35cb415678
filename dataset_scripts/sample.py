"""The one type that crosses from the readers to the builder, and the record of what a reader left out."""

import math
from dataclasses import dataclass, field

from dataset_scripts.tasks import get_task


@dataclass(frozen=True)
class EmoSample:
    """One question about one picture or clip.

    Args:
        source (`str`): Name of the source.
        split (`str`): `"train"`, `"validation"` or `"test"`.
        record (`str`): The record's name in its source, unique in the split.
        task (`str`): One of the five tasks.
        images (`tuple[bytes, ...]`): Encoded picture, or the frames of a clip in time order, as the source has them.
        answer (`str`): One of `choices`.
        licence (`str`): Short tag.
        subject (`str`): Who is asked about.
        context (`str`): Caption, transcript or text on the meme; empty if there is none.
        label_distribution (`tuple[float, ...]`): Share of votes for each of `choices`; empty without votes.
        attributes (`dict`): What else the source says, never shown to the model.

    Raises:
        `ValueError`: If the task, the source or the answer is unknown, if there is no image, or if the distribution
            does not fit the labels.
    """

    source: str
    split: str
    record: str
    task: str
    images: tuple[bytes, ...]
    answer: str
    licence: str
    subject: str = "the person"
    context: str = ""
    label_distribution: tuple[float, ...] = ()
    attributes: dict = field(default_factory=dict)

    def __post_init__(self):
        task = get_task(self.task)
        if self.source not in task.label_sets:
            raise ValueError(f"{self.id}: {self.task} has no source {self.source!r}, only {', '.join(task.sources)}")
        if self.answer not in self.choices:
            raise ValueError(
                f"{self.id}: label {self.answer!r} is outside the label set of {self.source}: "
                + ", ".join(self.choices)
            )
        if not self.images:
            raise ValueError(f"{self.id}: a sample needs at least one image")
        votes = self.label_distribution
        if votes and not (len(votes) == len(self.choices) and math.isclose(sum(votes), 1.0, abs_tol=1e-6)):
            raise ValueError(
                f"{self.id}: label_distribution {votes} must be {len(self.choices)} shares that sum to 1, one a label"
            )

    @property
    def id(self):
        return f"{self.source}/{self.split}/{self.record}"

    @property
    def choices(self):
        return get_task(self.task).label_sets[self.source]


@dataclass(frozen=True)
class Skipped:
    """A record that a reader leaves out, and why; `reason` is a category that is counted."""

    record: str
    reason: str
