"""An OpenAI-compatible endpoint on the loopback interface, of the standard library, which misbehaves as a test wants.

By default it is right. A rationale points to the answer by a code word, from which it knows the answer again:

    with LoopbackTeacher(lambda asked: Reply(status=500) if asked.attempt == 1 else right(asked)) as teacher:
        ...  # ask teacher.url
    teacher.asked  # what arrived
"""

import base64
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Asked:
    """A request; `attempt` counts those with the same body, `place` all of them, both from 1."""

    body: dict
    headers: dict[str, str]
    time: float
    place: int
    attempt: int
    text: str = ""
    images: list[bytes] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    def __post_init__(self):
        (turn,) = self.body["messages"]
        for item in turn["content"]:
            if item["type"] == "text":
                self.text += item["text"]
            else:
                kind, _, data = item["image_url"]["url"].partition(";base64,")
                self.kinds.append(kind)
                self.images.append(base64.b64decode(data))

    @property
    def number(self) -> int:
        return 2 if self.text.startswith("Notes of") else 1

    @property
    def truth(self) -> str:
        return re.search(r"The right answer is known: (.*?)\. Write", self.text)[1]


@dataclass
class Reply:
    text: str | None = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0
    body: bytes | None = None
    finish_reason: str = "stop"
    param: str | None = None
    dies: bool = False


def code_of(label: str) -> str:
    return "sign" + sha256(label.encode()).hexdigest()[:8]


def right(asked: Asked) -> Reply:
    if asked.number == 1:
        codes = " and ".join(map(code_of, asked.truth.split(", ")))
        return Reply(f"1. Cues: a {codes} is seen.\n2. All of it is {asked.truth}.\nAnswer: {asked.truth}")
    labels = asked.text.rpartition("of: ")[2].rstrip(".").split(", ")
    return Reply("Answer: " + ", ".join(label for label in labels if code_of(label) in asked.text))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    teacher: "LoopbackTeacher"

    def log_message(self, *_: object) -> None:
        pass

    def send(self, content: dict, reply: Reply) -> None:
        data = json.dumps(content).encode() if reply.body is None else reply.body
        self.send_response(reply.status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": len(data)} | reply.headers).items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        listed = [{"id": name, "object": "model"} for name in self.teacher.models]
        self.send({"object": "list", "data": listed}, self.teacher.listing)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        reply = self.teacher.take(data, dict(self.headers))
        time.sleep(reply.delay)
        with self.teacher.lock:
            self.teacher.running -= 1
        if reply.dies:
            self.close_connection = True
            return
        content = {
            "id": "reply",
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": reply.finish_reason,
                    "message": {"role": "assistant", "content": reply.text},
                }
            ],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }
        try:
            self.send(
                content if reply.status == 200 else {"error": {"message": reply.text, "param": reply.param}}, reply
            )
        except (BrokenPipeError, ConnectionResetError):  # a client that has not waited
            self.close_connection = True


class LoopbackTeacher:
    """
    The server. `script` says what is replied, `models` what is listed, if `listing` lets it, and `asked` holds what
    arrived; after a reply that `dies`, connections are refused.
    """

    def __init__(self, script: Callable[[Asked], Reply] = right, models: tuple[str, ...] = ("wise",)):
        self.script, self.models, self.listing = script, models, Reply()
        self.asked: list[Asked] = []
        self.seen: Counter[bytes] = Counter()
        self.running = self.most = 0  # requests at the same time
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"teacher": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self) -> "LoopbackTeacher":
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def take(self, data: bytes, headers: dict[str, str]) -> Reply:
        with self.lock:
            self.seen[data] += 1
            self.running += 1
            self.most = max(self.most, self.running)
            place, attempt = len(self.asked) + 1, self.seen[data]
            self.asked.append(Asked(json.loads(data), headers, time.monotonic(), place, attempt))
            reply = self.script(self.asked[-1])
            if reply.dies and self.server.socket.fileno() != -1:
                self.server.socket.close()
        return reply
