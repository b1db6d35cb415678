"""The page in an environment of its own, with the versions that a Space gets, and a browser's driver beside it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import av
import numpy as np
import pytest
import torch
from environment import make_environment
from transformers import AutoProcessor

from benchmarks.conformance.checks import as_if_trained
from modeling_emollm import EmoLLMForConditionalGeneration


ROOT = Path(__file__).parents[2]
# Notes whom the server talks to, but for this machine.
SPY = """
import os, sys

def watch(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if host not in (None, "", "localhost", "127.0.0.1", "0.0.0.0", "::1"):
        with open(os.environ["SPY"], "a") as file:
            print(event, host, file=file)

sys.addaudithook(watch)
"""


@pytest.fixture(scope="session")
def space_python() -> Path:
    python = make_environment("space", ROOT / "space" / "requirements.txt", "playwright==1.65.2")
    (packages,) = python.parents[1].glob("lib/python*/site-packages")
    sys.path.append(str(packages))  # behind our own, for gradio_client and playwright
    return python


@pytest.fixture(scope="session")
def emollm(tiny_foundations, tmp_path_factory) -> Path:
    """An EmoLLM whose MVP acts as if trained."""
    folder = tmp_path_factory.mktemp("space") / "emollm"
    torch.manual_seed(0)
    model = EmoLLMForConditionalGeneration.from_foundation(str(tiny_foundations["llava"]), mvp_size=32)
    as_if_trained(model).save_pretrained(folder)
    AutoProcessor.from_pretrained(tiny_foundations["llava"]).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Server:
    """
    Args:
        url (`str`): of the page.
        temporary (`Path`): where the server puts temporary files.
        log (`Path`): what it prints.
        spied (`Path`): whom else it talked to; not there if to nobody.
    """

    url: str
    temporary: Path
    log: Path
    spied: Path

    def files(self) -> list[Path]:
        return [path for path in self.temporary.rglob("*") if path.is_file()]


@pytest.fixture(scope="session")
def serve(space_python, tmp_path_factory):
    @contextmanager
    def serve(command: list, cwd: Path = ROOT) -> Iterator[Server]:
        folder = tmp_path_factory.mktemp("server")
        (folder / "temporary").mkdir()
        (folder / "spy").mkdir()
        (folder / "spy" / "sitecustomize.py").write_text(SPY)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = Server(f"http://127.0.0.1:{port}", folder / "temporary", folder / "log", folder / "spied")
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(folder / "spy"), str(ROOT)]),
            "SPY": str(server.spied),
            "TMPDIR": str(server.temporary),
            "GRADIO_SERVER_PORT": str(port),
            "GRADIO_HEARTBEAT_INTERVAL": "0.2",  # a page that was closed is noticed as soon
        }
        with server.log.open("w") as log:
            process = subprocess.Popen(
                [space_python, *command], cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            for _ in range(600):
                assert process.poll() is None, server.log.read_text()
                try:
                    urlopen(server.url, timeout=10).close()
                    break
                except URLError:
                    time.sleep(0.2)
            yield server
        finally:
            process.terminate()
            process.wait(30)

    return serve


@pytest.fixture(scope="session")
def server(serve, emollm):
    with serve(["-m", "space.app", "--model", str(emollm)]) as server:
        yield server


@pytest.fixture(scope="session")
def write_clip():
    def write(path: Path, seconds: float = 1) -> Path:
        """A small clip that gets lighter, of 10 frames a second."""
        number = round(10 * seconds)
        with av.open(path, "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width = stream.height = 32
            for index in range(number):
                pixels = np.full((32, 32, 3), 250 * index // number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        return path

    return write
