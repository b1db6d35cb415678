"""
What a teacher is asked about a sample, and what becomes of its replies.

A first request shows the pictures, the question and the right answer, and asks for the steps that lead there. A second
one shows the steps alone, without the sentences that name the answer, and asks for the answer: where it is another
one, the steps do not lead to it, and are dropped.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from dataset_scripts.media import BROKEN, MediaError, open_picture
from dataset_scripts.tasks import TASKS
from modeling_emollm.emoprompt import guide_messages

from ..parsing import names_answer, parse_answer


KEPT, UNANSWERED = "kept", "unanswered"
EMPTY, CUT, REFUSED = "empty", "cut off", "refused by the endpoint"
CONTRADICTION, ONLY_NAMES = "contradicts the truth", "only names the answer"
MENTIONS = "mentions that it was told"
UNREADABLE, OTHER_LABEL = "second answer unreadable", "second answer is another label"

# with the next line, if the answer is there; of several labels, with the paragraph
ANSWER = {
    several: re.compile(rf"^[^\w\n]*(?:final )?answer[^\w\n]*:\s*{end}", re.IGNORECASE | re.MULTILINE)
    for several, end in {False: ".*$", True: r"(?:.+\n?)*"}.items()
}
# "So the final answer is", "Emotion:"
CONCLUSION = {
    task: re.compile(
        r"\W*(?:(?:so|thus|hence|therefore|overall)\W+)?(?:the )?(?:(?:final|right|correct|best) )?(?:answer|label|"
        rf"{task.split('_')[0]}|antwort|réponse|respuesta|risposta|resposta|ответ)\W*(?::|is\b(?! known| given))",
        re.IGNORECASE,
    )
    for task in TASKS
}
TOLD = re.compile(
    r"\b(?:(?:right|correct|true|known|given|provided|expected) (?:answer|label)|ground[- ]truth|i was (?:told|given)"
    r"|the user (?:says|said|states|stated|tells|told|gives|gave|provides|provided|wants|asks))\b",
    re.IGNORECASE,
)
OPTION = re.compile(r"\boptions?\b", re.IGNORECASE)  # which the open question, answered by the same rationale, lacks
UNCLEAR = re.compile(r"\bunclear\b", re.IGNORECASE)
# after a full stop that ends no number, as those of the steps do
SENTENCE_END = re.compile(r"(?<=[^\d\s][.!?])\s+")


@dataclass(frozen=True)
class Sample:
    """A sample's closed question; `images` are the stored bytes."""

    id: str
    source: str
    task: str
    instruction: str
    choices: list[str]
    answer: str
    answers: list[str]
    images: list[bytes]

    @property
    def several(self) -> bool:
        return TASKS[self.task].sources[self.source].several

    @cached_property
    def digests(self) -> list[str]:
        return [hashlib.sha256(image).hexdigest() for image in self.images]


class Request(NamedTuple):
    """One user's turn, the pictures before the text; `number` is 1 for the rationale, 2 for its check."""

    sample: str
    number: int
    text: str
    images: list[bytes]
    digests: list[str]

    def key(self, teacher: dict) -> str:
        """What it is stored under: `teacher` is what else decides about the reply."""
        return hashlib.sha256(json.dumps([teacher, self.text, self.digests]).encode()).hexdigest()


class Outcome(NamedTuple):
    reason: str
    rationale: str | None = None


def first_request(sample: Sample) -> Request:
    """Asks for the steps from the pictures to the right answer."""
    turn = {"role": "user", "content": sample.instruction}
    guided = guide_messages([turn], emotion_task=sample.task, emotion_mode="reason")[0]["content"]
    text = (
        f"{guided}\n\nThe right answer is known: {sample.answer}. Write the steps that lead to it from what can be "
        "seen and read. Do not mention that it was told, and do not name it, or a word for it, before the last line."
    )
    return Request(sample.id, 1, text, sample.images, sample.digests)


