"""Rationales by a teacher: what it is asked, what is kept, and that no reply is lost or paid twice."""

import asyncio
import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import openai
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from datasets.info import DatasetInfosDict
from filelock import FileLock
from huggingface_hub import DatasetCard
from loopback_teacher import Asked, LoopbackTeacher, Reply, code_of, right
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.fake_sources import make_sources
from dataset_scripts import publish_emobench
from dataset_scripts.manifest import verify
from dataset_scripts.pipeline import build
from dataset_scripts.tasks import TASKS
from evaluation import run
from evaluation.rationales import __main__ as rationales
from evaluation.rationales import checks, interview, teachers
from evaluation.rationales import dataset as rationale_dataset
from modeling_emollm.emoprompt import encode_chats, guide_messages


ROOT = Path(__file__).parents[1]
KEY = "sk-not-to-be-told"
EMOTION = ("--tasks", "emotion_recognition")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short waits before a request is repeated, and a key."""
    monkeypatch.setattr(interview, "PAUSE", 0.01)
    monkeypatch.setattr(interview, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr(openai._base_client, "MAX_RETRY_DELAY", 0.02)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


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


@pytest.fixture(scope="module")
def finished(drawn_dataset, tmp_path_factory):
    """A run over all tasks with a teacher who is right."""
    output = tmp_path_factory.mktemp("finished") / "reasons"
    with LoopbackTeacher() as teacher:
        write(drawn_dataset, teacher, output)
    return output, teacher.asked


# what is asked and written


def test_rationales_are_in_the_training_rows_and_nothing_else_changes(finished, drawn_dataset, tmp_path):
    output, _ = finished
    assert verify(output) == []
    for task in ("emotion_recognition", "humor_detection"):
        before, after = rows_of(drawn_dataset, task), rows_of(output, task)
        for old, new in zip(before, after, strict=True):
            assert old | {"rationale": None} == new | {"rationale": None} and old["rationale"] is None
            assert new["rationale"] == (
                f"1. Cues: a {code_of(new['answer'])} is seen.\n2. All of it is {new['answer']}."
            )
    assert {row["setting"] for row in rows_of(output, "emotion_recognition")} == {"closed", "open"}
    loaded = load_dataset(str(output), "emotion_recognition", cache_dir=str(tmp_path))
    assert loaded["train"].features == load_dataset(str(drawn_dataset), "emotion_recognition")["train"].features
    assert all(loaded["train"]["rationale"]) and not any(loaded["test"]["rationale"])
    copied = [path for path in content(drawn_dataset) if "/" in path and "/train-" not in path]
    assert len(copied) == 11 and all(
        (output / path).read_bytes() == (drawn_dataset / path).read_bytes() for path in copied
    )
    before, after = (
        DatasetInfosDict.from_dataset_card_data(DatasetCard.load(folder / "README.md").data)["hate_detection"]
        for folder in (drawn_dataset, output)
    )
    words = sum(len(row["rationale"]) for row in rows_of(output, "hate_detection"))
    assert after.splits["train"].num_bytes - before.splits["train"].num_bytes == pytest.approx(words, abs=200)
    assert after.dataset_size == sum(split.num_bytes for split in after.splits.values())
    assert after.download_size == sum(path.stat().st_size for path in (output / "hate_detection").iterdir())
    # as large as the build's, so that pictures of two rows are stored once
    shard = "emotion_recognition/train-00000-of-00001.parquet"
    assert (output / shard).stat().st_size < (drawn_dataset / shard).stat().st_size + 4000


def test_the_teacher_is_shown_the_truth_and_then_the_notes_alone(finished, drawn_dataset):
    _, asked = finished
    pictures = Counter()
    for row in [row for task in TASKS for row in rows_of(drawn_dataset, task) if row["setting"] == "closed"]:
        question = {"role": "user", "content": row["instruction"]}
        guided = guide_messages([question], emotion_task=row["task"], emotion_mode="reason")[0]["content"]
        text = (
            f"{guided}\n\nThe right answer is known: {row['answer']}. Write the steps that lead to it from what can "
            "be seen and read. Do not mention that it was told, and do not name it, or a word for it, before the last "
            "line."
        )
        pictures[text, tuple(image["bytes"] for image in row["images"])] += 1
    first = [one for one in asked if one.number == 1]
    assert Counter((one.text, tuple(one.images)) for one in first) == pictures and len(first) == 80
    assert {kind for one in first for kind in one.kinds} == {"data:image/jpeg"}
    assert all(one.body["temperature"] == 0 and one.body["model"] == "wise" for one in asked)
    second = [one for one in asked if one.number == 2]
    assert not any(one.images for one in second)
    assert (
        f"Notes of somebody who saw a picture:\n1. Cues: a {code_of('anger')} is seen.\n\nHow does the person in "
        "question feel? Judge by the notes alone. Write one line, 'Answer: ' and one of: happiness, sadness, anger, "
        "fear, or unclear."
    ) in [one.text for one in second]
    assert any("saw a clip:" in one.text for one in second)
    # several samples have the same notes, which are judged once
    assert len({one.text for one in second}) == len(second)


def test_everything_is_reported(finished, capsys, drawn_dataset, tmp_path):
    output, asked = finished
    facts = json.loads((output / "rationales.json").read_text())
    assert facts["teacher"] == "wise" and facts["input_tokens"] == 100 * len(asked)
    assert facts["configs"]["hate_detection"] == {"drawn": {"asked": 16, "kept": 16, "dropped": {}}}
    assert json.loads((output / "stats.json").read_text())["rationales"] == facts
    card = (output / "README.md").read_text()
    assert "## Rationales" in card and "`wise`" in card and "| hate_detection | drawn | 16 | 16 | – |" in card
    assert "## Rationales" not in (drawn_dataset / "README.md").read_text()
    (tmp_path / "stage").mkdir()
    stats = publish_emobench.read_stats(output)
    publish_emobench.stage(output, stats, tmp_path / "stage", "user/name", media=False, gated=False)
    assert verify(tmp_path / "stage") == [] and "`wise`" in (tmp_path / "stage" / "README.md").read_text()
    loaded = load_dataset(str(tmp_path / "stage"), "hate_detection", split="train", cache_dir=str(tmp_path / "cache"))
    assert all(loaded["rationale"])


def other(asked: Asked) -> Reply:
    return Reply(f"Answer: {next(x for x in ('fear', 'anger') if code_of(x) not in asked.text)}")


def contradict(asked: Asked) -> Reply:
    return Reply(f"A {code_of(asked.truth)} is seen.\nFinal answer:\n{'anger' if asked.truth == 'fear' else 'fear'}")


def case(first=right, second=right):
    return lambda asked: first(asked) if asked.number == 1 else second(asked)


def says(text: str, **kwargs):
    """Replies with a text, in which CODE and TRUTH are the sample's."""
    return lambda asked: Reply(
        text.replace("CODE", code_of(asked.truth)).replace("TRUTH", asked.truth) if asked.number == 1 else text,
        **kwargs,
    )


