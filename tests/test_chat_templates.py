"""EmoPrompt composed with the chat templates of many families of models.

Those of TRL are read from the installed package, as the models ship them; those in tests/chat_templates are written
after each family's documented format. The golden renderings are in tests/golden/emoprompt/families. After a wanted
change: ACCEPT_GOLDEN=1 python -m pytest tests/test_chat_templates.py -k golden
"""

import copy
import difflib
import itertools
import json
import os
from pathlib import Path

import jinja2
import pytest
import trl
from PIL import Image
from transformers.utils.chat_template_utils import render_jinja_template

from modeling_emollm import guide_messages
from modeling_emollm.emoprompt import PROLOGUE


GOLDEN = Path(__file__).parent / "golden" / "emoprompt" / "families"
OURS = sorted((Path(__file__).parent / "chat_templates").glob("*.jinja"))
TRL = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
# Jinja would eat the white space that these begin with, if EmoPrompt did not leave it alone; the others read the
# messages in all the places from which a template can, or use names that EmoPrompt could have taken for itself.
ODD = {
    **{
        repr(start): start + "{% for message in messages %}{{ message['content'] }}{% endfor %}\n"
        for start in ("\n", "  ", " \n ", "{# note #}\n", "\n{# note #}\n  ", "text\n")
    },
    "tools first": "{%- if tools %}{{ tools | length }}{% endif %}\n{{ messages | tojson }}",
    "macro": "{% macro all() %}{{ messages[-1].content }}{% endmacro %}{{ all() }}{{ messages | length }}",
    "block": "{% block all %}{{ messages[-1]['content'] }}{% endblock %}",
    "loop_messages": "{% set loop_messages = messages[1:] %}{% for m in loop_messages %}{{ m.content }}{% endfor %}",
    "own messages": "{% set messages = messages[::-1] %}{% for m in messages %}{{ m.content }}{% endfor %}",
    "names": "{% set ns = namespace(before='b') %}{{ ns.before }}{{ guidance }}{{ steps }}{{ turn }}{{ item }}"
    "{{ message }}{{ messages | map(attribute='content') | list }}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
}
TEMPLATES = {file.stem: file.read_text(encoding="utf-8") for file in (*TRL, *OURS)} | ODD
FAMILIES = [file.stem for file in OURS] + [
    *("gemma3", "gemma4_v5", "idefics3", "lfm2_2_5_vl", "llava_next", "muse_glimmer"),
    *("qwen2_5_vl", "qwen3_vl", "qwen3_5_think", "qwen3_8", "smolvlm"),
]


def turn(role: str, text: str, pictures: int = 0) -> dict:
    return {"role": role, "content": [*[{"type": "image"}] * pictures, {"type": "text", "text": text}]}


def as_strings(messages: list[dict]) -> list[dict]:
    return [{**message, "content": message["content"][-1]["text"]} for message in messages]


WORD = {"type": "string", "description": "The word."}
PARAMETERS = {"type": "object", "properties": {"word": WORD}, "required": ["word"]}
LOOK_UP = {"name": "look_up", "description": "What a word means.", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": LOOK_UP}]
CALL = {"type": "function", "id": "call00001", "function": {"name": "look_up", "arguments": {"word": "pun"}}}
QUESTION = "How does she feel?"
TALK = [
    turn("system", "Be kind."),
    turn("user", "Who is there?", pictures=1),
    turn("assistant", "A child."),
    turn("user", QUESTION, pictures=2),
]
CALLED = [
    *TALK[:3],
    turn("user", QUESTION, pictures=1),
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "look_up", "tool_call_id": "call00001", "content": "A play on words."},
]
CHATS = {
    "talk": (TALK, None),
    "talk without a system turn": (TALK[1:], None),
    "talk in strings": (as_strings(TALK), None),
    "strings without a system turn": (as_strings(TALK)[1:], None),
    "talk that ends with an answer": ([*TALK, turn("assistant", "She smiles.")], None),
    "one question in a string": ([{"role": "user", "content": QUESTION}], None),
    "tools": (CALLED, TOOLS),
    "tools in strings": ([*as_strings(CALLED[:4]), *CALLED[4:]], TOOLS),
    "tools, no content beside the call": ([*CALLED[:4], {**CALLED[4], "content": None}, CALLED[5]], TOOLS),
}
DEFINITIONS = {"no": "It is meant as it is said.", "yes": 'Its opposite is meant ("sure").'}
CONTEXT = [{"speaker": "Ann", "text": "It rains {{ again }}."}, {"speaker": "Bö", "text": "太好了\n😀"}]
GUIDANCE = [
    {"emotion_task": "emotion_recognition", "emotion_labels": ["joy", "fear"]},
    {"emotion_task": "humor_detection", "emotion_mode": "reason", "emotion_context": CONTEXT},
    {"emotion_task": "sarcasm_detection", "emotion_labels": DEFINITIONS},
]


