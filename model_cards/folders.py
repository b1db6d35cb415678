"""From what was trained, built or written to the folder that goes to the Hub: one function a kind."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

from dataset_scripts.manifest import verify
from dataset_scripts.publication import lay_out, licences_of, read_stats

from .checks import ROOT, code_of, probe, read_json
from .rendering import read_facts, read_runs, render_metric_card, render_model_card, render_space_card


ROOMS = ("space", "evaluation", "modeling_emollm", "dataset_scripts")
DATA_FILE = re.compile(r"\w[\w.-]*\.(jinja|json)")
# What loading a model can need beside its code. Of what else a training leaves in its folder, nothing is taken.
MODEL_FILES = """
    config.json generation_config.json training.json
    *processor_config.json chat_template.* additional_chat_templates/*.jinja
    tokenizer.json tokenizer_config.json *.model special_tokens_map.json added_tokens.json vocab.* merges.txt
    LICENSE* NOTICE*
""".split()


def take(source: Path, folder: Path, name: str) -> None:
    """Put a file of a folder into another, as a link: weights are large."""
    path = source / name
    if not path.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{path} is a link to {path.resolve()}, outside of the folder: put the file there itself")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).symlink_to(path.resolve())


def weights_of(source: Path) -> set[str]:
    """Names of the files that transformers takes the weights from, and of their index."""
    index = "model.safetensors.index.json"
    if (source / "model.safetensors").is_file() or not (source / index).is_file():
        return {path.name for path in source.glob("model.safetensors")}
    shards = set(read_json(source / index)["weight_map"].values())
    for name in sorted(shards):
        if name != Path(name).name or not (source / name).is_file():
            raise ValueError(f"{source / index} names {name}, which is not there: save the model again")
    return shards | {index}


def assemble_model(
    source: Path, folder: Path, repo_id: str, results: list[Path], dataset_id: str | None, scratch: Path
) -> list[str]:
    """
    A trained model.

    Returns:
        `list[str]`: names of what is left out.

    Raises:
        `ValueError`: if the folder holds no whole model, or other code than this repository's EmoLLM.
    """
    weights = weights_of(source)
    if (source / "adapter_config.json").is_file() and not weights:
        raise ValueError(
            f"{source} is an adapter, and no whole model as train_sft.py saves it: merge it with peft's "
            "merge_and_unload, and save model and processor with save_pretrained"
        )
    if not (source / "config.json").is_file():
        raise ValueError(f"{source} has no config.json: give the folder of a trained model, as train_sft.py wrote it")
    code, is_emollm = code_of(source), read_json(source / "config.json").get("model_type") == "emollm"
    if (facts := read_facts(source))["is_emollm"] != is_emollm:
        raise ValueError(
            f"{source / 'training.json'} is of another model: its is_emollm is {facts['is_emollm']}, and config.json "
            f"is {'' if is_emollm else 'not '}EmoLLM's. Give the folder as train_sft.py wrote it"
        )
    if code and not is_emollm:
        raise ValueError(
            f"{source} has code of its own ({', '.join(sorted(code))}), which this command can't vouch for: take "
            "auto_map out of its *config.json, or publish it with `hf upload`"
        )
    if is_emollm:
        ours = ROOT / "modeling_emollm"
        for name in sorted(code):
            if not (ours / name).is_file() or (source / name).read_bytes() != (ours / name).read_bytes():
                raise ValueError(
                    f"{source / name} differs from this repository's modeling_emollm/{name}, with which nobody has "
                    "tried the weights: train again, or publish from the version that it was trained with"
                )
    names = {path.relative_to(source).as_posix() for pattern in MODEL_FILES for path in source.glob(pattern)}
    names |= code | weights
    for name in sorted(names):
        take(source, folder, name)
    (folder / "README.md").write_text(render_model_card(source, results, repo_id, dataset_id), encoding="utf-8")
    whole = [run for run in read_runs(results) if run["input"] == "all"]
    if whole and dataset_id:  # of the first, as a model has one score a sub-task there
        (scratch / "run").mkdir()
        (scratch / "run" / "results.json").write_text(json.dumps(whole[0]), encoding="utf-8")
        command = [sys.executable, "-m", "evaluation.eval_results", scratch / "run", "--dataset-id", dataset_id]
        done = subprocess.run([*command, "--output", folder], capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise ValueError(f"the run on {whole[0]['dataset']}: {done.stderr.splitlines()[-1]}")
    return sorted({f"{path.name}{'/' * path.is_dir()}" for path in source.iterdir()} - names - {"README.md"})


def assemble_dataset(
    source: Path, folder: Path, repo_id: str, media: bool, private: bool, gated: str | None
) -> dict[str, str]:
    """
    A finished build of EmoBench.

    Returns:
        `dict[str, str]`: licences of its sources, which bind what is published.

    Raises:
        `ValueError`: if the folder holds no finished build, or media would become public that may not be.
    """
    stats = read_stats(source)
    licences = licences_of(stats)
    if media and licences and not private:
        listed = "; ".join(f"{name}: {licence}" for name, licence in licences.items())
        raise ValueError(
            f"nothing says that pictures and clips of {', '.join(licences)} may be passed on ({listed}): publish "
            "--without-media, or --private for yourself alone"
        )
    if problems := verify(source):
        raise ValueError(f"{source} is not what was built: {'; '.join(problems)}. Build it again")
    lay_out(source, stats, folder, repo_id, media, bool(gated))
    return licences


def modules_of(file: Path) -> Iterator[Path]:
    """Files of ROOMS that a file imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(file.relative_to(ROOT).parts[: -node.level]) if node.level else []
            base = ".".join([*base, *filter(None, [node.module])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for parts in (name.split(".") for name in names):
            if parts[0] in ROOMS:
                path = ROOT.joinpath(*parts)
                yield from (f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file())
                packages = (ROOT.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts)))
                yield from (package for package in packages if package.is_file())


def closure_of(file: Path) -> set[Path]:
    """A file, what of this repository it imports, however indirectly, and the files beside them that they name."""
    found, waiting = set(), {file}
    while waiting:
        path = waiting.pop()
        found.add(path)
        if path.suffix == ".py":
            waiting |= set(modules_of(path)) - found
            texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
            texts = [text for text in texts if isinstance(text, str) and DATA_FILE.fullmatch(text)]
            waiting |= {path.with_name(name) for name in texts if path.with_name(name).is_file()} - found
    return found


def assemble_space(folder: Path, repo_id: str, model: str, revision: str) -> None:
    """The demo: app.py and its settings at the root, what it imports in the packages where it is here."""
    requirements = (ROOT / "space" / "requirements.txt").read_text(encoding="utf-8")
    for path in closure_of(ROOT / "space" / "app.py"):
        take(ROOT, folder, path.relative_to(ROOT).as_posix())
    os.replace(folder / "space" / "app.py", folder / "app.py")
    (folder / "requirements.txt").write_text(requirements, encoding="utf-8")
    settings = {"model": model, "revision": revision}
    (folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(render_space_card(repo_id, model, revision), encoding="utf-8")


def assemble_metric(folder: Path, repo_id: str, scratch: Path) -> None:
    """
    The metric as `evaluate.load` takes it from the Hub: a script named as the repository, and the modules that it
    imports as `from .module import name`; evaluate copies those that the script itself names, so it names all.

    Raises:
        `ValueError`: if its scores are not those of the metric in this repository.
    """
    script = ROOT / "evaluation" / "emobench" / "emobench.py"
    others = {path.stem: path for path in closure_of(script) - {script} if path.name != "__init__.py"}
    name = repo_id.split("/")[1]
    if name in others:
        raise ValueError(f"{repo_id}: the metric has a module of its own called {name}; choose another name")
    absolute = re.compile(rf"^from (?:{'|'.join(ROOMS)})\.(\w+) import", re.MULTILINE)
    for stem, path in {**others, name: script}.items():
        text = absolute.sub(r"from .\1 import", path.read_text(encoding="utf-8"))
        if path == script:
            before, rest = text.split("from .", 1)
            more = sorted(set(others) - set(re.findall(r"^from \.(\w+) import", text, re.MULTILINE)))
            named = "".join(f"from .{other} import __name__ as _{other}\n" for other in more)
            text = f"{before}{named}from .{rest}"
        (folder / f"{stem}.py").write_text(text, encoding="utf-8")
    card = render_metric_card(repo_id)
    (folder / "README.md").write_text(card, encoding="utf-8")
    page = escape(card.split("---\n", 2)[2].strip())
    (folder / "index.html").write_text(
        f'<!doctype html>\n<meta charset="utf-8">\n<title>{escape(repo_id)}</title>\n<pre>\n{page}\n</pre>\n',
        encoding="utf-8",
    )
    (scratch / name).mkdir()
    for path in folder.glob("*.py"):  # evaluate wants a folder of the script's name
        take(folder, scratch / name, path.name)
    ours = probe("metric", str(script.parent), scratch, isolated=False)
    if probe("metric", str(scratch / name), scratch) != ours:
        raise ValueError("the metric's copy gives other scores than evaluation/emobench; please report this")
