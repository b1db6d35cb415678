"""The five EmoBench tasks as data: for each source its labels and questions, and the metric and version of the task.

- Name: EmoBench (this repository's reconstruction: the questions and the choice of sources are our own design)
- Sources of the label sets: the papers that each reader's header names; `drawn` is ours. Emotion labels are nouns of
  one spelling (`happiness` for CAER-S's Happy); hate, humor and sarcasm are asked as no / yes; the words for
  Intentonomy's 28 intents are ours, close to its own category names
- Licence: Apache-2.0 for the questions; each source keeps its own, see its reader
- How to obtain: nothing to download
- Version: bump a task's `version` when its labels, questions, drawn pictures or columns change

Emotion labels are what onlookers perceive in a picture, or what it evokes in them, not what somebody feels.
"""

from dataclasses import dataclass
from hashlib import sha256


VERSION = "1.2.0"
SPLITS = ("train", "validation", "test")
NO_YES = ("no", "yes")
TURNS = 6  # of the conversation before a clip, the latest so many are quoted


@dataclass(frozen=True)
class Questions:
    """What is asked about the samples of one source.

    Args:
        labels (`tuple[str, ...]`): The options, in the order they are offered.
        closed (`tuple[str, ...]`): Paraphrases; `{subject}` stands for the person who is asked about.
        open (`tuple[str, ...]`): Paraphrases without options; empty when the task is only asked closed.
        context_name (`str`): What the context is called when it is quoted; `""` for a source without context.
        several (`bool`): Whether a sample may have more than one label.
        groups (`tuple[str, ...]`): Attributes that say which people a sample is about, whose scores are told apart.
    """

    labels: tuple[str, ...]
    closed: tuple[str, ...]
    open: tuple[str, ...] = ()
    context_name: str = ""
    several: bool = False
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskSpec:
    """One task.

    Args:
        name (`str`): The config's name.
        sources (`dict[str, Questions]`): Source name to what is asked.
        positive (`str` or `None`): The positive label of a binary task.
        metric (`str`): The score that is reported.
        version (`str`): Version of labels, questions, drawings and columns.
    """

    name: str
    sources: dict[str, Questions]
    positive: str | None = None
    metric: str = "macro_f1"
    version: str = VERSION


PERSON_CLOSED = (
    "How does {subject} feel?",
    "Which emotion does {subject} show?",
    "What is {subject} feeling?",
    "What is the emotion of {subject}?",
)
PERSON_OPEN = (
    "How does {subject} feel? Answer with one word.",
    "Which emotion does {subject} show? Answer with one word.",
    "In one word, what is {subject} feeling?",
    "Name the emotion of {subject} in one word.",
)
MEME = (
    "Is this meme hateful or harmful?",
    "Does this meme attack a person or a group?",
    "Taken together, are picture and text hateful or harmful?",
    "Does this meme harm somebody?",
)
FUNNY_CLIP = (
    "Is this clip funny?",
    "Does this clip end with a joke?",
    "Would people laugh at the end of this clip?",
    "Is this clip meant to be humorous?",
)
SARCASTIC_CAPTION = (
    "Is the caption sarcastic?",
    "Does the caption mean the opposite of what it says?",
    "Is the writer of the caption being sarcastic?",
    "Given the picture, is the caption sarcasm?",
)
SARCASTIC_MEME = (
    "Is this meme sarcastic?",
    "Does this meme mean the opposite of what it says?",
    "Is the maker of this meme being sarcastic?",
    "Taken together, are picture and text sarcastic?",
)

