"""The questions of every source, word for word, and the samples that they are asked about."""

import os
from pathlib import Path

import pytest

from dataset_scripts.readers import READERS
from dataset_scripts.sample import EmoSample
from dataset_scripts.tasks import TASKS, TURNS, get_task, render_instruction, render_messages, settings


GOLDEN = Path(__file__).parent / "golden" / "instructions"


def sample(task="intent_understanding", source="drawn", **changes):
    fields = {"split": "train", "record": "1", "licence": "", "images": ("a.png",)}
    fields["answers"] = get_task(task).sources[source].labels[:1]
    return EmoSample(**{**fields, "task": task, "source": source, **changes})


def fitting(task, source, record="1"):
    """A sample with a subject, and with a context and earlier turns where the source has them."""
    subject = "Joey" if source in ("meld", "mustard") else "the person in red"
    context = {"context": "Hm."} if TASKS[task].sources[source].context_name else {}
    turns = {"turns": (("Ross", "Why?"), ("Joey", "Well."))} if subject == "Joey" else {}
    return sample(task, source, record=record, subject=subject, **context, **turns)


@pytest.mark.parametrize("task", TASKS)
def test_golden_instructions(task):
    """Every template of every source; bump the task's version when you change one."""
    sections = []
    for source, asked in TASKS[task].sources.items():
        for setting in settings(fitting(task, source)):
            # a hash of the id chooses the template, so that a few hundred ids meet all of them
            texts = {render_instruction(fitting(task, source, str(record)), setting) for record in range(300)}
            assert len(texts) == len(asked.closed if setting == "closed" else asked.open)
            sections.append("\n".join([f"== {source}, {setting}", *sorted(texts)]))
    file, text = GOLDEN / f"{task}.txt", "\n\n".join(sections) + "\n"
    if os.environ.get("ACCEPT_GOLDEN") == "1":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == text, "if that is wanted: ACCEPT_GOLDEN=1"


def test_task_specs_are_whole():
    assert list(TASKS) == [
        "emotion_recognition",
        "intent_understanding",
        "hate_detection",
        "humor_detection",
        "sarcasm_detection",
    ]
    for task in TASKS.values():
        assert task.metric == "macro_f1" and next(iter(task.sources)) == "drawn"
        for asked in task.sources.values():
            assert len(set(asked.labels)) == len(asked.labels)
            assert not any(", " in label or label != label.lower() for label in asked.labels)
            assert not any(label in text.split() for text in asked.open for label in asked.labels)
            if task.positive:
                assert asked.labels == ("no", "yes") and task.positive == "yes"


def test_the_paraphrase_depends_on_nothing_but_the_id():
    one = sample(answers=("eat",), attributes={"a": 1})
    other = sample(answers=("sleep",), images=("b.png", "c.png"))
    assert render_instruction(one, "closed") == render_instruction(other, "closed")


def test_the_latest_turns_are_quoted():
    turns = tuple(("Ann", f"turn {number}") for number in range(9))
    text = render_instruction(sample("emotion_recognition", "meld", context="Now.", turns=turns), "closed")
    assert [line for line in text.split("\n") if line.startswith("Ann")] == [
        f'Ann: "turn {number}"' for number in range(9 - TURNS, 9)
    ]


def test_messages_have_one_entry_an_image_or_one_for_the_clip():
    pictures, clip = sample(images=("a", "b")), sample(images=(), video="a.mp4")
    user, assistant = render_messages(pictures, "closed", 2)
    text = {"type": "text", "text": render_instruction(pictures, "closed")}
    assert user == {"role": "user", "content": [{"type": "image"}, {"type": "image"}, text]}
    assert assistant == {"role": "assistant", "content": [{"type": "text", "text": "eat"}]}
    assert [part["type"] for part in render_messages(clip, "closed", 8)[0]["content"]] == ["image"] * 8 + ["text"]
    assert [part["type"] for part in render_messages(clip, "closed", 0)[0]["content"]] == ["video", "text"]


