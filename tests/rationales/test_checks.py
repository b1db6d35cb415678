"""What becomes of a teacher's replies: what is kept, what is dropped, and what the second reader does not see."""

import time
from collections import Counter

import pytest
from asking import EMOTION, case, rows_of, says, scripted, write
from loopback_teacher import Asked, LoopbackTeacher, Reply, code_of, right

from benchmarks.fake_sources import make_sources
from dataset_scripts.pipeline import build
from dataset_scripts.tasks import TASKS
from evaluation.rationales import checks


def other(asked: Asked) -> Reply:
    return Reply(f"Answer: {next(x for x in ('fear', 'anger') if code_of(x) not in asked.text)}")


def contradict(asked: Asked) -> Reply:
    return Reply(f"A {code_of(asked.truth)} is seen.\nFinal answer:\n{'anger' if asked.truth == 'fear' else 'fear'}")


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
    start = time.process_time()
    checks.withhold_answer(text, checks.Sample("", "drawn", "hate_detection", "", ["no", "yes"], "no", ["no"], []))
    checks.ANSWER[True].sub("", text)
    checks.ANSWER[False].sub("", text)
    assert time.process_time() - start < 3


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
