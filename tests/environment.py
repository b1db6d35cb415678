"""Environments of their own, for what wants other versions than the tests run with; made once and kept in .cache."""

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


CACHE = Path(__file__).parents[1] / ".cache"


def make_environment(
    name: str, requirements: Path, *options: str, finish: Callable[[Path], None] = lambda packages: None
) -> Path:
    """
    Python of an environment that has what `requirements` names in front of everything that is installed here. Where it
    can't be installed the test is skipped, and fails in CI.

    Args:
        name (`str`): of its folder.
        requirements (`Path`): a file of requirements.
        options (`str`): further ones of `pip install`.
        finish (`Callable`, *optional*): gets the folder of the new packages.
    """
    key = zlib.crc32(repr([sys.prefix, sys.version, requirements.read_text(), options]).encode())
    folder = CACHE / f"{name}-{key:08x}"
    CACHE.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):  # another worker of the tests may be at it
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
                part = Path(temporary) / "environment"
                venv.create(part, symlinks=True)
                (packages,) = part.glob("lib/python*/site-packages")
                here = sysconfig.get_path("purelib")
                (packages / "running.pth").write_text(f"import site; site.addsitedir({here!r})\n")
                command = [sys.executable, "-m", "pip", "--python", part / "bin" / "python", "install", "--no-compile"]
                command += ["--retries", "1", "-r", requirements, *options]
                result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
                if result.returncode:
                    reason = f"{name} can't be installed:\n{result.stderr}"
                    if os.environ.get("CI") == "true":
                        pytest.fail(reason, pytrace=False)
                    pytest.skip(reason)
                finish(packages)
                part.rename(folder)  # whole or not at all
    return folder / "bin" / "python"