def second_request(sample: Sample, notes: str) -> Request:
    """Asks for the answer, from the notes alone."""
    question = TASKS[sample.task].sources[sample.source].closed[0].format(subject="the person in question")
    text = (
        f"Notes of somebody who saw a {'clip' if len(sample.images) > 1 else 'picture'}:\n{notes}\n\n{question} Judge "
        f"by the notes alone. Write one line, 'Answer: ' and {'one or more' if sample.several else 'one'} of: "
        f"{', '.join(sample.choices)}, or unclear."
    )
    return Request(sample.id, 2, text, [], [])


def split_sentences(text: str) -> list[list[str]]:
    """Line by line."""
    return [SENTENCE_END.split(line.strip()) for line in text.splitlines()]


def leave_out(text: str, unwanted: Callable[[str], bool]) -> str:
    """The text without some of its sentences, and without lines that consist of them."""
    lines = [[sentence for sentence in line if not unwanted(sentence)] for line in split_sentences(text)]
    return "\n".join(" ".join(line) for line in lines if line).strip()


def withhold_answer(rationale: str, sample: Sample) -> str:
    """
    The rationale without headings and the sentences that name the answer, or all other labels of more than two; empty
    if nothing else is said.
    """
    others = [[label] for label in sample.choices if label not in sample.answers]

    def unwanted(sentence: str) -> bool:
        plain = re.sub(r"[*_]", "", sentence)  # "**ang**ry"
        ending = re.split(r"\w", plain)[-1]
        heading = ":" in ending or ending == plain  # or no words at all

        def names(answers: list[str]) -> bool:
            return names_answer(plain, sample.choices, answers, sample.task)

        return heading or names(sample.answers) or len(sample.choices) > 2 and all(map(names, others))

    return leave_out(rationale, unwanted)


def trouble_of(reply: dict) -> str | None:
    """Why a reply can't be read, if so."""
    if "refused" in reply or reply["finish_reason"] == "content_filter":
        return REFUSED
    return CUT if reply["finish_reason"] == "length" else None


def trouble_with(sample: Sample) -> str | None:
    """Why a sample can't be asked about, if its pictures' heads say so."""
    for image in sample.images:
        try:
            open_picture(io.BytesIO(image)).close()
        except MediaError as error:
            return str(error)
        except BROKEN:
            return "picture broken or truncated"
    return None


def examine(sample: Sample, find: Callable[[Request], dict | None]) -> Request | Outcome:
    """
    How far a sample has come.

    Args:
        sample (`Sample`): what is asked about.
        find (`Callable[[Request], dict | None]`): the stored reply to a request, if there is one.

    Returns:
        `Request` or `Outcome`: what has to be asked next, or what the replies make of the sample.
    """

    def labels(text: str) -> list[str]:
        return parse_answer(text, sample.choices, sample.task, sample.several)

    request = first_request(sample)
    if (reply := find(request)) is None:
        trouble = trouble_with(sample)
        return Outcome(trouble) if trouble else request
    if trouble := trouble_of(reply):
        return Outcome(trouble)
    steps = ANSWER[sample.several].sub("", reply["text"])
    concludes = CONCLUSION[sample.task].match
    conclusions = {sentence for line in split_sentences(steps) for sentence in line if concludes(sentence)}
    conclusions = {sentence: labels(sentence) for sentence in conclusions}
    for named in [*map(labels, ANSWER[sample.several].findall(reply["text"])), *conclusions.values()]:
        if named and set(named) != set(sample.answers):
            return Outcome(CONTRADICTION)
    rationale = leave_out(steps, lambda sentence: bool(conclusions.get(sentence) or OPTION.search(sentence)))
    if not rationale:
        return Outcome(EMPTY)
    if TOLD.search(rationale):
        return Outcome(MENTIONS)
    notes = withhold_answer(rationale, sample)
    if not notes:
        return Outcome(ONLY_NAMES)

    request = second_request(sample, notes)
    if (reply := find(request)) is None:
        return request
    if trouble := trouble_of(reply):
        return Outcome(trouble)
    named = labels(reply["text"])
    if not named or UNCLEAR.search(re.split(r"answer\W*:", reply["text"], flags=re.IGNORECASE)[-1]):
        return Outcome(UNREADABLE)
    return Outcome(KEPT, rationale) if set(named) == set(sample.answers) else Outcome(OTHER_LABEL)