CASES = [
    (case(lambda asked: Reply("not this", status=400)), "refused by the endpoint"),
    (case(second=lambda asked: Reply("nor this", status=403)), "refused by the endpoint"),
    (case(), "kept"),
    (case(says("A CODE is seen.")), "kept"),  # no last line
    (case(says("<think>TRUTH it is, they say</think>A CODE is seen.\ud83d\n**Answer**: TRUTH")), "kept"),
    (case(second=says("I think.\nAnswer: happiness or fear")), "second answer unreadable"),
    (case(second=says("I can't tell.")), "second answer unreadable"),
    (case(second=other), "second answer is another label"),
    (case(says("A CODE is seen.\nAnswer: pride, no, contempt", finish_reason="length")), "cut off"),
    (case(second=says("Answer: ", finish_reason="length")), "cut off"),
    (case(contradict), "contradicts the truth"),
    (case(says("Answer: TRUTH")), "empty"),
    (case(lambda asked: Reply(None)), "empty"),
    (case(says("It is TRUTH.\nAnswer: TRUTH")), "only names the answer"),
    (case(says("**Cues:**\n1. It is TRUTH.\n\nAnswer: TRUTH")), "only names the answer"),
    (case(says("A CODE", finish_reason="content_filter")), "refused by the endpoint"),
]  # fmt: skip


def test_what_is_kept_and_why_the_rest_is_dropped(drawn_dataset, tmp_path, capsys):
    output = tmp_path / "reasons"
    with scripted([reply for reply, _ in CASES]) as (teacher, numbers):
        facts = write(drawn_dataset, teacher, output, *EMOTION)
        expected = Counter(reason for _, reason in CASES) + Counter(kept=16 - len(CASES))
        found = facts["configs"]["emotion_recognition"]["drawn"]
        assert found == {"asked": 16, "kept": expected.pop("kept"), "dropped": dict(sorted(expected.items()))}
        asked = len(teacher.asked)
        write(drawn_dataset, teacher, output, *EMOTION)
        assert len(teacher.asked) == asked, "what was refused is not asked again"
    dropped = ", ".join(f"{number} {reason}" for reason, number in sorted(expected.items()))
    assert f"emotion_recognition/drawn: 16 samples, 3 kept, {dropped}" in capsys.readouterr().out
    assert f"| 3 | {dropped.replace(',', ';')} |" in (output / "README.md").read_text()
    rows = [row for row in rows_of(output, "emotion_recognition") if row["rationale"]]
    assert len(rows) == 2 * 3
    texts = {row["rationale"].replace(code_of(row["answer"]), "CODE") for row in rows}
    assert {"A CODE is seen in case 3.", "A CODE is seen in case 4.?"} < texts
    assert Counter(row["id"].split("#")[0] for row in rows).most_common()[-1][1] == 2


def judge(
    first: str, second: str = "Answer: sadness", answers=("sadness",), task="emotion_recognition", source="drawn"
) -> tuple[str, str | None, str]:
    """What becomes of two replies, the rationale that is stored, and the second request."""
    choices = list(TASKS[task].sources[source].labels)
    sample = checks.Sample("x", source, task, "What is it?", choices, ", ".join(answers), list(answers), [])
    asked = []

    def find(request: checks.Request) -> dict:
        asked.append(request.text)
        return {"text": first if request.number == 1 else second, "finish_reason": "stop"}

    return *checks.examine(sample, find), asked[-1]


@pytest.mark.parametrize(
    "conclusion",
    ["The answer is: LABEL.", "**The final answer is LABEL.**", "Emotion: LABEL", "So, the best label is LABEL."]
    + ["Antwort: LABEL", "Final answer:\nLABEL", "It rains. The correct answer is LABEL."],
)
def test_conclusions_are_checked_and_left_out(conclusion):
    text = f"1. Cues: tears are seen.\n{conclusion}\nAnswer: sadness"
    assert judge(text.replace("LABEL", "fear"))[0] == "contradicts the truth"
    reason, rationale, _ = judge(text.replace("LABEL", "sadness"))
    assert reason == "kept" and rationale == "1. Cues: tears are seen." + "\nIt rains." * ("It rains" in conclusion)


def test_headings_are_no_conclusions():
    text = "Emotion: the brows are raised.\nThe answer is in the eyes."
    assert judge(text)[:2] == ("kept", text)