GUIDED = {chat: [guide_messages(messages, **one) for one in GUIDANCE] for chat, (messages, _) in CHATS.items()}


def render(template: str, messages: list[dict], tools: list[dict] | None = None, mask: bool = False, **arguments):
    """As `apply_chat_template` does; with `mask`, the places of the assistant's words too."""
    texts, places = render_jinja_template(
        conversations=[messages],
        tools=tools,
        chat_template=template,
        return_assistant_tokens_mask=mask,
        bos_token="<s>",
        eos_token="</s>",
        current_date="2026-01-01",  # of templates that tell the day
        date_string="1 Jan 2026",
        **arguments,
    )
    return (texts[0], places[0]) if mask else texts[0]


def takes(template: str, chat: str) -> bool:
    """Whether a family's own template renders such a conversation, with its question and its tools."""
    messages, tools = CHATS[chat]
    try:
        bare = render(template, messages, tools)
    except (TypeError, jinja2.TemplateError):
        return False
    return QUESTION in bare and (tools is None or "look_up" in bare and "A play on words." in bare)


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_carries_it(name):
    """Without a task each template renders what it did; with one, what it makes of words that are guided before."""
    template = TEMPLATES[name]
    rendered = 0
    for chat, prompt in itertools.product(CHATS, (False, True)):
        messages, tools = CHATS[chat]
        options = {"tools": tools, "add_generation_prompt": prompt, "mask": "generation" in template}
        try:
            bare = render(template, messages, **options)
        except (TypeError, jinja2.TemplateError):
            continue  # a family without system turns or tools, or with one form of content only
        rendered += 1
        assert render(PROLOGUE + template, messages, **options) == bare
        assert render(PROLOGUE + template, messages, **options, emotion_task=None, emotion_mode="reason") == bare
        for guidance, by_hand in zip(GUIDANCE, GUIDED[chat], strict=True):
            guided = render(PROLOGUE + template, messages, **options, **guidance)
            assert guided == render(template, by_hand, **options)
    assert rendered


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answer_is_continued_after_a_guided_question(name):
    """The way of a prefilled answer, and of pipelines that are given a conversation which ends with one."""
    messages = [*TALK, turn("assistant", "She")]
    if not takes(TEMPLATES[name], "talk"):
        messages = as_strings(messages)
    guided = render(PROLOGUE + TEMPLATES[name], messages, continue_final_message=True, **GUIDANCE[0])
    by_hand = guide_messages(messages, **GUIDANCE[0])
    assert guided == render(TEMPLATES[name], by_hand, continue_final_message=True)
    assert guided.endswith("She")


@pytest.mark.parametrize("name", FAMILIES)
def test_golden_renderings_of_families(name):
    template = TEMPLATES[name]
    lists, strings = takes(template, "talk"), takes(template, "talk in strings")
    sections = {
        "bare": ("talk" if lists else "talk in strings", {}),
        "answer, closed": ("talk" if lists else "talk in strings", GUIDANCE[0]),
        "reason, open, context": (
            "one question in a string" if strings else "talk without a system turn",
            GUIDANCE[1],
        ),
    }
    lines = [f"Lists: {lists}. Strings: {strings}. Tools: {takes(template, 'tools')}."]
    for section, (chat, guidance) in sections.items():
        guided = render(PROLOGUE + template, CHATS[chat][0], add_generation_prompt=True, **guidance)
        lines.append(f"\n== {section}: {chat}\n{guided}")
    if takes(template, "tools"):  # the families' words on tools are long, and the same in both renderings
        bare, guided = (render(PROLOGUE + template, *CHATS["tools"], **guidance) for guidance in ({}, GUIDANCE[2]))
        changes = difflib.unified_diff(bare.splitlines(), guided.splitlines(), lineterm="")
        lines.append(
            "\n== answer, definitions: what changes in tools\n" + "\n".join(itertools.islice(changes, 2, None))
        )
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("ACCEPT_GOLDEN") == "1":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert file.read_text(encoding="utf-8") == "\n".join(lines) + "\n", "if that is wanted: ACCEPT_GOLDEN=1"


