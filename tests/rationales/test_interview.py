"""Many requests at a time: troubles that pass and that stay, limits, and that nothing is asked twice."""

import re
import shutil
from pathlib import Path

import pytest
from asking import EMOTION, KEY, by_sample, content, rows_of, scripted, stopped, stored, write
from loopback_teacher import Asked, LoopbackTeacher, Reply, right

from evaluation.rationales import interview, teachers
from evaluation.rows import load_rows


def test_troubles_that_pass_are_waited_for(drawn_dataset, tmp_path):
    troubles = [
        Reply(delay=60),
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
        facts = write(drawn_dataset, teacher, tmp_path / "reasons", *EMOTION, "--timeout", 6)
    assert facts["configs"]["emotion_recognition"]["drawn"]["kept"] == 16
    times = {number: [a.time for a in teacher.asked if a.number == 1 and by_sample(a) == sample]
             for sample, number in numbers.items()}  # fmt: skip
    assert [len(times[number]) for number in range(16)] == [2] * len(troubles) + [1] * (16 - len(troubles))
    assert times[1][1] - times[1][0] >= 1, "Retry-After"
    assert times[0][1] - times[0][0] > 5.9, "--timeout"


def test_troubles_that_stay_are_counted_and_asked_again(drawn_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(teachers, "RETRIES", 0)
    monkeypatch.setattr(interview, "TURNS", 2)
    troubles = [
        Reply(delay=60),
        Reply("oh", status=500),
        Reply(body=b"{"),
        Reply("slow down", status=429),
        Reply("later", status=429, headers={"Retry-After": "100000"}),
    ]
    output = tmp_path / "reasons"
    cases = [lambda asked, trouble=trouble: trouble for trouble in troubles]
    with scripted(cases) as (teacher, numbers):
        facts = write(drawn_dataset, teacher, output, *EMOTION, "--timeout", 6)
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
    down = []  # when the endpoint was asked while it did not answer, which it does four times a worker

    def script(asked: Asked) -> Reply:
        if asked.place < 10 or len(down) == 4 * concurrency:
            return right(asked)
        down.append(asked.time)
        return Reply("down", status=503)

    with LoopbackTeacher(script) as teacher:
        facts = write(drawn_dataset, teacher, tmp_path / "out", *EMOTION, "--concurrency", concurrency)
    assert facts["configs"]["emotion_recognition"]["drawn"]["kept"] == 16
    shown = capsys.readouterr().err
    waits = [
        float(wait) for wait in re.findall(r"wise does not answer, .* asked again in (\S+) seconds: .*down", shown)
    ]
    assert 0.2 in waits and {*waits} <= {0.1, 0.2, 0.4, 0.5} and len(waits) < 10
    assert down[-1] - down[0] >= sum(waits[:-1]), "asked in a pause"


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
    assert 20 <= len(teacher.asked) <= 20 + 2 * 16 and len(stored(tmp_path / "out")) == len(teacher.asked) - 1


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
        for task, rows in load_rows(str(drawn_dataset), ["all"], "train", 2, 5).items():
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
