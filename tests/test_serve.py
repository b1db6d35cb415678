"""EmoPrompt over HTTP: `python -m modeling_emollm.serve` on loopback, asked through the client of OpenAI."""

import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import openai
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils.import_utils import is_serve_available

from benchmarks.conformance.checks import as_if_trained
from modeling_emollm import EMOTION_TASKS, EmoLLMForConditionalGeneration, attach_emoprompt, encode_chats


if not is_serve_available():
    REASON = "the server needs fastapi and uvicorn: pip install -e '.[serve]'"
    if os.environ.get("CI") == "true":
        pytest.fail(REASON, pytrace=False)
    pytest.skip(REASON, allow_module_level=True)

ROOT = Path(__file__).parents[1]
KINDS = ("llava", "emollm")
DEFAULTS = {"emotion_task": "humor_detection", "emotion_labels": ["humorous", "not humorous"]}
GUIDANCE = {
    "emotion_task": "emotion_recognition",
    "emotion_mode": "reason",
    "emotion_labels": {"joy": "a goal reached", "fear": "a danger"},
    "emotion_context": [{"speaker": "Anna", "text": "At last!"}],
}
BARE = {"emollm": None, "llava": {"emotion_task": None}}  # how to ask their servers for no guidance
PICTURES = [Image.linear_gradient("L").rotate(angle).convert("RGB") for angle in (0, 90)]
SYSTEM = {"role": "system", "content": [{"type": "text", "text": "Be kind."}]}
ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "A child."}]}


def user(text: str, pictures: int) -> dict:
    return {"role": "user", "content": [*[{"type": "image"}] * pictures, {"type": "text", "text": text}]}


CONVERSATIONS = {
    "one picture": [user("How does she feel?", 1)],
    "two pictures": [user("How does she feel?", 2)],
    "no picture": [user("How does she feel?", 0)],
    "turns": [SYSTEM, user("Who is there?", 1), ANSWER, user("How does she feel?", 1)],
}


@pytest.fixture(scope="module")
def models(tiny_foundations, tmp_path_factory) -> dict[str, tuple]:
    """By kind, the folder that is served, with EmoPrompt in its chat template, and its model loaded here."""
    foundation, folder = tiny_foundations["llava"], tmp_path_factory.mktemp("served")
    torch.manual_seed(1)
    emollm = EmoLLMForConditionalGeneration.from_foundation(str(foundation), mvp_size=16)
    as_if_trained(emollm)  # else it would answer as its foundation
    models = {"llava": AutoModelForImageTextToText.from_pretrained(foundation), "emollm": emollm}
    for kind, model in models.items():
        model.save_pretrained(folder / kind)
        attach_emoprompt(AutoProcessor.from_pretrained(foundation)).save_pretrained(folder / kind)
    (folder / "emollm" / "modeling_emollm.py").write_text("raise RuntimeError('ran the code beside the weights')")
    return {kind: (folder / kind, model) for kind, model in models.items()}


@contextlib.contextmanager
def serve(log: Path, *options: str):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "modeling_emollm.serve", *options, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--device", "cpu"],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield process, port, log
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has died by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def client_of(process: subprocess.Popen, port: int, log: Path) -> openai.OpenAI:
    """Waits until the server answers."""
    deadline = time.monotonic() + 600
    while True:
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0, timeout=300)
        time.sleep(0.1)


@pytest.fixture(scope="module")
def clients(models, tmp_path_factory):
    """By kind of model: a server of one EmoLLM, and one that loads what it is asked for and guides by default."""
    logs = tmp_path_factory.mktemp("logs")
    with (
        serve(logs / "emollm", str(models["emollm"][0])) as emollm,
        serve(logs / "llava", "--chat-template-kwargs", json.dumps(DEFAULTS)) as llava,
    ):
        yield {"emollm": client_of(*emollm), "llava": client_of(*llava)}


def over_http(messages: list[dict], pictures: list[Image.Image]) -> list[dict]:
    """The pictures as data URLs."""
    urls = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, "PNG")
        urls.append("data:image/png;base64," + base64.b64encode(file.getvalue()).decode())
    parts = iter({"type": "image_url", "image_url": {"url": url}} for url in urls)
    return [
        turn | {"content": [next(parts) if item["type"] == "image" else item for item in turn["content"]]}
        for turn in messages
    ]


def pictures_of(messages: list[dict]) -> list[Image.Image]:
    return PICTURES[: sum(item["type"] == "image" for turn in messages for item in turn["content"])]