def test_there_are_families_of_each_kind():
    assert len(FAMILIES) >= 14
    assert {file.stem for file in GOLDEN.iterdir()} == set(FAMILIES)
    assert sum(takes(TEMPLATES[name], "talk") for name in FAMILIES) >= 14
    assert sum(takes(TEMPLATES[name], "talk in strings") for name in FAMILIES) >= 8
    assert sum(takes(TEMPLATES[name], "tools") for name in FAMILIES) >= 6


def guided_turn(content, **guidance):
    """The content of a turn of the user as EmoPrompt leaves it."""
    return guide_messages([{"role": "user", "content": content}], **guidance)[0]["content"]


@pytest.mark.parametrize("chat", CHATS)
def test_only_the_last_turn_of_the_user_is_guided(chat):
    messages, _ = CHATS[chat]
    guided = guide_messages(messages, **GUIDANCE[0])
    last = max(i for i, message in enumerate(messages) if message["role"] == "user")
    assert guided[:last] == messages[:last] and guided[last + 1 :] == messages[last + 1 :]
    assert guided[last] == {"role": "user", "content": guided_turn(messages[last]["content"], **GUIDANCE[0])}
    assert guided[last] != messages[last]


def test_the_other_keys_of_the_turn_stay():
    message = {"role": "user", "name": "Ann", "content": QUESTION, "id": 3}
    guided = {**message, "content": guided_turn(QUESTION, **GUIDANCE[0])}
    assert guide_messages([message], **GUIDANCE[0]) == [guided]


def test_the_last_text_of_the_turn_is_guided_from_its_first_word_to_its_last():
    words = guided_turn(QUESTION, **GUIDANCE[0])
    assert words.count(QUESTION) == 1 and not words.startswith(QUESTION) and not words.endswith(QUESTION)
    before = [{"type": "text", "text": "Before:"}, {"type": "image"}, {"type": "text", "text": "After:"}]
    content = [*before, {"type": "image"}, {"type": "text", "text": QUESTION, "cache": 1}, {"type": "video"}]
    guided = guided_turn(content, **GUIDANCE[0])
    assert guided == [*content[:4], {"type": "text", "text": words, "cache": 1}, content[5]]


@pytest.mark.parametrize("item", [{"text": QUESTION}, {"type": "input_text", "text": QUESTION}])
def test_a_text_of_another_type_or_none_is_guided_all_the_same(item):
    picture = {"image": "a.png", "text": None}  # a table of all items has the columns of all of them
    guided = guided_turn([picture, item], **GUIDANCE[0])
    assert guided == [picture, {**item, "text": guided_turn(QUESTION, **GUIDANCE[0])}]


@pytest.mark.parametrize("content", [[], [{"type": "image"}, {"type": "image"}]])
def test_a_turn_without_words_gets_the_guidance_as_its_text(content):
    text = {"type": "text", "text": guided_turn("", **GUIDANCE[0])}
    assert guided_turn(content, **GUIDANCE[0]) == [*content, text]


def test_messages_may_be_tuples():
    plain = [turn("system", "Be kind."), turn("user", QUESTION)]
    for messages in (tuple(plain), [plain[0], {"role": "user", "content": ({"type": "text", "text": QUESTION},)}]):
        (*_, guided) = guide_messages(messages, **GUIDANCE[0])
        assert guided == {"role": "user", "content": guided_turn(plain[1]["content"], **GUIDANCE[0])}


def test_a_picture_is_not_written_as_text():
    content = [{"type": "image", "image": Image.new("RGB", (8, 8))}, {"type": "text", "text": QUESTION}]
    with pytest.raises(TypeError, match="Image is not JSON serializable"):
        guide_messages([{"role": "user", "content": content}], **GUIDANCE[0])