@pytest.mark.parametrize(
    "said",
    ["The user says that it is sadness.", "Since I was given the correct answer, I work backwards.", "I was told so."]
    + [
        "The right answer is known: sadness.",
        "This fits the **ground truth**.",
        "It is consistent with the given label",
    ],
)
def test_a_teacher_that_says_that_it_was_told_is_dropped(said):
    assert judge(f"1. Cues: tears are seen.\n{said}\nAnswer: sadness")[0] == "mentions that it was told"
    assert judge("1. Cues: I am told by tears, right? The user cries.\nAnswer: sadness")[0] == "kept"


def test_an_unclear_second_answer_is_not_taken():
    for second in (
        "Answer: unclear, perhaps sadness",
        "Unclear; maybe sadness.",
        "Answer: fear\nAnswer: sadness (unclear)",
    ):
        assert judge("Tears are seen.", second)[0] == "second answer unreadable"
    assert judge("Tears are seen.", "The place is unclear.\nAnswer: sadness")[0] == "kept"


@pytest.mark.parametrize("said", ["It is **sad**ness.", "A s_ad_ face.", "Not happiness, not anger, not fear."])
def test_sentences_that_give_the_answer_away_are_withheld(said):
    reason, rationale, asked = judge(f"Tears are seen. {said}")
    assert reason == "kept" and said in rationale and ":\nTears are seen.\n\n" in asked


def test_the_rationale_does_not_speak_of_the_closed_questions_options():
    assert judge("Tears are seen. Of the four options, this fits best.")[:2] == ("kept", "Tears are seen.")
    assert judge("This option fits.")[0] == "empty"


def test_several_labels_below_each_other_are_read():
    answers = ("be attractive", "be happy")
    several = judge("A dog.\nAnswer:\n\n- LABELS".replace("LABELS", "\n- ".join(answers)),
                    "Answer: " + ", ".join(answers), answers, "intent_understanding", "intentonomy")  # fmt: skip
    assert several[:2] == ("kept", "A dog.")


@pytest.mark.parametrize("text", ["\n" * 40_000, ":" * 40_000 + "x", "answer" + "\n" * 40_000])
def test_degenerate_replies_take_no_time(text):
    start = time.monotonic()
    checks.withhold_answer(text, checks.Sample("", "drawn", "hate_detection", "", ["no", "yes"], "no", ["no"], []))
    checks.ANSWER[True].sub("", text)
    checks.ANSWER[False].sub("", text)
    assert time.monotonic() - start < 3


def test_samples_with_several_labels(tmp_path):
    make_sources(tmp_path, 0.0, ("intentonomy",))
    build({"intentonomy": str(tmp_path / "intentonomy")}, tmp_path / "build")
    several = {row["answer"] for row in rows_of(tmp_path / "build", "intent_understanding") if len(row["answers"]) > 1}
    assert several

    def script(asked: Asked) -> Reply:
        reply = right(asked)
        return reply if asked.number == 1 else Reply(reply.text.split(", ")[0])

    for teacher, name in ((right, "all"), (script, "first")):
        with LoopbackTeacher(teacher) as teacher:
            facts = write(tmp_path / "build", teacher, tmp_path / name)
            assert all("one or more of: be attractive" in a.text for a in teacher.asked if a.number == 2)
            assert {asked.truth for asked in teacher.asked if asked.number == 1} >= several
        (found,) = facts["configs"]["intent_understanding"].values()
        rows = rows_of(tmp_path / name, "intent_understanding")
        assert found["asked"] == len(rows)
        kept = {row["answer"] for row in rows if row["rationale"]}
        assert kept == {row["answer"] for row in rows} - (several if name == "first" else set())


@pytest.mark.parametrize(("form", "kind"), [("PNG", "png"), ("JPEG", "jpeg"), ("MPO", "jpeg"), ("WEBP", "webp")])
def test_pictures_are_sent_with_their_type(form, kind):
    file, picture = io.BytesIO(), Image.new("RGB", (8, 8))
    picture.save(file, form, **({"save_all": True, "append_images": [picture]} if form == "MPO" else {}))
    head, _, data = teachers.data_url(file.getvalue()).partition(",")
    assert head == f"data:image/{kind};base64" and base64.b64decode(data) == file.getvalue()


# an endpoint that misbehaves


def test_troubles_that_pass_are_waited_for(drawn_dataset, tmp_path):
    troubles = [
        Reply(delay=4.5),
        Reply("slow down", status=429, headers={"Retry-After": "1"}),
        Reply("oh", status=500),
        Reply("busy", status=503),
        Reply(body=b'{"choices": [{"mess'),
        Reply(body=b"<html>", headers={"Content-Type": "text/html"}),
        Reply(body=b'{"error": {"message": "overloaded"}}'),
        Reply(body=b'{"choices": [{"message": {"content": ["x"]}}]}'),
        Reply(body=b"[]"),
    ]

    def once(trouble):
        return lambda asked: trouble if asked.number == 1 and asked.attempt == 1 else right(asked)

    with scripted([once(trouble) for trouble in troubles]) as (teacher, numbers):
        facts = write(drawn_dataset, teacher, tmp_path / "reasons", *EMOTION, "--timeout", 3)
    assert facts["configs"]["emotion_recognition"]["drawn"]["kept"] == 16
    times = {number: [a.time for a in teacher.asked if a.number == 1 and by_sample(a) == sample]
             for sample, number in numbers.items()}  # fmt: skip
    assert [len(times[number]) for number in range(16)] == [2] * len(troubles) + [1] * (16 - len(troubles))
    assert times[1][1] - times[1][0] >= 1, "Retry-After"
    assert times[0][1] - times[0][0] > 2.9, "--timeout"


