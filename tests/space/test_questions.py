"""The texts that the page makes of what visitors give."""

import pytest

from dataset_scripts.drawn import draw
from dataset_scripts.tasks import TASKS, render_instruction
from space.questions import (
    NAMES,
    draw_examples,
    name_words,
    split_labels,
    usual_labels,
    usual_question,
    write_question,
)


def test_every_task_has_a_name():
    assert set(NAMES.values()) == set(TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_questions_are_written_as_in_emobench(task):
    sample = draw(task, "test", 0, seed=0)
    expected = render_instruction(sample, "closed")
    asked = next(text for text in sample.questions.closed if text.format(subject=sample.subject) in expected)
    labels = split_labels(usual_labels(task))
    assert write_question(task, asked.format(subject=sample.subject), sample.context, labels) == expected
    assert usual_question(task) and "{" not in usual_question(task)


def test_words_are_called_what_they_are():
    assert name_words("hate_detection") == "Text on the meme" and name_words("sarcasm_detection") == "Caption"
    assert write_question("emotion_recognition", " Why? ", "  ", []) == "Why?"


def test_labels():
    assert split_labels(" joy ,great fear, ") == ["joy", "great fear"] and split_labels(" ") == []
    for text in ("joy", "joy, fear, joy", ", ".join(map(str, range(33)))):
        with pytest.raises(ValueError, match="give 2 to 32 different ones, separated by commas, or none"):
            split_labels(text)


def test_texts_that_are_missing_or_too_long():
    with pytest.raises(ValueError, match="There is no question: write one"):
        write_question("emotion_recognition", " ", "", [])
    for texts in (["x" * 1001, "", []], ["Why?", "x" * 1001, []], ["Why?", "", ["x" * 600, "y" * 600]]):
        with pytest.raises(ValueError, match="characters of .*: give at most 1000"):
            write_question("emotion_recognition", *texts)


def test_half_of_a_character():
    for texts in (["Why \ud83d?", "", []], ["Why?", "\ude00", []], ["Why?", "", ["joy", "fear\ud83d"]]):
        with pytest.raises(
            ValueError, match="hold half of a character, such as an emoji that was cut: write it again"
        ):
            write_question("emotion_recognition", *texts)


def test_examples_are_drawn_with_their_texts():
    examples = draw_examples()
    assert [example.task for example in examples] == list(NAMES.values())
    assert [len(example.pictures) for example in examples] == [1, 1, 1, 3, 1]
    for example, again in zip(examples, draw_examples(), strict=True):
        assert example.pictures == again.pictures and example.label in split_labels(usual_labels(example.task))
        assert "{" not in example.question and bool(example.words) == (example.task.endswith("detection"))
