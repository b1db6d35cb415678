"""
A scripted teacher for EmoBench-Drawn, in the place of a large vision-language model where none can be downloaded: an
OpenAI-compatible endpoint on the loopback interface, for `python -m evaluation.rationales --teacher URL`.

python -m benchmarks.drawn_teacher --dataset data/EmoBench-Drawn --port 8123

Shown a training picture, it knows what was drawn there and writes EmoPrompt's three steps truthfully, in few words,
always the same ones for the same thing, none of which names a label. Shown only notes, it knows nothing else: fixed
rules read them, so that a wrong or an empty note leads to a wrong label or to none.
"""

import argparse
import base64
import json
import signal
from contextlib import suppress
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from datasets import Image, List, get_dataset_config_names, load_dataset

from benchmarks.drawn_words import PAYOFF, PROMISE, SEEN
from dataset_scripts.tasks import TASKS


MODEL = "emobench-drawn-teacher"
UNREADABLE = "I cannot tell from these notes."
STEPS = {  # as EmoPrompt calls them
    "emotion_recognition": ("Cues", "Relations and context", "Appraisal"),
    "intent_understanding": ("Cues", "Relations and context", "Goal"),
    "hate_detection": ("Cues", "Target", "Stance"),
    "humor_detection": ("Setup", "Outcome", "Violation"),
    "sarcasm_detection": ("Words", "Picture", "Clash"),
}
PLEASANT, LOW, HIGH = "pleasant, high arousal", "unpleasant, low arousal", "unpleasant, high arousal"
# Task: what was drawn: the label, and what each step says; where it is about a person, the first begins with that.
SCRIPTS = {
    "emotion_recognition": {
        (label,): (label, SEEN[label], "three others look different", appraisal)
        for label, appraisal in {
            "happiness": "a goal is reached; pleasant, high arousal",
            "sadness": "something is lost; unpleasant, low arousal",
            "anger": "a goal is blocked; unpleasant, high arousal",
            "fear": "a danger is near; unpleasant, high arousal",
        }.items()
    },
    "intent_understanding": {
        (label,): (label, SEEN[label], "three others think of other things", goal)
        for label, goal in {
            "eat": "to fill the belly",
            "sleep": "to lie down for the night",
            "play": "to kick it around",
            "travel": "to get to another place",
        }.items()
    },
    "hate_detection": {
        (stance, act): (
            "yes" if against else "no",
            f"{SEEN[act]}; the words {'approve' if stance == 'endorse' else 'disapprove'}",
            "the Zorbs, as a group",
            "the words turn against them" if against else "the words stand up for them",
        )
        for stance in ("endorse", "condemn")
        for act in ("welcome", "exclude")
        for against in [(stance == "endorse") == (act == "exclude")]
    },
    "humor_detection": {
        (promise, payoff): (
            "no" if promise == payoff else "yes",
            PROMISE.format(promise),
            PAYOFF.format(payoff),
            "all goes as expected" if promise == payoff else "another thing than expected, and harmless",
        )
        for promise in ("flower", "rabbit")
        for payoff in ("flower", "rabbit")
    },
    "sarcasm_detection": {
        (mood, weather): (
            "no" if (mood == "glad") == (weather == "sun") else "yes",
            "the caption praises" if mood == "glad" else "the caption complains",
            SEEN[weather],
            "the two fit together" if (mood == "glad") == (weather == "sun") else "the two are at odds",
        )
        for mood in ("glad", "gloomy")
        for weather in ("sun", "storm")
    },
}
FACTORS = {
    "hate_detection": ("stance", "act"),
    "humor_detection": ("promise", "payoff"),
    "sarcasm_detection": ("mood", "weather"),
}


def write_rationale(task: str, attributes: dict) -> str:
    """The three steps and the answer, about a sample of which `attributes` says what was drawn."""
    if task in FACTORS:
        subject, drawn = "", tuple(attributes[name] for name in FACTORS[task])
    else:
        subject, drawn = f"the person in {attributes['asked']} ", (dict(attributes["people"])[attributes["asked"]],)
    label, first, *others = SCRIPTS[task][drawn]
    steps = zip(STEPS[task], (subject + first, *others), strict=True)
    return "\n".join([*(f"{i}. {name}: {said}." for i, (name, said) in enumerate(steps, 1)), f"Answer: {label}"])


def read_notes(task: str, notes: str) -> str:
    """
    The label that notes lead to. What was seen, in the first two steps, and what follows from it, in the third, each
    say one; the answer is that no label can be told if neither is there, or if they disagree.
    """
    words, labels = " ".join(notes.split()), set()
    for label, *seen, concluded in SCRIPTS[task].values():
        if all(f" {said}." in words for said in seen) or f" {concluded}." in words:
            labels.add(label)
    return f"Answer: {labels.pop()}" if len(labels) == 1 else UNREADABLE