def test_troubles_that_stay_are_counted_and_asked_again(drawn_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(teachers, "RETRIES", 0)
    monkeypatch.setattr(interview, "TURNS", 2)
    troubles = [
        Reply(delay=1.5),
        Reply("oh", status=500),
        Reply(body=b"{"),
        Reply("slow down", status=429),
        Reply("later", status=429, headers={"Retry-After": "100000"}),
    ]
    output = tmp_path / "reasons"
    cases = [lambda asked, trouble=trouble: trouble for trouble in troubles]
    with scripted(cases) as (teacher, numbers):
        facts = write(drawn_dataset, teacher, output, *EMOTION, "--timeout", 1)
    assert facts["configs"]["emotion_recognition"]["drawn"] == {"asked": 16, "kept": 11, "dropped": {"unanswered": 5}}
    assert max(asked.attempt for asked in teacher.asked) == interview.TURNS
    assert "5 samples were not answered; the same command again" in capsys.readouterr().out
    with LoopbackTeacher() as teacher:
        facts = write(drawn_dataset, teacher, output, *EMOTION)
    assert facts["configs"]["emotion_recognition"]["drawn"] == {"asked": 16, "kept": 16, "dropped": {}}
    assert {numbers[by_sample(asked)] for asked in teacher.asked if asked.number == 1} == set(range(5))


@pytest.mark.parametrize("concurrency", [1, 8])
def test_an_outage_is_waited_for_and_loses_no_sample(concurrency, drawn_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(teachers, "RETRIES", 0)
    monkeypatch.setattr(interview, "PAUSE", 0.1)
    monkeypatch.setattr(interview, "LONGEST_PAUSE", 0.5)
    ends = []

    def script(asked: Asked) -> Reply:
        if asked.place == 10:
            ends.append(asked.time + 1)
        return Reply("down", status=503) if ends and asked.time < ends[0] else right(asked)

    with LoopbackTeacher(script) as teacher:
        facts = write(drawn_dataset, teacher, tmp_path / "out", *EMOTION, "--concurrency", concurrency)
    assert facts["configs"]["emotion_recognition"]["drawn"]["kept"] == 16
    assert sum(asked.place >= 10 and asked.time < ends[0] for asked in teacher.asked) <= 6 * concurrency
    shown = capsys.readouterr().err
    waits = [
        float(wait) for wait in re.findall(r"wise does not answer, .* asked again in (\S+) seconds: .*down", shown)
    ]
    assert 0.2 in waits and {*waits} <= {0.1, 0.2, 0.4, 0.5} and len(waits) < 10


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "set OPENAI_API_KEY to a key of this endpoint"),
        (402, "it wants to be paid"),
        (404, "it has no such model, or another address"),
        (418, "it does not say why"),
    ],
)
def test_an_endpoint_that_answers_nobody_stops_the_command_at_once(status, message, drawn_dataset, tmp_path, capsys):
    with LoopbackTeacher(lambda asked: Reply(f"{KEY}: no", status=status)) as teacher:
        assert stopped(drawn_dataset, teacher, tmp_path / "out", *EMOTION, "--concurrency", 2) == 1
    error = capsys.readouterr().err
    assert message in error and "[the key]: no" in error and KEY not in error
    assert len(teacher.asked) <= 2
    assert f"0 replies are kept in {tmp_path / 'out'}.responses.jsonl; the same command again goes on." in error
    with LoopbackTeacher() as teacher:
        teacher.listing = Reply("no", status=status)
        assert stopped(drawn_dataset, teacher, tmp_path / "out", *EMOTION) == 1
    assert message in capsys.readouterr().err and not teacher.asked


def test_the_key_is_sent_and_written_nowhere(drawn_dataset, tmp_path, capsys, monkeypatch):
    def script(asked: Asked) -> Reply:
        return Reply(f"{KEY} may not ask this", status=400) if "known: anger" in asked.text else right(asked)

    with LoopbackTeacher(script) as teacher:
        facts = write(drawn_dataset, teacher, tmp_path / "reasons", *EMOTION)
        assert {asked.headers["authorization"] for asked in teacher.asked} == {f"Bearer {KEY}"}
        assert facts["configs"]["emotion_recognition"]["drawn"]["dropped"] == {"refused by the endpoint": 4}
    assert sum("[the key] may not" in reply.get("refused", "") for reply in stored(tmp_path / "reasons")) == 4
    monkeypatch.delenv("OPENAI_API_KEY")
    with LoopbackTeacher() as teacher:
        write(drawn_dataset, teacher, tmp_path / "keyless", *EMOTION, "--limit", 2)
    assert not any(KEY.encode() in data for data in content(tmp_path).values())
    assert KEY not in "".join(capsys.readouterr())