def ask(client, folder: Path, messages: list[dict], arguments: dict | None = None, **options):
    return client.chat.completions.create(
        model=str(folder),
        messages=over_http(messages, pictures_of(messages)),
        max_tokens=8,
        temperature=0,
        extra_body={} if arguments is None else {"chat_template_kwargs": arguments},
        **options,
    )


def reply(client, folder: Path, messages: list[dict], arguments: dict | None = None) -> tuple[str, int]:
    """The answer and the number of tokens that it answers."""
    completion = ask(client, folder, messages, arguments)
    return completion.choices[0].message.content, completion.usage.prompt_tokens


@pytest.fixture(scope="module")
def local_reply(models, tiny_foundations):
    """The same without a server, and without guidance by a processor that has never seen EmoPrompt."""
    bare = AutoProcessor.from_pretrained(tiny_foundations["llava"])
    guided = attach_emoprompt(AutoProcessor.from_pretrained(tiny_foundations["llava"]))

    def local_reply(kind: str, messages: list[dict], guidance: dict | None = None) -> tuple[str, int]:
        processor = guided if guidance else bare
        inputs = encode_chats(processor, [messages], [pictures_of(messages)], guidance and [guidance])
        length = inputs["input_ids"].shape[1]
        generated = models[kind][1].generate(**inputs, max_new_tokens=8, do_sample=False)
        return processor.decode(generated[0, length:], skip_special_tokens=True), length

    return local_reply


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_task_guides_and_without_one_the_bare_model_answers(clients, models, local_reply, kind, name):
    folder, messages = models[kind][0], CONVERSATIONS[name]
    bare, guided = local_reply(kind, messages), local_reply(kind, messages, GUIDANCE)
    assert guided[0] != bare[0] and guided[1] > bare[1]
    assert reply(clients[kind], folder, messages, GUIDANCE) == guided
    assert reply(clients[kind], folder, messages, BARE[kind]) == bare


@pytest.mark.parametrize("kind", KINDS)
def test_streaming_gives_the_same_reply(clients, models, kind):
    folder, messages = models[kind][0], CONVERSATIONS["turns"]
    chunks = list(ask(clients[kind], folder, messages, GUIDANCE, stream=True))
    text, length = reply(clients[kind], folder, messages, GUIDANCE)
    # Untrained models write halves of characters, which a stream may hold back.
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert streamed.replace("\ufffd", "") == text.replace("\ufffd", "") != ""
    assert chunks[-1].usage.prompt_tokens == length


def test_defaults_of_the_server_hold_until_a_request_says_otherwise(clients, models, local_reply):
    folder, messages, arguments = models["llava"][0], CONVERSATIONS["one picture"], {"emotion_mode": "reason"}
    assert reply(clients["llava"], folder, messages) == local_reply("llava", messages, DEFAULTS)
    guided = local_reply("llava", messages, DEFAULTS | arguments)
    assert reply(clients["llava"], folder, messages, arguments) == guided


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"emotion_task": "joy_detection"}, ["joy_detection", *EMOTION_TASKS]),
        ({"emotion_task": "hate_detection", "emotion_mode": "think"}, ["think", "answer", "reason"]),
        ({"emotion_task": "hate_detection", "emotion_labels": "hateful, not"}, ["emotion_labels", "hateful, not"]),
        ("hate_detection", ["chat_template_kwargs", "object", "hate_detection"]),
        (["emotion_task"], ["chat_template_kwargs", "object", "emotion_task"]),
    ],
)
def test_wrong_arguments_are_the_clients_error_and_named(clients, models, arguments, words, stream):
    with pytest.raises(openai.APIStatusError) as caught:
        ask(clients["emollm"], models["emollm"][0], CONVERSATIONS["one picture"], arguments, stream=stream)
    assert 400 <= caught.value.status_code < 500
    assert [word for word in words if word not in str(caught.value)] == []


def test_arguments_beside_chat_template_kwargs_are_refused_by_name(clients, models):
    with pytest.raises(openai.UnprocessableEntityError, match="emotion_task"):
        clients["emollm"].chat.completions.create(
            model=str(models["emollm"][0]),
            messages=[{"role": "user", "content": "How does she feel?"}],
            extra_body={"emotion_task": "emotion_recognition"},
        )


def test_a_task_for_a_model_without_emoprompt_is_refused(clients, local_reply, tiny_foundations):
    folder, messages = tiny_foundations["llava"], CONVERSATIONS["one picture"]
    for arguments in (GUIDANCE, None):  # with None, the server's defaults
        with pytest.raises(openai.BadRequestError, match="attach_emoprompt"):
            ask(clients["llava"], folder, messages, arguments)
    assert reply(clients["llava"], folder, messages, {"emotion_task": None}) == local_reply("llava", messages)
