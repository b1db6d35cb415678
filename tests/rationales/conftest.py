"""A key and short waits for every test, and one finished run for all of them."""

import openai
import pytest
from asking import KEY, write
from loopback_teacher import LoopbackTeacher

from evaluation.rationales import interview


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short waits before a request is repeated, and a key."""
    monkeypatch.setattr(interview, "PAUSE", 0.01)
    monkeypatch.setattr(interview, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr(openai._base_client, "MAX_RETRY_DELAY", 0.02)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture(scope="session")
def finished(drawn_dataset, tmp_path_factory):
    """A run over all tasks with a teacher who is right."""
    output = tmp_path_factory.mktemp("finished") / "reasons"
    with LoopbackTeacher() as teacher:
        write(drawn_dataset, teacher, output)
    return output, teacher.asked