def test_a_key_that_is_none_is_refused_and_not_told(drawn_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\r\n")
    with LoopbackTeacher() as teacher:
        write(drawn_dataset, teacher, tmp_path / "reasons", *EMOTION, "--limit", 1)
        assert {asked.headers["authorization"] for asked in teacher.asked} == {f"Bearer {KEY}"}
        for key in (f"{KEY}é", f"{KEY}\r{KEY}"):
            monkeypatch.setenv("OPENAI_API_KEY", key)
            with pytest.raises(ValueError, match="OPENAI_API_KEY has characters that no key has") as error:
                write(drawn_dataset, teacher, tmp_path / "reasons", *EMOTION)
            assert KEY not in str(error.value)


def test_refusals_are_final_only_beside_answers(drawn_dataset, tmp_path, monkeypatch, capsys):
    def ask(script, name, *options) -> tuple[dict, int]:
        with LoopbackTeacher(script) as teacher:
            facts = write(drawn_dataset, teacher, tmp_path / name, *EMOTION, *options)
        return facts["configs"]["emotion_recognition"]["drawn"], len(teacher.asked)

    with LoopbackTeacher(lambda asked: Reply("no pictures here", status=400)) as teacher:
        assert stopped(drawn_dataset, teacher, tmp_path / "out", *EMOTION, "--concurrency", 1) == 1
        assert len(teacher.asked) == interview.REFUSALS
        assert "refused 16 requests in a row: Error code: 400" in capsys.readouterr().err
        assert stopped(drawn_dataset, teacher, tmp_path / "out", *EMOTION, "--limit", 3) == 1
        assert "wise answered nothing: Error code: 400" in capsys.readouterr().err
    assert not stored(tmp_path / "out")
    # the key expires, which some endpoints say by a 400
    expires = lambda asked: right(asked) if asked.place <= 10 else Reply("API key expired", status=400)  # noqa: E731
    with LoopbackTeacher(expires) as teacher:
        with monkeypatch.context() as patch:
            patch.setattr(interview, "REFUSALS", 4)
            assert stopped(drawn_dataset, teacher, tmp_path / "all", *EMOTION, "--concurrency", 2) == 1
        assert "requests in a row: Error code: 400" in capsys.readouterr().err and len(teacher.asked) < 18
    assert len(stored(tmp_path / "all")) == 10 and not any("refused" in reply for reply in stored(tmp_path / "all"))
    found, number = ask(expires, "out", "--concurrency", 1)
    assert found["kept"] + found["dropped"]["unanswered"] == 16, "fewer than would stop it are asked again as well"
    found, _ = ask(right, "out")
    assert found["kept"] == 16
    # a refusal before the first answer is final after it
    refuse = Reply("no", status=400)
    for _ in range(2):
        found, number = ask(lambda asked: refuse if asked.place == 1 else right(asked), "one", "--concurrency", 1)
        assert found["dropped"] == {"refused by the endpoint": 1}
    assert number == 0


def test_many_refusals_in_a_row_are_final_if_the_endpoint_still_answers(drawn_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(interview, "REFUSALS", 3)
    cases = [right, right, *[lambda asked: Reply("hateful", status=403)] * 7]
    with scripted(cases) as (teacher, _):
        facts = write(drawn_dataset, teacher, tmp_path / "out", *EMOTION, "--concurrency", 1)
    found = facts["configs"]["emotion_recognition"]["drawn"]
    assert found == {"asked": 16, "kept": 9, "dropped": {"refused by the endpoint": 7}}
    assert len(teacher.asked) == len(stored(tmp_path / "out")) + 2


def test_parameters_that_a_model_does_not_take_are_not_sent(drawn_dataset, tmp_path):
    def script(asked: Asked) -> Reply:
        for name in ("max_tokens", "temperature"):
            if name in asked.body:
                return Reply(f"Unsupported parameter: {name}", status=400, param=name)
        assert asked.body["max_completion_tokens"] == 99
        return right(asked)

    with LoopbackTeacher(script) as teacher:
        facts = write(drawn_dataset, teacher, tmp_path / "out", *EMOTION, "--max-tokens", 99, "--concurrency", 4)
    assert facts["configs"]["emotion_recognition"]["drawn"]["kept"] == 16
    assert len(teacher.asked) <= len(stored(tmp_path / "out")) + 8


def test_a_thinker_that_is_always_cut_off_stops_the_command(drawn_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(interview, "CUT_OFF", 10)

    def thinks(asked: Asked) -> Reply:
        enough = asked.body["max_tokens"] > 50 or asked.place > thinks.long
        return right(asked) if enough else Reply("<think>", finish_reason="length")

    output, thinks.long = tmp_path / "out", 100
    with LoopbackTeacher(thinks) as teacher:
        assert stopped(drawn_dataset, teacher, output, *EMOTION, "--max-tokens", 50, "--concurrency", 1) == 1
        error = capsys.readouterr().err
        assert "the first 10 replies of wise were all cut off after 50 tokens: give it more by --max-tokens" in error
        assert len(teacher.asked) == len(stored(output)) == 10
        # under the same limit, the rest is asked
        thinks.long = 10
        facts = write(drawn_dataset, teacher, output, *EMOTION, "--max-tokens", 50)
        found = facts["configs"]["emotion_recognition"]["drawn"]
        assert found["dropped"] == {"cut off": 10}
        asked = len(teacher.asked)
        facts = write(drawn_dataset, teacher, output, *EMOTION, "--max-tokens", 51)
        assert facts["configs"]["emotion_recognition"]["drawn"]["kept"] == 16
        assert sum(asked.number == 1 for asked in teacher.asked[asked:]) == 10, "nothing but what was cut off"
        asked = len(teacher.asked)
        write(drawn_dataset, teacher, output, *EMOTION, "--max-tokens", 20)
        assert len(teacher.asked) == asked


def test_replies_on_their_way_are_kept_when_it_stops(drawn_dataset, tmp_path):
    def script(asked: Asked) -> Reply:
        reply = Reply("no", status=401) if asked.place == 20 else right(asked)
        reply.delay = 0 if asked.place == 20 else 0.3
        return reply

    with LoopbackTeacher(script) as teacher:
        assert stopped(drawn_dataset, teacher, tmp_path / "out", "--concurrency", 16) == 1
    assert 20 <= len(teacher.asked) <= 32 and len(stored(tmp_path / "out")) == len(teacher.asked) - 1


def test_an_endpoint_that_dies_loses_nothing(finished, drawn_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(teachers, "RETRIES", 1)
    monkeypatch.setattr(interview, "PATIENCE", 0.5)
    output = tmp_path / finished[0].name
    with LoopbackTeacher(lambda asked: Reply(dies=True) if asked.place > 40 else right(asked)) as teacher:
        assert stopped(drawn_dataset, teacher, output, "--concurrency", 3) == 1
    error = capsys.readouterr().err
    assert re.search(r"wise has not answered for 0.5 seconds: \S+", error)
    assert f"40 replies are kept in {output}.responses.jsonl" in error
    before = stored(output)
    assert len(before) == 40
    with LoopbackTeacher() as living:
        write(drawn_dataset, living, output)
    assert stored(output)[:40] == before
    assert len(stored(output)) == 40 + len(living.asked) == len({reply["key"] for reply in stored(output)})
    assert content(output) == content(finished[0])


def test_a_killed_and_an_interrupted_run_are_resumed(finished, drawn_dataset, tmp_path, monkeypatch, capsys):
    output, path = tmp_path / finished[0].name, tmp_path / f"{finished[0].name}.responses.jsonl"

    def script(asked: Asked) -> Reply:
        reply = right(asked)
        reply.delay = 0.05
        return reply

    with LoopbackTeacher(script) as teacher:
        command = [sys.executable, "-m", "evaluation.rationales"]
        command += arguments(drawn_dataset, teacher, output, "--concurrency", 2)
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        deadline = time.monotonic() + 120
        while not (path.exists() and path.read_bytes().count(b"\n") > 5):
            assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
            time.sleep(0.01)
        process.kill()
        process.communicate()
    killed = path.read_bytes()
    lines = killed.count(b"\n")
    assert not output.exists() and 5 < lines < 80 and killed.endswith(b"\n")
    path.write_bytes(killed + b'{"key": "half')

    def interrupt(asked: Asked) -> Reply:
        if asked.place == 20:
            os.kill(os.getpid(), signal.SIGINT)
        reply = right(asked)
        reply.delay = 0.5 if asked.place >= 19 else 0
        return reply

    # started in a shell's background, tests inherit that Ctrl-C is ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with LoopbackTeacher(interrupt) as teacher:
            assert stopped(drawn_dataset, teacher, output, "--concurrency", 2) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    interrupted = path.read_bytes()
    assert interrupted.startswith(killed) and interrupted.count(b"\n") - lines == len(teacher.asked) <= 21
    lines = interrupted.count(b"\n")
    assert f"interrupted\n{lines} replies are kept in {path}; the same command again" in capsys.readouterr().err
    left = tmp_path / f".{output.name}.rationales-writing"
    (left / "new").mkdir(parents=True)
    (left / "new" / "left").write_text("by a process that was killed while writing")
    mine = {tmp_path / f"{output.name}.{word}" for word in ("replaced", "writing")}
    for folder in mine:
        folder.mkdir()
    with LoopbackTeacher() as teacher:
        write(drawn_dataset, teacher, output)
    assert len(teacher.asked) == len(finished[1]) - lines
    assert content(output) == content(finished[0])
    locks = {path.with_name(f"{path.name}.lock"), path.with_name(f".{output.name}.rationales.lock")}
    assert set(tmp_path.iterdir()) == {output, path} | locks | mine


def test_writing_can_be_interrupted(finished, drawn_dataset, tmp_path, monkeypatch, capsys):
    output = tmp_path / finished[0].name
    shutil.copytree(finished[0], output)
    shutil.copy(f"{finished[0]}.responses.jsonl", f"{output}.responses.jsonl")
    monkeypatch.setattr(rationale_dataset, "render_card", lambda *_: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with LoopbackTeacher() as teacher, pytest.raises(SystemExit) as stop:
            write(drawn_dataset, teacher, output)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stop.value.code == 130 and "interrupted" in capsys.readouterr().err
    assert content(output) == content(finished[0])
    assert not [path for path in tmp_path.iterdir() if path.name.endswith("writing")]


def test_requests_keep_to_the_limits(drawn_dataset, tmp_path):
    def script(asked: Asked) -> Reply:
        reply = Reply("oh", status=500) if asked.place in (2, 5) else right(asked)
        reply.delay = 0.3
        return reply

    with LoopbackTeacher(script) as teacher:
        write(drawn_dataset, teacher, tmp_path / "spaced", *EMOTION, "--limit", 6, "--requests-per-minute", 600)
        times = [asked.time for asked in teacher.asked]
        assert len(times) >= 10 and any(asked.attempt == 2 for asked in teacher.asked)
        assert times[-1] - times[0] > 0.09 * (len(times) - 1)
        assert times[-1] - times[0] < 0.3 * len(times), "one after the other"
        assert all(later - early > 0.3 for early, later in zip(times, times[5:], strict=False))
        teacher.most = 0
        write(drawn_dataset, teacher, tmp_path / "three", *EMOTION, "--concurrency", 3)
        assert teacher.most == 3


# the replies


def test_nothing_is_asked_twice(finished, drawn_dataset, tmp_path, capsys):
    output = tmp_path / finished[0].name
    responses = tmp_path / "replies" / "all.jsonl"
    responses.parent.mkdir()
    shutil.copy(f"{finished[0]}.responses.jsonl", responses)
    with LoopbackTeacher(models=("wise", "fool")) as teacher:
        write(drawn_dataset, teacher, output, "--responses", responses, "--model", "wise", "--concurrency", 1)
        assert not teacher.asked and content(output) == content(finished[0])
        assert (
            f"{len(finished[1])} replies are there already\n80 samples, 80 of them done; at most 0 requests to wise"
            in (capsys.readouterr().out)
        )
        facts = write(drawn_dataset, teacher, output, "--responses", responses, "--model", "wise", "--limit", 2)
        assert not teacher.asked, "and the output of an earlier run is replaced"
        assert {found["drawn"]["asked"] for found in facts["configs"].values()} == {2}
        write(drawn_dataset, teacher, output, "--responses", responses, "--model", "wise", "--limit", 2, "--seed", 5)
        for task, rows in run.load_rows(str(drawn_dataset), ["all"], "train", 2, 5)[0].items():
            assert [row["id"] for row in rows_of(output, task) if row["rationale"]] == rows["id"]
        limit = ("--limit", 2, *EMOTION, "--responses", responses)
        write(drawn_dataset, teacher, output, *limit, "--model", "fool")
        assert {asked.body["model"] for asked in teacher.asked} == {"fool"}
    assert not Path(f"{output}.responses.jsonl").exists()


def test_the_order_of_replies_does_not_matter(finished, drawn_dataset, tmp_path):
    def script(asked: Asked) -> Reply:
        reply = right(asked)
        reply.delay = asked.place % 7 * 0.02
        return reply

    with LoopbackTeacher(script) as teacher:
        write(drawn_dataset, teacher, tmp_path / finished[0].name, "--concurrency", 20)
    assert content(tmp_path / finished[0].name) == content(finished[0])


def test_the_cost_is_told_first(drawn_dataset, tmp_path, monkeypatch, capsys):
    rows = [row for row in rows_of(drawn_dataset, "emotion_recognition") if row["setting"] == "closed"]
    output = tmp_path / "reasons"
    options = (*EMOTION, "--price", 1000, 2000)
    with LoopbackTeacher() as teacher:
        assert not rationales.main(
            rationales.make_parser().parse_args(arguments(drawn_dataset, teacher, output, *options, "--estimate"))
        )
        assert not teacher.asked and not output.exists()
        shown = capsys.readouterr().out
        assert "16 samples, 0 of them done; at most 32 requests to wise" in shown
        told, out, cost = re.search(r"about ([\d,]+) tokens in and ([\d,]+) out, \$([\d.]+)", shown).groups()
        told, out = (int(number.replace(",", "")) for number in (told, out))
        write(drawn_dataset, teacher, output, *options)
        texts = sum(len(asked.text) / 4 for asked in teacher.asked if asked.number == 1)
        sizes = [Image.open(io.BytesIO(image["bytes"])).size for row in rows for image in row["images"]]
        pictures = sum(width * height / 750 for width, height in sizes)
        (length,) = {len(asked.text) for asked in teacher.asked if asked.number == 2}
        notes = len("1. Cues: a sign01234567 is seen.")
        assert told == round(texts + pictures + 16 * ((length - notes) / 4 + 120))
        assert out == 16 * 128 and float(cost) == pytest.approx((told + 2 * out) / 1000, abs=0.01)
        paid = len(teacher.asked)
        assert (
            f"the replies report {100 * paid:,} tokens in and {10 * paid:,} out, ${0.12 * paid:,.2f}"
            in capsys.readouterr().out
        )
        lines = Path(f"{output}.responses.jsonl").read_text().splitlines(keepends=True)
        half = [line for line in lines if '"number": 1' in line][:6]
        Path(f"{output}.responses.jsonl").write_text("".join(half))
        rationales.main(
            rationales.make_parser().parse_args(arguments(drawn_dataset, teacher, output, *options, "--estimate"))
        )
        assert "16 samples, 0 of them done; at most 26 requests" in capsys.readouterr().out
        monkeypatch.setattr(rationales, "ESTIMATED", 4)  # of samples that are much alike
        Path(f"{output}.responses.jsonl").unlink()
        rationales.main(
            rationales.make_parser().parse_args(arguments(drawn_dataset, teacher, output, *options, "--estimate"))
        )
        some = re.search(r"about ([\d,]+) tokens in and 2,048 out, .*; what it thinks", capsys.readouterr().out)[1]
        assert int(some.replace(",", "")) == pytest.approx(told, rel=0.1)


# a model in this process


def test_a_local_model_is_a_teacher(tiny_foundations, drawn_dataset, tmp_path, monkeypatch):
    options = ("--limit", 3, "--tasks", "emotion_recognition", "humor_detection", "--max-tokens", 4)
    model = tiny_foundations["idefics3"]
    facts = write(drawn_dataset, model, tmp_path / "reasons", *options, "--batch-size", 2)
    assert facts["teacher"] == "idefics3" and facts["output_tokens"] > 0
    for found in facts["configs"].values():
        assert found["drawn"]["asked"] == 3 == found["drawn"]["kept"] + sum(found["drawn"]["dropped"].values())
    assert verify(tmp_path / "reasons") == []
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", lambda *_, **__: 1 / 0)
    before = content(tmp_path / "reasons")
    write(drawn_dataset, model, tmp_path / "reasons", *options)
    assert content(tmp_path / "reasons") == before, "from the replies alone"
    shutil.copytree(model, tmp_path / "trained")
    trained, *others = (
        teachers.LocalModel(name, revision, 1, 1).identity
        for name, revision in ((str(tmp_path / "trained"), None), ("a/b", None), ("a/c", None), ("a/b", "x"))
    )
    os.utime(tmp_path / "trained" / "config.json")
    again = teachers.LocalModel(str(tmp_path / "trained"), None, 1, 1).identity
    assert trained != again and others[0] not in others[1:] and others[1] != others[2], "other models' replies"


def test_a_local_model_answers_in_batches(finished, tiny_foundations, drawn_dataset, tmp_path, monkeypatch):
    batches = []

    def answer(self, requests):
        batches.append([len(request.images) for request in requests])
        replies = []
        for request in requests:
            turn = {"content": [{"type": "text", "text": request.text}]}
            text = right(Asked({"messages": [turn]}, {}, 0, 1, 1)).text
            replies.append(teachers.read_reply(text, "stop", 100, 10))
        return replies

    monkeypatch.setattr(teachers.LocalModel, "answer", answer)
    facts = write(drawn_dataset, tiny_foundations["llava"], tmp_path / "reasons", "--batch-size", 5)
    assert all(found["drawn"]["kept"] == 16 for found in facts["configs"].values())
    assert sum(map(len, batches)) == len(finished[1])
    assert max(map(len, batches)) == 5 and sum(len(batch) >= 4 for batch in batches) > 0.7 * len(batches)
    assert all(len(set(batch)) == 1 for batch in batches), "no processor takes conversations with and without pictures"


def test_a_batch_gets_the_replies_of_each_request_alone(tiny_foundations, drawn_dataset, monkeypatch):
    images = [row["images"][0]["bytes"] for row in rows_of(drawn_dataset, "emotion_recognition")[:3]]
    requests = [
        checks.Request("", 1, text, [image], [])
        for text, image in zip(("How?", "Who is it, and what do they see?", "Why"), images, strict=True)
    ]
    taken = []
    for loader in (AutoModelForImageTextToText, AutoProcessor):

        def load(name, *, loader=loader, original=loader.from_pretrained, **options):
            taken.append((loader, name, options.pop("revision")))
            return original(name, **options)

        monkeypatch.setattr(loader, "from_pretrained", load)
    teacher = teachers.LocalModel(tiny_foundations["idefics3"], "a-branch", 6, 3)
    asyncio.run(teacher.__aenter__())
    assert taken == [(loader, tiny_foundations["idefics3"], "a-branch")
                     for loader in (AutoModelForImageTextToText, AutoProcessor)]  # fmt: skip
    alone = []
    for request in requests:
        turn = [{"type": "image"}, {"type": "text", "text": request.text}]
        inputs = encode_chats(teacher.processor, [[{"role": "user", "content": turn}]],
                              [[Image.open(io.BytesIO(request.images[0]))]])  # fmt: skip
        tokens = teacher.model.generate(**inputs, max_new_tokens=6, do_sample=False)
        alone.append((inputs["input_ids"].shape[1], tokens[0, inputs["input_ids"].shape[1] :].tolist()))
    assert len({tuple(new) for _, new in alone}) == 3
    decode = partial(teacher.processor.tokenizer.decode, skip_special_tokens=True)
    replies = teacher.answer(requests)
    for (prompt, new), reply in zip(alone, replies, strict=True):
        assert reply == teachers.read_reply(decode(new), "length", prompt, 6)
    (end,) = {alone[1][1][2]}
    teacher.model.generation_config.eos_token_id = [end]
    for (prompt, new), reply in zip(alone, teacher.answer(requests), strict=True):
        length = new.index(end) + 1 if end in new else 6
        assert reply == teachers.read_reply(decode(new[:length]), "stop" if end in new else "length", prompt, length)


def test_a_full_disk_is_said_with_what_is_kept(drawn_dataset, tmp_path, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rationale_dataset, "write_shard", full)
    with LoopbackTeacher() as teacher:
        assert stopped(drawn_dataset, teacher, tmp_path / "out", *EMOTION) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error and f"{len(teacher.asked)} replies are kept in" in error


# what is refused


def test_bad_input_is_refused_before_anything_is_asked(finished, drawn_dataset, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.txt").write_text("keep me")
    (tmp_path / "notes.txt").write_text("my notes\nwithout an end")
    (tmp_path / "line.txt").write_text("my notes without an end")
    shutil.copytree(drawn_dataset, tmp_path / "damaged")
    (tmp_path / "damaged" / "stats.json").write_text("{}")
    output = tmp_path / "out"
    with LoopbackTeacher(models=("wise", "fool")) as teacher:
        for dataset, folder, options, message in (
            (drawn_dataset, tmp_path / "mine", (), "mine exists, and was not made by this command"),
            (drawn_dataset, output, (), r"has 2 models \(wise, fool\); name one by --model"),
            (drawn_dataset, drawn_dataset / "out", (), "/out is inside of .*, which would change it"),
            (finished[0], output, (), "has rationales, by wise: give the build without them"),
            (tmp_path / "mine", output, (), "has no manifest.json: it is no finished build"),
            (
                tmp_path / "damaged",
                output,
                (),
                "damaged is not what was built: stats.json: .*Build or download it again",
            ),
            (
                drawn_dataset,
                output,
                ("--tasks", "mood"),
                "no training rows of mood; it has some of emotion_recognition",
            ),
            (
                drawn_dataset,
                output,
                ("--responses", tmp_path / "notes.txt"),
                "notes.txt, line 1: no reply of a teacher",
            ),
            (
                drawn_dataset,
                output,
                ("--responses", tmp_path / "line.txt"),
                "line.txt, line 1: no reply of a teacher",
            ),
        ):
            with pytest.raises(ValueError, match=message):
                write(dataset, teacher, folder, *options)
        for lock in (f"{output}.responses.jsonl.lock", output.with_name(".out.rationales.lock")):
            with FileLock(lock), pytest.raises(ValueError, match=f"Another command writes .*out or .*{lock}"):
                write(drawn_dataset, teacher, output, "--model", "wise")
        with pytest.raises(ValueError, match="--model wise is for an endpoint, but --teacher a/model is no http"):
            write(drawn_dataset, "a/model", output, "--model", "wise")
        assert not teacher.asked
    assert stopped(drawn_dataset, teacher, output) == 1  # it is gone
    assert (tmp_path / "notes.txt").read_text() == "my notes\nwithout an end"
    assert (tmp_path / "line.txt").read_text() == "my notes without an end"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["mine.txt"]
    for option in ("--concurrency", "--limit", "--requests-per-minute"):
        with pytest.raises(SystemExit):
            write(drawn_dataset, teacher, output, option, "0")


def test_clips_without_frames_are_refused(tmp_path):
    make_sources(tmp_path, 0.0, ("mintrec",))
    build({"mintrec": str(tmp_path / "mintrec")}, tmp_path / "build", video="clip")
    with LoopbackTeacher() as teacher:
        with pytest.raises(
            ValueError, match="mintrec/train/.*, and 26 others, are clips without frames: .*--video frames"
        ):
            write(tmp_path / "build", teacher, tmp_path / "out")
    assert not teacher.asked
