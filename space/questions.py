"""What is asked on the page: a task's usual question and labels, what visitors make of them, and drawn examples."""

import io
import re
from dataclasses import dataclass

from PIL import Image

from dataset_scripts.drawn import draw
from dataset_scripts.tasks import TASKS


NAMES = {
    "Emotion": "emotion_recognition",
    "Intent": "intent_understanding",
    "Hate": "hate_detection",
    "Humor": "humor_detection",
    "Sarcasm": "sarcasm_detection",
}
MODES = {"none": None, "answer": "answer", "reason": "reason"}  # of EmoPrompt
LONGEST = 1000  # characters of a text that visitors type
MOST_LABELS = 32


def usual_question(task: str) -> str:
    return TASKS[task].sources["drawn"].closed[0].format(subject="the person")


def usual_labels(task: str) -> str:
    return ", ".join(TASKS[task].sources["drawn"].labels)


def name_words(task: str) -> str:
    """What the words are called that belong to the picture, such as a caption."""
    return next(asked.context_name for asked in TASKS[task].sources.values() if asked.context_name)


def split_labels(text: str) -> list[str]:
    """
    Labels that are separated by commas.

    Raises:
        `ValueError`: in words for visitors, if there is one alone, if there are too many, or one comes twice.
    """
    labels = [label.strip() for label in text.split(",") if label.strip()]
    if len(labels) == 1 or len(labels) > MOST_LABELS or len(set(labels)) < len(labels):
        raise ValueError(
            f"The labels to choose from are {text.strip()!r}: give 2 to {MOST_LABELS} different ones, separated by "
            "commas, or none for an answer in the model's own words."
        )
    return labels


def write_question(task: str, question: str, words: str, labels: list[str]) -> str:
    """
    The whole text, as EmoBench writes it and EmoLLMs are trained with it.

    Raises:
        `ValueError`: in words for visitors, if there is no question, or a text that is too long.
    """
    if not question.strip():
        raise ValueError("There is no question: write one, or choose a task again for its usual one.")
    for name, text in (("question", question), ("words", words), ("labels", ", ".join(labels))):
        if len(text) > LONGEST:
            raise ValueError(f"There are {len(text)} characters of {name}: give at most {LONGEST}.")
        if re.search("[\ud800-\udfff]", text):
            raise ValueError(f"The {name} hold half of a character, such as an emoji that was cut: write it again.")
    text = question.strip()
    if labels:
        text += f" Answer with one of: {', '.join(labels)}."
    return f'{name_words(task)}: "{words.strip()}"\n{text}' if words.strip() else text


@dataclass(frozen=True)
class Example:
    """A sample of EmoBench-Drawn: the pictures, what is asked about them, and its label."""

    name: str
    task: str
    pictures: list[Image.Image]
    question: str
    words: str
    label: str


def draw_examples(seed: int = 0) -> list[Example]:
    """One for each task."""
    examples = []
    for name, task in NAMES.items():
        sample = draw(task, "test", 0, seed)
        pictures = [Image.open(io.BytesIO(image)).convert("RGB") for image in sample.images]
        question = sample.questions.closed[0].format(subject=sample.subject)
        examples.append(Example(name, task, pictures, question, sample.context, sample.answer))
    return examples
