"""What the tests of rationales share: the command in this process, and what it leaves behind."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from loopback_teacher import Asked, LoopbackTeacher, Reply, code_of, right

from evaluation.rationales import __main__ as rationales


KEY = "sk-not-to-be-told"
EMOTION = ("--tasks", "emotion_recognition")


def arguments(dataset, teacher, output, *options):
    named = {"--dataset": dataset, "--teacher": getattr(teacher, "url", teacher), "--output": output}
    return [*(str(part) for pair in named.items() for part in pair), *map(str, options)]


def write(dataset, teacher, output, *options) -> dict:
    rationales.main(rationales.make_parser().parse_args(arguments(dataset, teacher, output, *options)))
    return json.loads((output / "rationales.json").read_text())


def stopped(dataset, teacher, output, *options) -> int | str:
    """What the command exits with."""
    with pytest.raises(SystemExit) as stop:
        write(dataset, teacher, output, *options)
    assert not output.exists()
    return stop.value.code


def stored(output: Path) -> list[dict]:
    return [json.loads(line) for line in Path(f"{output}.responses.jsonl").read_text().splitlines()]


def rows_of(folder: Path, task: str) -> list[dict]:
    """The training rows as they are in the shards, media included."""
    return [row for shard in sorted((folder / task).glob("train-*")) for row in pq.read_table(shard).to_pylist()]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def by_sample(asked: Asked) -> str:
    """Tells samples apart, in first requests."""
    return asked.text + str(hash(tuple(asked.images)))


@contextmanager
def scripted(cases) -> Iterator[tuple[LoopbackTeacher, dict]]:
    """A teacher that treats each sample by a case of its own, in turn; a case replies to both requests."""
    numbers: dict[str, int] = {}

    def script(asked: Asked) -> Reply:
        if asked.number == 1:
            number = numbers.setdefault(by_sample(asked), len(numbers))
        else:
            number = int(re.search(r"case (\d+)", asked.text)[1])
        reply = cases[number](asked) if number < len(cases) else right(asked)
        if asked.number == 1 and reply.text:
            reply.text = reply.text.replace("is seen", f"is seen in case {number}")
        return reply

    with LoopbackTeacher(script) as teacher:
        yield teacher, numbers


def case(first=right, second=right):
    return lambda asked: first(asked) if asked.number == 1 else second(asked)


def says(text: str, **kwargs):
    """Replies with a text, in which CODE and TRUTH are the sample's."""
    return lambda asked: Reply(
        text.replace("CODE", code_of(asked.truth)).replace("TRUTH", asked.truth) if asked.number == 1 else text,
        **kwargs,
    )