TASKS = {
    task.name: task
    for task in (
        TaskSpec(
            name="emotion_recognition",
            sources={
                "drawn": Questions(("happiness", "sadness", "anger", "fear"), PERSON_CLOSED, PERSON_OPEN),
                "emoset": Questions(
                    (
                        "amusement",
                        "awe",
                        "contentment",
                        "excitement",
                        "anger",
                        "disgust",
                        "fear",
                        "sadness",
                    ),
                    (
                        "Which emotion does this picture evoke?",
                        "How does this picture make people feel?",
                        "What do people feel when they look at this picture?",
                        "Which feeling does this picture arouse?",
                    ),
                    (
                        "Which emotion does this picture evoke? Answer with one word.",
                        "In one word, how does this picture make people feel?",
                        "What do people feel when they look at this picture? Answer with one word.",
                        "Name the feeling that this picture arouses in one word.",
                    ),
                ),
                "caers": Questions(
                    ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
                    PERSON_CLOSED,
                    PERSON_OPEN,
                ),
                "ferplus": Questions(
                    ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"),
                    PERSON_CLOSED,
                    PERSON_OPEN,
                ),
                "meld": Questions(
                    ("neutral", "joy", "sadness", "anger", "surprise", "fear", "disgust"),
                    PERSON_CLOSED,
                    PERSON_OPEN,
                    context_name="Words in the clip",
                    groups=("speaker",),
                ),
            },
        ),
        TaskSpec(
            name="intent_understanding",
            sources={
                "drawn": Questions(
                    ("eat", "sleep", "play", "travel"),
                    (
                        "What does {subject} want to do?",
                        "What is the intent of {subject}?",
                        "What is {subject} thinking of doing?",
                        "Which wish does {subject} have?",
                    ),
                ),
                "intentonomy": Questions(
                    (
                        "be attractive",
                        "beat others and compete",
                        "communicate",
                        "be creative and unique",
                        "explore and have an exciting life",
                        "have an easy life",
                        "enjoy life",
                        "appreciate fine architecture",
                        "appreciate fine art",
                        "appreciate culture",
                        "be a good parent",
                        "be happy",
                        "work hard",
                        "live in harmony",
                        "be healthy",
                        "be in love",
                        "love animals",
                        "inspire others",
                        "make plans",
                        "appreciate natural beauty",
                        "be passionate about something",
                        "be playful",
                        "share feelings",
                        "have friends and a social life",
                        "succeed in a good job",
                        "teach others",
                        "keep things in order",
                        "do work one likes",
                    ),
                    (
                        "Why would somebody post this picture?",
                        "Which intent is behind this picture?",
                        "What does the person who posted this picture want to express?",
                        "Which human motives does this picture convey?",
                    ),
                    several=True,
                ),
                "mintrec": Questions(
                    (
                        "complain",
                        "praise",
                        "apologise",
                        "thank",
                        "criticize",
                        "care",
                        "agree",
                        "taunt",
                        "flaunt",
                        "joke",
                        "oppose",
                        "comfort",
                        "inform",
                        "advise",
                        "arrange",
                        "introduce",
                        "leave",
                        "prevent",
                        "greet",
                        "ask for help",
                    ),
                    (
                        "What does {subject} intend?",
                        "What is the intent of {subject}?",
                        "What does {subject} want to achieve with these words?",
                        "What is {subject} doing with these words?",
                    ),
                    context_name="Words in the clip",
                ),
            },
        ),
        TaskSpec(
            name="hate_detection",
            sources={
                source: Questions(NO_YES, MEME, context_name="Text on the meme", groups=groups)
                for source, groups in {
                    "drawn": (),
                    "hateful_memes": ("protected_category",),
                    "harmeme": ("target",),
                    "cm_memes": (),
                }.items()
            },
            positive="yes",
        ),
        TaskSpec(
            name="humor_detection",
            sources={
                "drawn": Questions(NO_YES, FUNNY_CLIP, context_name="Words in the clip"),
                "ur_funny": Questions(NO_YES, FUNNY_CLIP, context_name="Words in the clip"),
                "humordb": Questions(
                    NO_YES,
                    (
                        "Is this picture funny?",
                        "Would people laugh at this picture?",
                        "Do people find this picture funny?",
                        "Is there humor in this picture?",
                    ),
                ),
            },
            positive="yes",
        ),
        TaskSpec(
            name="sarcasm_detection",
            sources={
                "drawn": Questions(NO_YES, SARCASTIC_CAPTION, context_name="Caption"),
                "mmsd2": Questions(NO_YES, SARCASTIC_CAPTION, context_name="Caption"),
                "cm_memes": Questions(NO_YES, SARCASTIC_MEME, context_name="Text on the meme"),
                "mustard": Questions(
                    NO_YES,
                    (
                        "Is {subject} being sarcastic?",
                        "Does {subject} mean the opposite of what is said?",
                        "Are the last words of {subject} sarcastic?",
                        "Given the scene, is what {subject} says sarcasm?",
                    ),
                    context_name="Words in the clip",
                ),
            },
            positive="yes",
        ),
    )
}


def get_task(name):
    """The `TaskSpec` called `name`; raises a `ValueError` that lists the five names if there is none."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}: choose one of {', '.join(TASKS)}")
    return TASKS[name]


def settings(sample):
    """`("closed",)`, or `("closed", "open")` where the task is also asked openly."""
    return ("closed", "open") if sample.questions.open else ("closed",)


def render_instruction(sample, setting):
    """The whole text of the user's turn.

    The paraphrase is chosen by a hash of the sample's id: it is the same in every build, process and order.

    Args:
        sample (`EmoSample`): What is asked about.
        setting (`str`): `"closed"` lists the options; `"open"` asks for a word of the model's own.

    Returns:
        `str`: The instruction; earlier turns and the context, if any, are quoted before the question.
    """
    asked = sample.questions
    templates = asked.closed if setting == "closed" else asked.open
    template = templates[int(sha256(sample.id.encode()).hexdigest(), 16) % len(templates)]
    text = template.format(subject=sample.subject)
    if setting == "closed":
        text += f" Answer with {'one or more' if asked.several else 'one'} of: {', '.join(asked.labels)}."
    if sample.context:
        text = f'{asked.context_name}: "{sample.context}"\n{text}'
    if sample.turns:
        quoted = "\n".join(f'{speaker}: "{words}"' for speaker, words in sample.turns[-TURNS:])
        text = f"Earlier:\n{quoted}\n{text}"
    return text


def render_messages(sample, setting, images):
    """The conversation: the clip's frames or the pictures, and the instruction from the user; then the bare answer.

    Args:
        sample (`EmoSample`): What is asked about.
        setting (`str`): `"closed"` or `"open"`.
        images (`int`): How many images the row will have; 0 for a clip that is stored as a video only.
    """
    user = [{"type": "image"} for _ in range(images)] or [{"type": "video"}]
    user.append({"type": "text", "text": render_instruction(sample, setting)})
    return [
        {"role": "user", "content": user},
        {"role": "assistant", "content": [{"type": "text", "text": sample.answer}]},
    ]
