"""The responses file: one JSON object a line, a teacher's reply to one request, written when it arrives.

| key | |
|---|---|
| key | SHA-256 of the request: teacher, parameters, text, and the pictures' own SHA-256 |
| sample, number | the sample's id, and 1 for the rationale or 2 for its check |
| text, finish_reason, input_tokens, output_tokens | the reply, or |
| refused | why the endpoint refuses this request, whenever it is asked |
"""

import json
import os
from pathlib import Path


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
        self.path, self.places, self.held, self.end = path, {}, {}, 0
        self.file = open(path, "a+b")
        self.file.seek(0)
        for number, line in enumerate(self.file, 1):
            if not line.endswith(b"\n"):
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

    def __contains__(self, key: str) -> bool:
        return key in self.places or key in self.held

    def get(self, key: str) -> dict | None:
        if key in self.held:
            return self.held[key]
        if key not in self.places:
            return None
        self.file.seek(self.places[key])
        return json.loads(self.file.readline())

    def append(self, reply: dict) -> None:
        line = json.dumps(reply).encode() + b"\n"
        self.file.write(line)
        self.file.flush()
        os.fsync(self.file.fileno())  # replies cost money
        self.places[reply["key"]] = self.end
        self.end += len(line)

    def hold(self, reply: dict) -> None:
        """Know a reply without writing it, until `keep`."""
        self.held[reply["key"]] = reply

    def keep(self) -> None:
        while self.held:
            self.append(self.held.popitem()[1])
