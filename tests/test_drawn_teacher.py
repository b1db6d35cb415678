"""The scripted teacher of EmoBench-Drawn, asked as `evaluation.rationales` asks a teacher."""

import base64
import json
import re
import signal
import subprocess
import sys
import textwrap
import threading
import urllib.request
from hashlib import sha256
from pathlib import Path
from urllib.error import HTTPError

import pytest
from datasets import Image, List, load_dataset

from benchmarks.drawn_teacher import STEPS, make_server, read_samples, reply
from benchmarks.tiny_foundations import build_tokenizer, corpus_of
from dataset_scripts.tasks import TASKS
from evaluation.parsing import parse_answer
from modeling_emollm import guide_messages


ROOT = Path(__file__).parents[1]
VOCABULARY = 150  # words, at most, in all rationales together
TOLD = (
    "The right answer is known: {answer}. Write the steps that lead to it from what can be seen and read. Do not "
    "mention that it was told, and do not name it, or a word for it, before the last line."
)


@pytest.fixture(scope="module")
def rows(drawn_dataset) -> list[dict]:
    """All training rows: the 16 balanced samples of each task, so all combinations of what is drawn and said."""
    found = []
    for task in TASKS:
        table = load_dataset(str(drawn_dataset), task, split="train")
        found += table.cast_column("images", List(Image(decode=False)))
    return found


