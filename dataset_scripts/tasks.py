"""The five EmoBench tasks as data: label sets, questions, metric, sources and version.

- Name: EmoBench (this repository's reconstruction: the questions and the choice of sources are our own design)
- Sources of the label sets:
    - `ferplus`: the eight FER+ emotions, Barsoum et al. 2016, https://arxiv.org/abs/1608.01041
    - `harmeme`: Pramanick et al. 2021, https://arxiv.org/abs/2110.00413; not / somewhat / very harmful, mapped by us
      to no / yes / yes
    - `drawn`: EmoBench-Drawn, ours: four of Ekman's six basic emotions, four everyday goals, and no / yes
- Licence: Apache-2.0 for the questions; each source keeps its own, see its reader
- How to obtain: nothing to download
- Version: 1.0.0 (bump a task's `version` when its labels, questions or drawn pictures change)

Emotion labels are what onlookers perceive in a picture, not what somebody feels.
"""

from dataclasses import dataclass
from hashlib import sha256


NO_YES = ("no", "yes")


@dataclass(frozen=True)
class TaskSpec:
    """One task.

    Args:
        name (`str`): The config's name.
        questions (`tuple[str, ...]`): Paraphrases; `{subject}` stands for the person who is asked about.
        label_sets (`dict[str, tuple[str, ...]]`): Source name to its labels, in the order they are offered.
        open_questions (`tuple[str, ...]`): Paraphrases without options; empty when the task is only asked closed.
        context_name (`str`): What the context is called when it is quoted; `""` for a task without context.
        positive (`str` or `None`): The positive label of a binary task.
        metric (`str`): The score that is reported.
        version (`str`): Version of labels, questions and drawings.
    """

    name: str
    questions: tuple[str, ...]
    label_sets: dict[str, tuple[str, ...]]
    open_questions: tuple[str, ...] = ()
    context_name: str = ""
    positive: str | None = None
    metric: str = "macro_f1"
    version: str = "1.0.0"

    @property
    def sources(self):
        return tuple(self.label_sets)


TASKS = {
    task.name: task
    for task in (
        TaskSpec(
            name="emotion_recognition",
            questions=(
                "How does {subject} feel?",
                "Which emotion does {subject} show?",
                "What is {subject} feeling?",
                "What is the emotion of {subject}?",
            ),
            open_questions=(
                "How does {subject} feel? Answer with one word.",
                "Which emotion does {subject} show? Answer with one word.",
                "In one word, what is {subject} feeling?",
                "Name the emotion of {subject} in one word.",
            ),
            label_sets={
                "drawn": ("happiness", "sadness", "anger", "fear"),
                "ferplus": ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"),
            },
        ),
        TaskSpec(
            name="intent_understanding",
            questions=(
                "What does {subject} want to do?",
                "What is the intent of {subject}?",
                "What is {subject} thinking of doing?",
                "Which wish does {subject} have?",
            ),
            label_sets={"drawn": ("eat", "sleep", "play", "travel")},
        ),
        TaskSpec(
            name="hate_detection",
            questions=(
                "Is this meme hateful or harmful?",
                "Does this meme attack a person or a group?",
                "Taken together, are picture and text hateful or harmful?",
                "Does this meme harm somebody?",
            ),
            label_sets={"drawn": NO_YES, "harmeme": NO_YES},
            context_name="Text on the meme",
            positive="yes",
        ),
        TaskSpec(
            name="humor_detection",
            questions=(
                "Is this clip funny?",
                "Does this clip end with a joke?",
                "Would people laugh at the end of this clip?",
                "Is this clip meant to be humorous?",
            ),
            label_sets={"drawn": NO_YES},
            context_name="Words in the clip",
            positive="yes",
        ),
        TaskSpec(
            name="sarcasm_detection",
            questions=(
                "Is the caption sarcastic?",
                "Does the caption mean the opposite of what it says?",
                "Is the writer of the caption being sarcastic?",
                "Given the picture, is the caption sarcasm?",
            ),
            label_sets={"drawn": NO_YES},
            context_name="Caption",
            positive="yes",
        ),
    )
}


def get_task(name):
    """The `TaskSpec` called `name`; raises a `ValueError` that lists the five names if there is none."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}: choose one of {', '.join(TASKS)}")
    return TASKS[name]


def render_instruction(sample, setting):
    """The whole text of the user's turn.

    The paraphrase is chosen by a hash of the sample's id, so it does not depend on the label, the order or the split.

    Args:
        sample (`EmoSample`): What is asked about.
        setting (`str`): `"closed"` lists the options; `"open"` asks for a word of the model's own.

    Returns:
        `str`: The instruction; the context, if any, is quoted on its first line.
    """
    task = TASKS[sample.task]
    templates = task.questions if setting == "closed" else task.open_questions
    template = templates[int(sha256(sample.id.encode()).hexdigest(), 16) % len(templates)]
    text = template.format(subject=sample.subject)
    if setting == "closed":
        text += f" Answer with one of: {', '.join(sample.choices)}."
    return f'{task.context_name}: "{sample.context}"\n{text}' if sample.context else text


def render_messages(sample, setting):
    """The conversation: all images and the instruction from the user, the bare answer from the assistant."""
    user = [{"type": "image"} for _ in sample.images]
    user.append({"type": "text", "text": render_instruction(sample, setting)})
    return [
        {"role": "user", "content": user},
        {"role": "assistant", "content": [{"type": "text", "text": sample.answer}]},
    ]
