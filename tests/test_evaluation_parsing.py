"""Generated text to labels."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_scripts.tasks import TASKS
from evaluation.parsing import LEXICON, NEGATIONS, names_answer, parse_answer
from modeling_emollm.emoprompt import guide_messages


SETS = {(name, source): list(asked.labels) for name, task in TASKS.items() for source, asked in task.sources.items()}
GROUPS = {
    f"{path.stem}/{name}": group
    for path in sorted((Path(__file__).parent / "parsing_cases").glob("*.json"))
    for name, group in json.loads(path.read_text(encoding="utf-8")).items()
}


def choices_of(group):
    return group["choices"] if "choices" in group else SETS[group["task"], group["source"]]


CASES = [
    pytest.param(text, group, [given] if isinstance(given, str) else given or [], id=f"{name}: {text!r}")
    for name, group in GROUPS.items()
    for text, given in group["cases"].items()
]
LABELS = [(task, choices, label) for (task, _), choices in SETS.items() for label in choices]


@pytest.mark.parametrize("text, group, given", CASES)
def test_cases(text, group, given):
    assert parse_answer(text, choices_of(group), group["task"], group.get("several", False)) == given


@pytest.mark.parametrize(
    "text, given",
    [
        ("It is funny.\nAnswer: no", ["no"]),
        ("It is funny.\n### Answer\nno", ["no"]),
        ("It is funny.\nAnswer: yes\nAnswer:", ["yes"]),
        ("It is funny.", []),
        ("yes", []),
        ("It is funny.\nAnswer:", []),
        ("It is funny.\nAnswer: unclear", []),
        ("<think>Answer: yes</think>It is funny.", []),
        ("User: is it?\nAnswer: yes\nUser: and this?\nAnswer: no", ["yes"]),
        ("yes\nUser: and this?\nAnswer: no", []),
    ],
)
def test_what_is_not_concluded_is_no_answer(text, given):
    assert parse_answer(text, ["no", "yes"], "humor_detection", concluded=True) == given


@pytest.mark.parametrize("label_set", sorted(SETS))
@pytest.mark.parametrize("mode", ["answer", "reason"])
@pytest.mark.parametrize("named", [False, True])
def test_an_echo_of_emoprompt_is_no_answer(label_set, mode, named):
    (task, source), choices = label_set, SETS[label_set]
    asked = TASKS[task].sources[source]
    arguments = {"emotion_task": task, "emotion_mode": mode, "emotion_labels": choices if named else None}
    prompt = guide_messages([{"role": "user", "content": asked.closed[0].format(subject="he")}], **arguments)[0][
        "content"
    ]
    steps = [line for line in prompt.splitlines() if line[0].isdigit()]
    assert len(steps) == 3 * (mode == "reason")
    for echo in (prompt, "\n".join(steps), *prompt.splitlines()):
        assert parse_answer(echo, choices, task, asked.several) == []


def test_every_label_set_has_cases():
    assert {(group["task"], group.get("source")) for group in GROUPS.values()} >= set(SETS)
    assert len(CASES) >= 400


@pytest.mark.parametrize("label_set", sorted(SETS))
def test_every_label_is_read_as_itself(label_set):
    task, choices = label_set[0], SETS[label_set]
    for label in choices:
        for text in (
            label,
            label.upper(),
            f"{label}\n",
            f"**{label.capitalize()}.**",
            f"The answer is {label}.",
            f"<think>{', '.join(choices)}</think>{label}",
            f"It could be {choices[0]} or {choices[1]}.\nAnswer: {label}.",
            f'{{"answer": "{label}"}}',
            f"Answer with one of: {', '.join(choices)}.\n{label}",
        ):
            assert parse_answer(text, choices, task) == [label]
            assert parse_answer(text, choices, task, several=True) == [label]


@pytest.mark.parametrize("label_set", sorted(key for key in SETS if SETS[key] != ["no", "yes"]))
def test_every_form_is_read_in_a_sentence(label_set):
    task, choices = label_set[0], SETS[label_set]
    for label in choices:
        for form in LEXICON["forms"][label].split(", "):
            assert parse_answer(f"In the picture, somebody {form} near a tree", choices, task) == [label]
            assert parse_answer(f"In the picture, nobody {form} near a tree", choices, task) == []


VOCABULARY = sorted(
    {
        *" ".join([*LEXICON["forms"].values(), *LEXICON["synonyms"].values(), *LEXICON["tasks"].values()]).split(),
        *f"{LEXICON['yes']} {LEXICON['no']}".split(),
        *(label for choices in SETS.values() for label in choices),
        *NEGATIONS,
        *(
            "Answer:",
            "but",
            "and",
            "nor",
            "neither",
            ",",
            ".",
            "?",
            ":",
            "\n",
            "I can't",
            "tell",
            "sorry",
            "if",
            "<think>",
        ),
    }
)
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(VOCABULARY)).map(" ".join))


@settings(deadline=None, max_examples=300)
@given(TEXTS, st.sampled_from(sorted(SETS)), st.booleans())
def test_total(text, label_set, several):
    choices = SETS[label_set]
    given_labels = parse_answer(text, choices, label_set[0], several)
    assert given_labels == [label for label in choices if label in given_labels]
    assert several or len(given_labels) <= 1
    assert parse_answer(text, choices, label_set[0], several) == given_labels
    assert names_answer(text, choices, choices[:1], label_set[0]) in (True, False)


@settings(deadline=None)
@given(st.text(), st.lists(st.text(), unique=True), st.text(), st.booleans())
def test_total_for_any_label_set(text, choices, task, several):
    assert set(parse_answer(text, choices, task, several)) <= set(choices)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(LABELS), *[st.lists(st.text(alphabet="bcdgkqvxz", min_size=2)).map(" ".join)] * 2)
def test_unrelated_words_turn_no_label_into_another(labelled, before, after):
    task, choices, label = labelled
    assert parse_answer(f"{before} {label} {after}", choices, task) in ([label], [])
    assert parse_answer(f"{before}, {label}, {after}", choices, task) == [label]
    assert parse_answer(f"{before} {after}", choices, task) == []


LONG = """answer |answer:|a|i |I can not |not happy |neither,|- |<|<think>|\n| |"[|**|yes, |not, |\\boxed{|((|是
|"| '|too |so it |\nuser|\nquestion:|because |answer:\n|[think]|lack of a """


