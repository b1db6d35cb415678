"""The responses file: one JSON object a line, a teacher's reply to one request, written when it arrives.

| key | |
|---|---|
| key | SHA-256 of the request: the teacher's name, text, and the pictures' own SHA-256 |
| sample, number | the sample's id, and 1 for the rationale or 2 for its check |
| max_tokens | the limit; what was cut off is asked again under a higher one |
| text, finish_reason, input_tokens, output_tokens | the reply, or |
| refused | why the endpoint refuses this request, whenever it is asked |

The name is all that is known of an endpoint's model: where two serve different models under one name, such as
"default", give each a file of its own.
"""

import json
import os
from pathlib import Path

from .checks import Request
from .teachers import Endpoint, LocalModel


START = b'{"key": "'  # of every line


class Responses:
    """
    The file as a cache; only the places of the lines are held in memory.

    Args:
        path (`Path`): is made if there is none; a last line that was only written in part is cut off.

    Raises:
        `ValueError`: if a line is no reply.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.places, self.end = {}, 0
        self.file = open(path, "a+b")
        self.file.seek(0)
        for number, line in enumerate(self.file, 1):
            if not line.endswith(b"\n") and START.startswith(line[: len(START)]):
                break
            try:
                self.places[json.loads(line)["key"]] = self.end
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}: no reply of a teacher ({error}); remove the line, or choose another "
                    "--responses."
                ) from error
            self.end += len(line)
        self.file.truncate(self.end)

    def __len__(self) -> int:
        return len(self.places)

    def find(self, teacher: Endpoint | LocalModel, request: Request) -> dict | None:
        """The teacher's reply, if there is one that its limit now would not lengthen."""
        if (place := self.places.get(request.key(teacher.identity))) is None:
            return None
        self.file.seek(place)
        reply = json.loads(self.file.readline())
        cut_off = reply.get("finish_reason") == "length" and reply["max_tokens"] < teacher.max_tokens
        return None if cut_off else reply

    def append(self, reply: dict) -> None:
        line = json.dumps(reply).encode() + b"\n"
        self.file.write(line)
        self.file.flush()
        os.fsync(self.file.fileno())  # replies cost money
        self.places[reply["key"]] = self.end
        self.end += len(line)