def test_several_labels_are_asked_for_and_answered():
    several = sample(source="intentonomy", answers=("communicate", "enjoy life"))
    assert "Answer with one or more of: be attractive, " in render_instruction(several, "closed")
    assert render_messages(several, "closed", 1)[1]["content"][0]["text"] == "communicate, enjoy life"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": ("dance",)}, "drawn/train/1: label 'dance' is outside the label set of drawn: eat, sleep, play"),
        ({"answers": ("eat", "play")}, "2 labels, but drawn has one a sample"),
        ({"answers": ()}, "0 labels, but drawn has one a sample"),
        ({"source": "intentonomy", "answers": ()}, "0 labels, but intentonomy has some a sample"),
        ({"task": "mood"}, "unknown task 'mood': choose one of .*humor_detection"),
        ({"source": "ferplus", "answers": ("anger",)}, "intent_understanding has no source 'ferplus', only drawn"),
        ({"images": ()}, "either at least one image or a video"),
        ({"video": "a.mp4"}, "either at least one image or a video"),
        ({"label_distribution": (0.5, 0.5)}, "must be 4 shares that sum to 1"),
        ({"label_distribution": (0.5, 0.5, 0.5, 0.5)}, "must be 4 shares that sum to 1"),
        ({"label_distribution": (1.5, -0.5, 0, 0)}, "must be 4 shares that sum to 1"),
        (
            {"source": "intentonomy", "answers": ("enjoy life",), "label_distribution": (2.0,) * 28},
            "must be 28 shares, one a label",
        ),
    ],
)
def test_bad_samples_are_refused(changes, message):
    fields = {"source": "drawn", "split": "train", "record": "1", "task": "intent_understanding", "licence": ""}
    with pytest.raises(ValueError, match=message):
        EmoSample(**{**fields, "answers": ("eat",), "images": ("a.png",), **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"record": "a\ud83d"},
        {"images": ("a\ud83d.png",)},
        {"images": (), "video": "a\ud83d.mp4"},
        {"context": "a\ud83d"},
        {"subject": "a\ud83d"},
        {"turns": (("Ann", "Hm."), ("Bob", "a\ud83d"))},
        {"turns": (("a\ud83d", "Hm."),)},
        {"attributes": {"words": ["a\ud83d"]}},
        {"attributes": {"a\ud83d": 1}},
    ],
)
def test_half_a_surrogate_pair_is_refused_in_words_that_can_be_printed(changes):
    with pytest.raises(ValueError) as error:
        sample(**changes)
    message = str(error.value)
    record = r"a\ud83d" if "record" in changes else "1"
    assert message.startswith(f"drawn/train/{record}: texts must be Unicode, and attributes JSON, but 'utf-8' codec")
    assert message.encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"record": 7},
        {"context": 5},
        {"subject": None},
        {"images": (3,)},
        {"turns": (("Ann", 5),)},
        {"attributes": {"a": {1, 2}}},
        {"attributes": {"a": b"b"}},
        {"attributes": {"a": float("nan")}},
    ],
)
def test_what_is_no_text_or_no_json_is_refused(changes):
    with pytest.raises(ValueError, match="drawn/train/.: texts must be Unicode, and attributes JSON, but"):
        sample(**changes)


def test_whole_characters_and_encoded_pictures_are_fine():
    found = sample(
        record="\u00e9", images=(b"\xff\xd8",), context="\U0001f642", attributes={"a": ["\u00e9", None, 0.5]}
    )
    assert found.id == "drawn/train/\u00e9"


def test_sources_say_which_have_clips_and_which_offend():
    sources = [reader.SOURCE for reader in READERS.values()]
    assert {source.name for source in sources if source.clips} == {"meld", "mintrec", "mustard", "ur_funny"}
    assert {source.name for source in sources if source.offensive} == {"hateful_memes", "harmeme", "cm_memes"}
