"""What the tests of evaluation share: the command in this process, rows made by hand."""

import sys
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor


sys.path.append(str(Path(__file__).parents[1] / "rationales"))  # whose loopback endpoint also serves here


@pytest.fixture(scope="module")
def llava(tiny_foundations):
    folder = tiny_foundations["llava"]
    return AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
