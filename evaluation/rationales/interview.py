"""Asking a teacher about many samples at a time."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from weakref import WeakValueDictionary

from tqdm import tqdm

from .checks import KEPT, UNANSWERED, Request, Sample, examine
from .responses import Responses
from .teachers import Endpoint, LocalModel, TeacherError, Unanswered


FAILURES = 16  # requests in a row, after which the teacher is taken to be dead


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
        self.answered = self.failures = 0
        self.error = ""
        self.locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def find(self, request: Request) -> dict | None:
        return self.responses.get(request.key(self.teacher.identity))

    def fail(self, error: str) -> None:
        self.failures, self.error = self.failures + 1, error
        if self.failures >= FAILURES:
            raise TeacherError(f"{self.teacher.name} failed {self.failures} times in a row: {error}")

    async def ask(self, request: Request) -> None:
        """Ask once, however many samples make the same request."""
        key = request.key(self.teacher.identity)
        lock = self.locks.setdefault(key, asyncio.Lock())
        async with lock:
            if key in self.responses:
                return
            try:
                reply = await self.teacher.ask(request)
            except Unanswered as error:
                self.fail(str(error))
                raise
            reply = {"key": key, "sample": request.sample, "number": request.number} | reply
            # Until something is answered, it may be that the server, not the content, is at fault.
            if "refused" in reply and not self.answered:
                self.responses.hold(reply)
                self.fail(reply["refused"])
                return
            self.answered += "refused" not in reply
            self.failures = 0
            self.responses.append(reply)

    async def work(self, samples: Iterator[Sample]) -> None:
        for sample in samples:
            reason = UNANSWERED
            try:
                while isinstance(step := examine(sample, self.find), Request):
                    await self.ask(step)
                reason = step.reason
            except Unanswered:
                pass
            self.done[reason] += 1
            self.progress.update()
            self.progress.set_postfix(kept=self.done[KEPT], dropped=self.done.total() - self.done[KEPT])

    async def run(self, samples: Iterator[Sample]) -> None:
        try:
            async with self.teacher, asyncio.TaskGroup() as group:
                for _ in range(self.teacher.workers):  # which share the iterator, so that few samples are in memory
                    group.create_task(self.work(samples))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        if not self.responses:
            raise TeacherError(f"{self.teacher.name} answered nothing: {self.error}")
        self.responses.keep()