@pytest.mark.parametrize("part", [*LONG.split("|"), f"not,{' ' * 90_000}x y z or "])
def test_long_texts_take_linear_time(part):
    text = part * (100_000 // len(part))
    begun = time.process_time()
    parse_answer(text, SETS["emotion_recognition", "ferplus"], "emotion_recognition")
    parse_answer('"answer":' + text, ["no", "yes"], "humor_detection")
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    "sentence, source, answers, task, named",
    [
        ("She is happy.", "ferplus", ["happiness"], "emotion_recognition", True),
        ("She isn't happy.", "ferplus", ["happiness"], "emotion_recognition", True),
        ("Is she delighted?", "ferplus", ["happiness"], "emotion_recognition", True),
        ("The girl shouts 'I'm so happy'.", "ferplus", ["happiness"], "emotion_recognition", True),
        ("She is unhappy.", "ferplus", ["happiness"], "emotion_recognition", False),
        ("The corners of the mouth are raised.", "ferplus", ["happiness"], "emotion_recognition", False),
        ("I would say fear.", "ferplus", ["happiness"], "emotion_recognition", False),
        ("They love animals and enjoy life.", "intentonomy", ["be happy", "enjoy life"], "intent_understanding", True),
        ("It is not funny.", "drawn", ["no"], "humor_detection", True),
        ("It would be funny if he fell.", "drawn", ["no"], "humor_detection", True),
        ("Humor: a cat", "drawn", ["yes"], "humor_detection", True),
        ("An unfunny end.", "drawn", ["yes"], "humor_detection", True),
        ("Answer: yes", "drawn", ["yes"], "humor_detection", True),
        ("Yes, he falls.", "drawn", ["no"], "humor_detection", True),
        ("yes or no", "drawn", ["no"], "humor_detection", True),
        ("Hence yes.", "drawn", ["yes"], "humor_detection", True),
        ("All of it is no.", "drawn", ["no"], "humor_detection", True),
        ("There is no sun, he falls.", "drawn", ["no"], "humor_detection", False),
        ("It is sarcastic.", "drawn", ["yes"], "humor_detection", False),
    ],
)
def test_sentences_that_name_the_answer(sentence, source, answers, task, named):
    assert names_answer(sentence, SETS[task, source], answers, task) is named