class AnyGeneration(jinja2.ext.Extension):
    """`{% generation %}` for an environment that hands a template the caller's own messages, as transformers did."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        return jinja2.nodes.Scope(parser.parse_statements(["name:endgeneration"], drop_needle=True), lineno=line)


@pytest.mark.parametrize("name", ["lfm2_2_5_vl", "qwen3_vl", "mistral_3"])
def test_the_callers_messages_are_left_as_they_are(name):
    template = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", AnyGeneration]
    ).from_string(PROLOGUE + TEMPLATES[name])
    for chat, guidance in itertools.product(CHATS, GUIDANCE):
        messages, tools = CHATS[chat]
        given, arguments = copy.deepcopy(messages), copy.deepcopy(guidance)
        if takes(TEMPLATES[name], chat):
            assert template.render(messages=given, tools=tools, bos_token="", eos_token="", **arguments)
        assert given == messages and arguments == guidance


@pytest.mark.parametrize(
    "labels",
    [["joy", "fear"], ("joy", "fear"), [1, 2.5, True], ['"a"', "{{ b }}", "c\nd", "{% e %}", "喜び", "ä, ö", "🙂"]],
)
def test_labels_are_listed_as_they_are(labels):
    listed = ", ".join(str(label) for label in labels)
    for guidance in GUIDANCE:
        guided = guided_turn(QUESTION, **{**guidance, "emotion_labels": labels})
        assert guided.endswith(f"one of: {listed}.")


def test_definitions_are_listed_in_their_order():
    definitions = {"b": '"x" {{ y }}', "a": "喜び\nz", 3: 4}
    guided = guided_turn(QUESTION, emotion_task="hate_detection", emotion_labels=definitions)
    assert guided.endswith('\nAnswer with one of:\n- b: "x" {{ y }}\n- a: 喜び\nz\n- 3: 4')


@pytest.mark.parametrize("labels", [None, [], (), {}])
def test_without_labels_the_question_is_open(labels):
    for guidance in GUIDANCE:
        mode = {key: value for key, value in guidance.items() if key != "emotion_labels"}
        guided = guided_turn(QUESTION, **mode, emotion_labels=labels)
        assert guided == guided_turn(QUESTION, **mode)
        assert guided.endswith("the answer alone.")


@pytest.mark.parametrize("empty", [None, [], ()])
def test_earlier_turns_are_quoted_before_the_question(empty):
    bare = guided_turn(QUESTION, emotion_task="sarcasm_detection")
    guided = guided_turn(QUESTION, emotion_task="sarcasm_detection", emotion_context=CONTEXT)
    earlier = 'Earlier:\nAnn: "It rains {{ again }}."\nBö: "太好了\n😀"\n'
    assert guided == bare.replace(QUESTION, earlier + QUESTION)
    assert guided_turn(QUESTION, emotion_task="sarcasm_detection", emotion_context=empty) == bare


def test_a_conversation_of_thousands_of_turns_is_guided():
    messages = [*TALK[1:3] * 5000, TALK[3]]
    guided = guide_messages(messages, **GUIDANCE[0])
    assert guided[:-1] == messages[:-1]
    assert guided[-1]["content"] == guided_turn(TALK[3]["content"], **GUIDANCE[0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"emotion_task": "joke_detection"},
            "Unknown emotion_task 'joke_detection': use one of emotion_recognition, ",
        ),
        ({"emotion_task": ""}, "Unknown emotion_task ''"),
        ({"emotion_task": ["hate_detection"]}, "Unknown emotion_task '['hate_detection']'"),
        ({"emotion_mode": "guess"}, "Unknown emotion_mode 'guess': use answer or reason."),
        ({"emotion_labels": "no, yes"}, "emotion_labels is 'no, yes': give a list of labels"),
        ({"emotion_labels": {"no": "So.", "yes": None}}, "emotion_labels has no definition of 'yes'"),
        ({"emotion_context": "Ann: Hi."}, "emotion_context is 'Ann: Hi.': give a list of turns"),
        ({"emotion_context": [CONTEXT[0], {"text": "Hi."}]}, "Turn 2 of emotion_context has no speaker or no text"),
        ({"emotion_context": ["Ann: Hi."]}, "Turn 1 of emotion_context has no speaker or no text: Ann: Hi."),
        ({"messages": TALK[2:3]}, "emotion_task is 'hate_detection', but no turn is the user's"),
        ({"messages": []}, "no turn is the user's"),
    ],
)
def test_wrong_arguments_are_refused(arguments, said):
    arguments = {"messages": TALK, "emotion_task": "hate_detection", **arguments}
    for name in ("qwen3_vl", "gemma4_v5", "llava_1_5"):
        with pytest.raises(jinja2.TemplateError) as error:
            render(PROLOGUE + TEMPLATES[name], **arguments)
        assert said in str(error.value)


def test_json_is_all_that_a_guided_conversation_holds():
    guided = guide_messages(CALLED, **GUIDANCE[1])
    assert json.loads(json.dumps(guided)) == guided
