"""Answers of a model behind an OpenAI-compatible endpoint, which generates all of them."""

import asyncio
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from modeling_emollm.emoprompt import guide_messages

from .pictures import PictureError
from .rationales.checks import Request
from .rationales.teachers import Endpoint, TeacherError, Unanswered
from .rows import ASKED, COPIED, Batch, Question
from .scoring import answer_record, ask, decode_pictures, read_text


REFUSALS = 16  # in a row, after which it may be the endpoint or the key, not the content
FAILURES = 4  # of each worker in a row, each after all retries


def encode_pictures(stored: list[dict], given: str) -> list[bytes]:
    """The pictures' files as they are, or grey ones; raises a `PictureError` for one that can't be decoded."""
    pictures = decode_pictures(stored, given)
    if given != "text":
        return [image["bytes"] or Path(image["path"]).read_bytes() for image in stored]
    files = [io.BytesIO() for _ in pictures]
    for picture, file in zip(pictures, files, strict=True):
        picture.save(file, "PNG")
    return [file.getvalue() for file in files]


def make_request(row: dict, images: list[bytes], question: Question, given: str) -> Request:
    """EmoPrompt is written into the question, as the template is out of reach."""
    turns = ask(row, given != "picture")
    if question.emoprompt:
        turns = guide_messages(turns, emotion_task=row["task"], emotion_mode=question.emoprompt)
    text = "\n".join(item["text"] for turn in turns for item in turn["content"] if item["type"] == "text")
    return Request(row["id"], 1, text, images, [])


class Asking:
    """
    Asks an endpoint, several questions at a time.

    Args:
        endpoint (`Endpoint`): who is asked.
        keep (`Callable`): is given each record of the predictions file at once.
        given (`str`): `"all"`, `"text"` or `"picture"`.
        answered (`bool`): whether it has answered anything before.
    """

    def __init__(self, endpoint: Endpoint, keep: Callable[[dict], None], given: str, answered: bool):
        self.endpoint, self.keep, self.given, self.answered = endpoint, keep, given, answered
        self.known: Request | None = None  # one that was answered
        self.refused: list[dict] = []  # since the last answer; final only beside answers
        self.unanswered, self.failing, self.error = 0, 0, ""  # the second one in a row

    def questions(self, batches: list[Batch]) -> Iterator[tuple[dict, Question, list[bytes]]]:
        for batch in batches:
            texts = batch.rows.select_columns([*COPIED, *ASKED])
            for places in batch.places:
                try:
                    images = encode_pictures(batch.rows[places[0]]["images"], self.given)
                except PictureError as error:
                    for place, question in zip(places, batch.questions, strict=True):
                        self.keep(answer_record(texts[place], question, self.given, error=str(error)))
                    continue
                for place, question in zip(places, batch.questions, strict=True):
                    yield texts[place], question, images

    def keep_refused(self) -> None:
        while self.refused:
            self.keep(self.refused.pop())

    async def work(self, questions: Iterator[tuple[dict, Question, list[bytes]]]) -> None:
        for row, question, images in questions:
            start = time.perf_counter()
            request = make_request(row, images, question, self.given)
            try:
                reply = await self.endpoint.ask(request)
            except Unanswered as error:
                self.unanswered, self.failing, self.error = self.unanswered + 1, self.failing + 1, str(error)
                if self.failing >= FAILURES * self.endpoint.workers:
                    raise TeacherError(f"{self.endpoint.name} does not answer: {error}") from error
                continue
            self.failing = 0
            if "refused" in reply:
                self.error = reply["refused"]
                self.refused.append(answer_record(row, question, self.given, error="refused by the endpoint"))
                if len(self.refused) >= REFUSALS:
                    again = await self.endpoint.ask(self.known) if self.known else reply
                    if "refused" in again:
                        raise TeacherError(f"{self.endpoint.name} refused {REFUSALS} in a row: {again['refused']}")
                    self.keep_refused()
                continue
            self.known = request
            self.answered = True
            self.keep_refused()
            seconds = time.perf_counter() - start
            read = read_text(reply["text"], row, question.emoprompt)
            self.keep(answer_record(row, question, self.given, seconds=seconds, **read))

    async def run(self, batches: list[Batch]) -> None:
        """
        Raises:
            `TeacherError`: if the endpoint answers nobody. What it has answered is kept.
        """
        questions = self.questions(batches)
        try:
            async with self.endpoint, asyncio.TaskGroup() as group:
                for _ in range(self.endpoint.workers):
                    group.create_task(self.work(questions))
        except ExceptionGroup as errors:  # of a worker; the others were cancelled then
            raise errors.exceptions[0] from errors
        if self.answered:
            self.keep_refused()
        elif self.refused or self.unanswered:
            raise TeacherError(f"{self.endpoint.name} answered nothing: {self.error}")