@pytest.fixture(scope="module")
def teacher(drawn_dataset):
    with make_server(read_samples(str(drawn_dataset)), 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def post(url: str, body: bytes) -> bytes:
    request = urllib.request.Request(f"{url}/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return response.read()


def ask(url: str, content, **fields) -> str:
    request = {"model": "any", "temperature": 0, "messages": [{"role": "user", "content": content}]} | fields
    (choice,) = json.loads(post(url, json.dumps(request).encode()))["choices"]
    return choice["message"]["content"]


def refusal(url: str, body) -> str:
    with pytest.raises(HTTPError) as refused:
        post(url, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert refused.value.code == 400
    return json.load(refused.value)["error"]["message"]


def with_picture(row: dict) -> list[dict]:
    """The first pass's content."""
    urls = [f"data:image/jpeg;base64,{base64.b64encode(image['bytes']).decode()}" for image in row["images"]]
    text = {"type": "text", "text": row["instruction"]}
    guided = guide_messages([{"role": "user", "content": [text]}], emotion_task=row["task"], emotion_mode="reason")[0][
        "content"
    ][0]["text"]
    told = {"type": "text", "text": f"{guided}\n\n{TOLD.format(answer=row['answer'])}"}
    return [*({"type": "image_url", "image_url": {"url": url}} for url in urls), told]


def with_notes(row: dict, notes: str) -> str:
    """The second pass's content."""
    question = TASKS[row["task"]].sources["drawn"].closed[0].format(subject="the person in question")
    seen = "clip" if row["task"] == "humor_detection" else "picture"
    return (
        f"Notes of somebody who saw a {seen}:\n{notes}\n\n{question} Judge by the notes alone. Write one line, "
        f"'Answer: ' and one of: {', '.join(row['choices'])}, or unclear."
    )


@pytest.fixture(scope="module")
def rationales(teacher, rows) -> list[tuple[dict, list[str], str]]:
    """Of each row: itself, the three steps and the last line."""
    written = []
    for row in rows:
        *steps, last = ask(teacher, with_picture(row)).split("\n")
        written.append((row, steps, last))
    return written


def test_every_combination_is_reasoned_about_in_three_short_steps(rationales):
    assert len(rationales) == 16 * 6, "both settings of emotion"
    vocabulary = set()
    for row, steps, last in rationales:
        assert last == f"Answer: {row['answer']}"
        assert len(steps) == 3 and len(" ".join(steps).split()) <= 35
        asked = with_picture(row)[-1]["text"]
        for number, (step, name) in enumerate(zip(steps, STEPS[row["task"]], strict=True), 1):
            assert re.fullmatch(rf"{number}\. {name}: [a-zA-Z,; ]+\.", step)
            assert f"\n{number}. {name}: " in asked, "as EmoPrompt asks for it"
        vocabulary.update(re.findall(r"\w+", " ".join(steps)))
    assert len(vocabulary) <= VOCABULARY


def test_no_step_names_a_label(rationales):
    for row, steps, _ in rationales:
        for text in ("\n".join(steps), *steps):
            assert not parse_answer(text, row["choices"], row["task"]), text
            assert not set(re.findall(r"\w+", text.lower())) & {*row["choices"], "not", "none", "never"}


def test_steps_say_what_was_drawn_and_said(rationales):
    """The words for a thing stand for that thing, and only for it."""
    faces = {"happiness": "pink cheeks", "sadness": "blue drops", "anger": "bared teeth", "fear": "round eyes"}
    goals = {"eat": "an apple", "sleep": "a moon", "play": "a ball", "travel": "a car"}
    words = {
        "hate_detection": {"welcome": "open door", "exclude": "bars", "endorse": "approve", "condemn": "disappr"},
        "sarcasm_detection": {"glad": "praises", "gloomy": "complains", "sun": "sun", "storm": "lightning"},
    }
    for row, (first, second, _), _ in rationales:
        drawn = row["attributes"]
        if row["task"] == "humor_detection":
            assert f"promises a {drawn['promise']}." in first and f"a {drawn['payoff']} comes out" in second
        elif row["task"] in words:
            for factor, said in words[row["task"]].items():
                assert (re.search(rf"\b{said}", first + second) is not None) == (factor in drawn.values())
        else:
            assert f"the person in {drawn['asked']} " in first
            for label, said in (faces | goals).items():
                assert (said in first) == (label == dict(drawn["people"])[drawn["asked"]])


def test_the_steps_alone_lead_to_the_label(teacher, rationales):
    by_label = {}
    for row, steps, last in rationales:
        assert ask(teacher, with_notes(row, "\n".join(steps))) == last
        wrapped = textwrap.fill(" ".join(steps), 40)
        assert ask(teacher, [{"type": "text", "text": with_notes(row, wrapped)}]) == last
        by_label.setdefault((row["task"], row["answer"]), set()).add(steps[-1].partition(": ")[2])
    for (task, label), ends in by_label.items():
        others = [said for (other, name), said in by_label.items() if other == task and name != label]
        assert others and not ends & set().union(*others)


def test_wrong_notes_lead_astray(teacher, rationales):
    by_task = {}
    for row, steps, last in rationales:
        by_task.setdefault(row["task"], []).append((row, steps, last))
    for written in by_task.values():
        row, steps, last = written[0]
        wrong, other = next((steps, end) for _, steps, end in written if end != last)
        assert ask(teacher, with_notes(row, "\n".join(wrong))) == other
        for notes in ("", "Somebody is there.", steps[0][:-1], "\n".join([*steps[:2], wrong[2]])):
            said = ask(teacher, with_notes(row, notes))
            assert "Answer:" not in said and not parse_answer(said, row["choices"], row["task"])
    row, _, _ = by_task["hate_detection"][0]
    _, steps, _ = by_task["sarcasm_detection"][0]
    assert "Answer:" not in ask(teacher, with_notes(row, "\n".join(steps))), "notes about something else"


def test_what_it_was_told_does_not_sway_it(teacher, rationales):
    for row, steps, last in rationales[::16]:
        told = next(choice for choice in row["choices"] if choice != row["answer"])
        assert ask(teacher, with_picture(row | {"answer": told})) == "\n".join([*steps, last])


def test_a_picture_is_asked_about_in_the_datasets_own_words(teacher, rationales):
    row, steps, _ = rationales[0]
    asked = row["attributes"]["asked"]
    other = row["instruction"].replace(asked, "purple")
    body = {"messages": [{"role": "user", "content": with_picture(row | {"instruction": other})}]}
    assert "is none of the dataset's own" in refusal(teacher, body)


def test_the_same_request_gets_the_same_bytes(teacher, rows):
    body = json.dumps({"model": "any", "messages": [{"role": "user", "content": with_picture(rows[0])}]}).encode()
    first = post(teacher, body)
    assert first == post(teacher, body)
    reply = json.loads(first)
    words = len(reply["choices"][0]["message"]["content"].split())
    assert reply["object"] == "chat.completion" and reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"] == {
        "prompt_tokens": len(body.split()),
        "completion_tokens": words,
        "total_tokens": len(body.split()) + words,
    }


def test_refusals(teacher, drawn_dataset, rows):
    held_out = load_dataset(str(drawn_dataset), rows[0]["task"], split="test")
    content = with_picture(held_out.cast_column("images", List(Image(decode=False)))[0])
    user = {"role": "user", "content": content}
    assert "is no picture or clip of the 80 in the training split" in refusal(teacher, {"messages": [user]})
    assert "there is neither a picture, nor notes" in refusal(
        teacher, {"messages": [{"role": "user", "content": "Who are you?"}]}
    )
    user["content"] = with_picture(rows[0])
    assert "does not stream" in refusal(teacher, {"messages": [user], "stream": True})
    for body in (b"", b"{", b"[]", b'"a"', b"{}", b'{"messages": []}', b'{"messages": [{"content": [3]}]}', b"\xff"):
        assert "Error: " in refusal(teacher, body)
    for path, data in (("models/other", None), ("completions", b"{}")):
        with pytest.raises(HTTPError) as refused:
            urllib.request.urlopen(f"{teacher}/{path}", data, timeout=30)
        assert refused.value.code == 404 and f"/v1/{path}" in json.load(refused.value)["error"]["message"]


def write_config(folder: Path, task: str, table) -> str:
    (folder / task).mkdir()
    table.to_parquet(folder / task / "train.parquet")
    card = f"configs:\n- config_name: {task}\n  data_files:\n  - split: train\n    path: {task}/train.parquet"
    (folder / "README.md").write_text(f"---\n{card}\n---\n")
    return str(folder)


def test_clips_that_begin_alike_are_told_apart(drawn_dataset, rows, rationales, tmp_path):
    task = "humor_detection"
    table = load_dataset(str(drawn_dataset), task, split="train").cast_column("images", List(Image(decode=False)))
    poster = table[0]["images"][0]
    known = read_samples(write_config(tmp_path, task, table.map(lambda row: {"images": [poster, *row["images"][1:]]})))
    written = {row["id"]: "\n".join([*steps, last]) for row, steps, last in rationales if row["task"] == task}
    for row in table:
        content = with_picture(row | {"images": [poster, *row["images"][1:]]})
        assert reply(known, [{"role": "user", "content": content}]) == written[row["id"]]


def test_questions_about_one_picture_are_told_apart(rows):
    (row,) = (row for row in rows if row["id"] == "drawn/train/000000#open")
    digest = sha256(row["images"][0]["bytes"]).hexdigest()
    known = {digest: {"How is the person in blue?": "One.", row["instruction"]: "Two."}}
    assert reply(known, [{"role": "user", "content": with_picture(row)}]) == "Two."


def test_a_dataset_without_drawn_pictures_is_refused(tmp_path, drawn_dataset):
    table = load_dataset(str(drawn_dataset), "humor_detection", split="train").select_columns(
        ["source", "images", "instruction", "attributes"]
    )
    folder = write_config(tmp_path, "humor_detection", table.map(lambda row: {"source": "humordb"}))
    with pytest.raises(ValueError, match="has no drawn training samples.*dataset_scripts.build_emobench"):
        read_samples(folder)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_command(drawn_dataset, rows, stop):
    command = [sys.executable, "-m", "benchmarks.drawn_teacher", "--dataset", str(drawn_dataset), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            (url,) = re.findall(r"http://127\.0\.0\.1:\d+/v1", line)
            with urllib.request.urlopen(f"{url}/models", timeout=300) as response:
                assert [model["id"] for model in json.load(response)["data"]] == ["emobench-drawn-teacher"]
            assert ask(url, with_picture(rows[-1])).endswith(f"\nAnswer: {rows[-1]['answer']}")
            process.send_signal(stop)
            assert process.wait(timeout=300) == 0
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


def test_a_port_that_is_taken_is_named(teacher):
    port = int(re.search(r":(\d+)/", teacher)[1])
    with pytest.raises(ValueError, match=f"port {port} is not free"):
        make_server({}, port)


def test_openai_client(teacher, rows):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=teacher, api_key="none", max_retries=0) as client:
        messages = [{"role": "user", "content": with_picture(rows[0])}]
        (model,) = client.models.list().data
        reply = client.chat.completions.create(model=model.id, messages=messages, temperature=0)
        assert reply.choices[0].message.content.endswith(f"Answer: {rows[0]['answer']}")
        with pytest.raises(openai.BadRequestError, match="neither a picture, nor notes"):
            client.chat.completions.create(model=model.id, messages=[{"role": "user", "content": "?"}])


def test_rationales_become_part_of_the_tokenizers_corpus(drawn_dataset, rationales, tmp_path):
    task = "intent_understanding"
    texts = {row["id"]: "\n".join(steps) for row, steps, _ in rationales if row["task"] == task}
    chosen = min(texts)  # the others have none
    table = load_dataset(str(drawn_dataset), task, split="train")
    written = table.map(lambda row: {"rationale": texts[chosen] if row["id"] == chosen else None})
    corpora = [corpus_of(folder) for folder in (write_config(tmp_path, task, written), str(drawn_dataset))]
    assert texts[chosen] in corpora[0] and texts[chosen] not in corpora[1]
    few, many = (len(build_tokenizer(corpus, "<image>", {})(texts[chosen])["input_ids"]) for corpus in corpora)
    assert few < many
