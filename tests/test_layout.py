"""Who may import whom (modeling_emollm is copied flat to a Hub repository), and that there is one version number."""

import ast
import configparser
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml


ROOT = Path(__file__).parents[1]
LIBRARIES = ("modeling_emollm", "dataset_scripts")  # import nothing of ours
# huggingface_hub comes with transformers, whose configurations are declared by its `strict`.
MODEL_NEEDS = {"torch", "transformers", "huggingface_hub", *sys.stdlib_module_names}
ROOMS = (*LIBRARIES, "evaluation", "training", "train_sft", "model_cards", "benchmarks", "space")
MAY_IMPORT = {  # beside LIBRARIES
    "training": {"evaluation"},
    "train_sft": {"training"},
    "benchmarks": {"training", "evaluation"},
    "space": {"evaluation"},
}
FILES = sorted(file for room in ROOMS for file in [*ROOT.glob(f"{room}.py"), *ROOT.glob(f"{room}/**/*.py")])


def room_of(file: Path) -> str:
    return file.relative_to(ROOT).with_suffix("").parts[0]


def is_optional(node: ast.AST) -> bool:
    """`try: ...` and `if is_x_available(): ...`, under which transformers' remote-code check allows any import."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Call):
        return ast.unparse(node.test.func).split(".")[-1].startswith("is_")
    return isinstance(node, ast.Try)


def imports(node: ast.AST, optional: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, optional
        yield from imports(child, optional or is_optional(child))


def modules(node: ast.Import | ast.ImportFrom, file: Path) -> list[str]:
    """Every absolute name that the statement can bring in: `from a import b` may mean the module a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        package = file.relative_to(ROOT).parts[: -node.level]
        base = ".".join([*package, *filter(None, [base])])
    return [base, *(f"{base}.{alias.name}" for alias in node.names)]


def violations(source: str, file: Path, entry_scripts: frozenset[str] = frozenset()) -> list[str]:
    room, found = room_of(file), []
    for node, optional in imports(ast.parse(source)):
        text = ast.unparse(node)
        names = modules(node, file)
        tops = {name.split(".")[0] for name in names}
        allowed = set() if room in LIBRARIES else {*LIBRARIES, *MAY_IMPORT.get(room, ())}
        if tops & set(ROOMS) - {room} - allowed:
            found.append(f"{room} may not import another room: {text}")
        if set(names) & entry_scripts:
            found.append(f"only tests import entry scripts: {text}")
        if room == "dataset_scripts" and tops & {"torch", "transformers"}:
            found.append(f"dataset_scripts builds data without the model's libraries: {text}")
        if room == "modeling_emollm":
            if isinstance(node, ast.ImportFrom) and node.level and (node.level > 1 or "." in (node.module or ".")):
                found.append(f"files are copied flat, so only `from .sibling import Name`: {text}")
            if (
                isinstance(node, ast.Import)
                and room in tops
                or isinstance(node, ast.ImportFrom)
                and (not node.level and room in tops)
            ):
                found.append(f"files are copied flat, so only `from .sibling import Name`: {text}")
            if "jinja2" in tops or not optional and tops - {room, *MODEL_NEEDS}:
                found.append(f"modeling_emollm needs only torch and transformers: {text}")
    return found


def test_every_import_is_allowed():
    entry_scripts = frozenset(
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in FILES
        if re.search(r'^if __name__ == "__main__":', file.read_text(), re.MULTILINE)
    )
    found = [
        f"{file.relative_to(ROOT)}: {problem}"
        for file in FILES
        for problem in violations(file.read_text(), file, entry_scripts)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "name, source",
    [
        ("modeling_emollm/a.py", "import numpy"),
        ("modeling_emollm/a.py", "def f():\n    from PIL import Image"),
        ("modeling_emollm/a.py", "try:\n    import jinja2\nexcept ImportError:\n    pass"),
        ("modeling_emollm/a.py", "from . import sibling"),
        ("modeling_emollm/a.py", "from .sub.sibling import Name"),
        ("modeling_emollm/a.py", "from modeling_emollm.sibling import Name"),
        ("modeling_emollm/a.py", "from dataset_scripts.tasks import TASKS"),
        ("dataset_scripts/readers/a.py", "import torch.nn"),
        ("dataset_scripts/readers/a.py", "try:\n    import transformers\nexcept ImportError:\n    pass"),
        ("dataset_scripts/a.py", "import modeling_emollm"),
        ("evaluation/a.py", "from benchmarks import overhead"),
        ("benchmarks/a.py", "import model_cards.card"),
        ("model_cards/a.py", "from evaluation.metrics import summarise"),
        ("train_sft.py", "from benchmarks.demo import main"),
        ("train_sft.py", "import evaluation.metrics"),
        ("training/a.py", "import train_sft"),
        ("evaluation/a.py", "from training.data import load_rows"),
        ("evaluation/a.py", "from . import run"),
        ("evaluation/a.py", "from .run import main"),
        ("benchmarks/a.py", "from dataset_scripts.build_emobench import main"),
    ],
)
def test_forbidden_imports_are_noticed(name, source):
    assert violations(source, ROOT / name, frozenset({"evaluation.run", "dataset_scripts.build_emobench"}))


@pytest.mark.parametrize(
    "name, source",
    [
        ("modeling_emollm/a.py", "import math\nimport torch.nn.functional as F\nfrom .sibling import Name"),
        ("modeling_emollm/a.py", "if is_vision_available():\n    from PIL import Image"),
        ("evaluation/a.py", "from dataset_scripts.tasks import TASKS\nfrom .metrics import summarise"),
        ("train_sft.py", "import modeling_emollm\nimport trl\nfrom training.data import load_rows"),
        ("training/a.py", "from evaluation.metrics import score"),
    ],
)
def test_allowed_imports_pass(name, source):
    assert not violations(source, ROOT / name, frozenset({"evaluation.run"}))


def test_one_version_number():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    version = setup["metadata"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE).group(1) == version