def read_samples(dataset: str) -> dict[str, dict[str, str]]:
    """
    SHA-256 of a training sample's pictures, then its instruction, to its rationale; pictures may have several.

    Raises:
        `ValueError`: if the dataset (`str`, a folder) has no drawn training samples.
    """
    known = {}
    for task in get_dataset_config_names(dataset):
        rows = load_dataset(dataset, task, split="train")
        rows = rows.select_columns(["source", "images", "instruction", "attributes"])
        for row in rows.cast_column("images", List(Image(decode=False))):
            if row["source"] == "drawn":
                digest = sha256(b"".join(image["bytes"] for image in row["images"])).hexdigest()
                known.setdefault(digest, {})[row["instruction"]] = write_rationale(task, row["attributes"])
    if not known:
        raise ValueError(
            f"{dataset} has no drawn training samples, and this teacher knows no others: build them by "
            f"`python -m dataset_scripts.build_emobench --output {dataset}`."
        )
    return known


def reply(known: dict[str, dict[str, str]], messages: list[dict]) -> str:
    """
    What the teacher says to a conversation of one turn.

    Raises:
        `ValueError`: if it has a picture that is not `known` or was not asked about so, or neither picture nor notes.
    """
    content = messages[-1]["content"]
    items = [{"type": "text", "text": content}] if isinstance(content, str) else content
    text = "\n".join(item["text"] for item in items if item["type"] == "text")
    pictures = [item["image_url"]["url"] for item in items if item["type"] == "image_url"]
    if pictures:
        digest = sha256(b"".join(base64.b64decode(url.rpartition(",")[2]) for url in pictures)).hexdigest()
        if digest not in known:
            raise ValueError(
                f"what has SHA-256 {digest} is no picture or clip of the {len(known)} in the training split"
            )
        for instruction, rationale in known[digest].items():
            if instruction in text:
                return rationale
        raise ValueError(f"the question about what has SHA-256 {digest} is none of the dataset's own")
    opening, _, notes = text.partition(":\n")
    notes, _, asked = notes.rpartition("\n\n")
    for task, spec in TASKS.items():
        question = spec.sources["drawn"].closed[0].format(subject="the person in question")
        if opening.startswith("Notes of somebody who saw") and asked.startswith(question):
            return read_notes(task, notes)
    raise ValueError("there is neither a picture, nor notes with a question that belongs to them")


def make_server(known: dict[str, dict[str, str]], port: int) -> ThreadingHTTPServer:
    """The endpoint, for `known` as `read_samples` gives it, on a free port if `port` is 0; not serving yet."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet a response: a second one would wait for the first's acknowledgement

        def send(self, status: int, document: dict):
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def refuse(self, status: int, message: str):
            self.send(status, {"error": {"message": message, "type": "invalid_request_error", "code": None}})

        def miss(self):
            self.refuse(404, f"there is no {self.path}: use /v1/models or /v1/chat/completions")

        def do_GET(self):
            if self.path != "/v1/models":
                return self.miss()
            model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "emollm"}
            self.send(200, {"object": "list", "data": [model]})

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path != "/v1/chat/completions":
                return self.miss()
            try:
                request = json.loads(body)
                if request.get("stream"):
                    raise ValueError("this teacher does not stream")
                content = reply(known, request["messages"])
            except (ValueError, LookupError, TypeError, AttributeError) as error:  # whatever JSON may hold
                return self.refuse(400, f"{type(error).__name__}: {error}")
            # There is no tokenizer here: tokens are counted as words.
            usage = {"prompt_tokens": len(body.split()), "completion_tokens": len(content.split())}
            choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
            self.send(
                200,
                {
                    "id": f"chatcmpl-{sha256(body).hexdigest()[:24]}",
                    "object": "chat.completion",
                    "created": 0,  # the same request gets the same bytes
                    "model": MODEL,
                    "choices": [choice],
                    "usage": usage | {"total_tokens": sum(usage.values())},
                },
            )

        def log_message(self, *_):
            pass

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise ValueError(f"port {port} is not free ({error.strerror}): choose another, or 0 for any") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="a folder with EmoBench-Drawn")
    parser.add_argument("--port", type=int, default=0, help="0, the default, picks a free one")
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell that puts it into the background ignores the first for it
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt), make_server(read_samples(args.dataset), args.port) as server:
        print(f"The teacher of {args.dataset} answers at http://127.0.0.1:{server.server_port}/v1", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
