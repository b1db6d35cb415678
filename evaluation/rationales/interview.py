"""Asking a teacher about many samples at a time."""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from time import monotonic
from weakref import WeakValueDictionary

from tqdm import tqdm

from .checks import KEPT, UNANSWERED, Request, Sample, examine
from .responses import Responses
from .teachers import Endpoint, LocalModel, TeacherError, Unanswered


PAUSE, LONGEST_PAUSE = 2, 60  # seconds; it doubles as long as nothing is answered
PATIENCE = 600  # seconds of such pauses, after which the teacher is taken to be dead
TURNS = 5  # of a sample that was not answered; the later ones come when all others are done
REFUSALS = 16  # in a row, after which it may be the endpoint or the key, not the content
CUT_OFF = 32  # rationales, the first of a run
GRACE = 30  # seconds for the replies that are on their way when it stops


class Interview:
    """
    Asks a teacher about samples, several at a time, and writes down every reply at once.

    Args:
        teacher (`Endpoint` or `LocalModel`): who is asked.
        responses (`Responses`): where the replies go.
        progress (`tqdm`): counts samples.
        done (`Counter`): of samples by what became of them.
    """

    def __init__(self, teacher: Endpoint | LocalModel, responses: Responses, progress: tqdm, done: Counter):
        self.teacher, self.responses, self.progress, self.done = teacher, responses, progress, done
        self.error, self.stopping = "", False
        self.pause, self.resume, self.failing = 0, 0.0, None  # seconds; when it ends; since when nothing is answered
        self.later: list[Sample] = []
        self.refused: dict[str, dict] = {}  # since the last answer; only written when another one follows
        self.answered: Request | None = None
        self.cut_off: int | None = 0  # None when a rationale was not
        self.locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def find(self, request: Request) -> dict | None:
        return self.refused.get(request.key(self.teacher.identity)) or self.responses.find(self.teacher, request)

    async def ask_teacher(self, request: Request) -> dict:
        """Ask; if there is no reply, everybody pauses."""
        asked = monotonic()
        try:
            reply = await self.teacher.ask(request)
        except Unanswered as error:
            now, self.error = monotonic(), str(error)
            self.failing = self.failing or now
            if now - self.failing > PATIENCE:
                raise TeacherError(f"{self.teacher.name} has not answered for {PATIENCE} seconds: {error}") from error
            if asked >= self.resume:  # else others have failed with it
                self.pause = min(2 * self.pause or PAUSE, LONGEST_PAUSE)
                self.resume = now + self.pause
                message = f"{self.teacher.name} does not answer, and is asked again in {self.pause} seconds: {error}"
                self.progress.write(message, file=sys.stderr)
            raise
        self.pause, self.failing = 0, None
        return reply

    def keep_refusals(self) -> None:
        while self.refused:
            self.responses.append(self.refused.popitem()[1])

    async def refuse(self, key: str, reply: dict) -> None:
        """A refusal is final if something else is answered after it."""
        self.refused[key], self.error = reply, reply["refused"]
        if len(self.refused) >= REFUSALS:
            again = await self.ask_teacher(self.answered) if self.answered else reply
            if "refused" in again:
                message = f"{self.teacher.name} refused {len(self.refused)} requests in a row: {self.error}"
                raise TeacherError(message)
            self.keep_refusals()

    async def ask(self, request: Request) -> None:
        """Ask once, however many samples make the same request."""
        key = request.key(self.teacher.identity)
        lock = self.locks.setdefault(key, asyncio.Lock())
        async with lock:
            if self.find(request):
                return
            reply = await self.ask_teacher(request)
            about = {"key": key, "sample": request.sample, "number": request.number}
            reply = about | {"max_tokens": self.teacher.max_tokens} | reply
            if "refused" in reply:
                return await self.refuse(key, reply)
            self.keep_refusals()
            self.responses.append(reply)
            if request.number == 1:
                self.answered = request
                long = self.cut_off is not None and reply["finish_reason"] == "length"
                self.cut_off = self.cut_off + 1 if long else None
                if self.cut_off == CUT_OFF:
                    raise TeacherError(
                        f"the first {CUT_OFF} replies of {self.teacher.name} were all cut off after "
                        f"{self.teacher.max_tokens} tokens: give it more by --max-tokens."
                    )

    def count(self, reason: str) -> None:
        self.done[reason] += 1
        self.progress.update()
        self.progress.set_postfix(kept=self.done[KEPT], dropped=self.done.total() - self.done[KEPT])

    async def work(self, samples: Iterator[Sample]) -> None:
        for sample in samples:
            try:
                while isinstance(step := examine(sample, self.find), Request):
                    while not self.stopping and (wait := self.resume - monotonic()) > 0:
                        await asyncio.sleep(min(wait, 0.5))
                    if self.stopping:
                        return
                    await self.ask(step)
                self.count(step.reason)
            except Unanswered:
                self.later.append(sample)

    async def share(self, samples: Iterator[Sample]) -> None:
        """Among workers, by one iterator, so that few samples are in memory."""
        tasks = [asyncio.create_task(self.work(samples)) for _ in range(self.teacher.workers)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:  # by an error or Ctrl-C, too; a second Ctrl-C does not wait
            self.stopping = any(not task.done() for task in tasks)
            await asyncio.wait(tasks, timeout=GRACE)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def run(self, samples: Iterator[Sample]) -> None:
        async with self.teacher:
            for _ in range(TURNS):
                await self.share(samples)
                samples, self.later = iter(self.later), []
                self.failing = None
        for _ in samples:
            self.count(UNANSWERED)
        if not self.responses:
            raise TeacherError(f"{self.teacher.name} answered nothing: {self.error}")
