"""
Evaluate a vision-language model, foundation, EmoLLM or endpoint, on EmoBench.

python -m evaluation.run --model models/EmoLLM --dataset EmoBench --output results/EmoLLM

# Without EmoPrompt and with it, each in a folder of its own; pictures are encoded once for both
python -m evaluation.run --model models/EmoLLM --dataset EmoBench --emoprompt none answer \
    --output results/EmoLLM results/EmoLLM-EmoPrompt

# Baselines: what the words alone give away, and the pictures alone
python -m evaluation.run --model models/EmoLLM --dataset EmoBench --input text --output results/EmoLLM-text
python -m evaluation.run --model models/EmoLLM --dataset EmoBench --input picture --output results/EmoLLM-picture

# On eight GPUs, and behind an endpoint, whose key is in OPENAI_API_KEY
accelerate launch --num_processes 8 -m evaluation.run --model USER/EmoLLM --dataset EmoBench --output results/EmoLLM
python -m evaluation.run --model https://HOST/v1 --endpoint-model NAME --dataset EmoBench --output results/NAME

The same command again resumes an interrupted run, with any number of processes.
"""

import argparse
import asyncio
import hashlib
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from functools import cached_property
from pathlib import Path

import datasets
import torch
import transformers
from accelerate import PartialState
from filelock import FileLock, Timeout
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.utils.hub import cached_file, extract_commit_hash, resolve_revision

from dataset_scripts.manifest import digest_safetensors
from modeling_emollm.emoprompt import EMOTION_TASKS, PROLOGUE, attach_emoprompt

from .endpoint import Asking
from .general import load_conversations, score_general
from .metrics import score
from .predictions import (
    RESULTS,
    SETTINGS,
    append_predictions,
    collect_predictions,
    digest,
    draw_samples,
    write_json,
)
from .rationales.teachers import Endpoint, TeacherError, check_address
from .rows import MODES, load_rows, make_batches, sample_of
from .scoring import INPUTS, LABEL_SCORES, Preparation, answer_batch


def check_settings(folder: Path, settings: dict) -> None:
    """Records the settings in a new folder. Raises a `ValueError` if the folder is another run's."""
    path = folder / SETTINGS
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
        return
    recorded = json.loads(path.read_text())
    if changed := [name for name in settings if settings[name] != recorded.get(name)]:
        changes = "; ".join(f"{name}: {recorded.get(name)!r}, now {settings[name]!r}" for name in changed)
        raise ValueError(
            f"{folder} holds a run with other settings ({changes}); choose another --output, or delete it."
        )


class Run:
    """
    One command: a model, the rows that it is asked, and a folder for each mode of EmoPrompt.

    Args:
        args (`argparse.Namespace`): of the command line.
        state (`PartialState`): the processes, which share the batches.

    Raises:
        `ValueError`: for modes without a folder each, a folder of another run, and what [`load_rows`] refuses.
    """

    def __init__(self, args: argparse.Namespace, state: PartialState):
        self.args, self.state = args, state
        self.is_endpoint = args.model.lower().startswith(("http://", "https://"))
        modes = [None if mode == "none" else mode for mode in args.emoprompt]
        if len(set(modes)) < len(modes) or len(set(args.output)) < len(modes) or len(args.output) != len(modes):
            raise ValueError(
                f"--emoprompt {' '.join(args.emoprompt)} needs as many different --output folders, one for each mode; "
                f"there are {len(args.output)}."
            )
        if self.is_endpoint and state.num_processes > 1:
            raise ValueError(f"{state.num_processes} processes ask one endpoint: start one, and raise --concurrency.")
        for name, value in (("label-score", args.label_score), ("general", args.general)):
            if self.is_endpoint and value not in (None, "likelihood"):
                raise ValueError(f"--{name} {value} needs a model in this process, not {args.model}.")
        if self.is_endpoint:
            check_address(args.model)
        self.folders = dict(zip(modes, args.output, strict=True))
        self.rows = load_rows(args.dataset, args.tasks, args.split, args.limit, args.seed, args.dataset_revision)
        self.conversations = load_conversations(args.general, args.seed) if args.general else None
        self.total = len(modes) * sum(map(len, self.rows.values()))

    def settings(self, mode: str | None) -> dict:
        args = self.args
        return {
            "model": args.model,
            "revision": args.revision,
            "endpoint_model": args.endpoint_model,
            "dataset": args.dataset,
            "dataset_revision": args.dataset_revision,
            "tasks": args.tasks,
            "emoprompt": mode,
            "emoprompt_wording": hashlib.sha256(PROLOGUE.encode()).hexdigest()[:16] if mode else None,
            "input": args.input,
            "label_score": args.label_score,
            "split": args.split,
            "limit": args.limit,
            "agreement": args.agreement,
            "max_tokens": args.max_tokens if self.is_endpoint else None,
            "general": args.general,
            "seed": args.seed,
            "model_files": digest(Path(args.model).glob("*")),
            "dataset_files": digest(Path(args.dataset).rglob("*.parquet")),
        }

    def collect(self) -> dict[str | None, list[dict]]:
        """The records of each mode so far; all processes call it together."""
        if self.state.is_main_process:
            for folder in self.folders.values():
                collect_predictions(folder)
        self.state.wait_for_everyone()
        records = {mode: collect_predictions(folder) for mode, folder in self.folders.items()}
        self.state.wait_for_everyone()  # who went on would write what another still collects
        return records

    def batches(self, records: dict[str | None, list[dict]]) -> list:
        done = {(r["task"], r["id"], mode) for mode, answered in records.items() for r in answered}
        batches = []
        for task, rows in self.rows.items():
            tested = [name for name, split in zip(rows["id"], rows["split"], strict=True) if split == self.args.split]
            samples = set(map(sample_of, tested))
            greedy = set() if self.is_endpoint else draw_samples(samples, self.args.agreement, self.args.seed)
            answered = {(name, mode) for asked, name, mode in done if asked == task}
            batches += make_batches(rows, self.folders, self.args.batch_size, answered, greedy)
        return batches

    def answer(self, records: dict[str | None, list[dict]]) -> None:
        """Asks what is not answered yet; each process its share."""
        batches = self.batches(records)[self.state.process_index :: self.state.num_processes]
        answered = [record for mode in records for record in records[mode]]
        count = {"right": sum(r["prediction"] == r["answer"] for r in answered), "all": len(answered)}
        name = f"{self.args.output[0]}" + (f" +{len(self.folders) - 1}" if len(self.folders) > 1 else "")
        with tqdm(
            total=self.total,
            initial=count["all"],
            desc=name,
            unit="row",
            disable=not self.state.is_main_process,
        ) as progress:

            def keep(new: list[dict]) -> None:
                for mode, folder in self.folders.items():
                    append_predictions(folder, self.state.process_index, [r for r in new if r["emoprompt"] == mode])
                count["right"] += sum(record["prediction"] == record["answer"] for record in new)
                count["all"] += len(new)
                progress.update(len(new))
                progress.set_postfix(accuracy=f"{count['right'] / count['all']:.3f}")

            if batches:
                (self.ask_endpoint if self.is_endpoint else self.ask_model)(
                    batches, keep, not all(r["error"] for r in answered)
                )

    def ask_endpoint(self, batches: list, keep: Callable, answered: bool) -> None:
        args = self.args
        limits = (args.concurrency, args.requests_per_minute, args.timeout)
        endpoint = Endpoint(args.model, args.endpoint_model, args.max_tokens, *limits)
        asking = Asking(endpoint, lambda record: keep([record]), args.input, answered)
        asyncio.run(asking.run(batches))
        if asking.unanswered:
            raise TeacherError(f"{asking.unanswered} rows were not answered: {asking.error}")

    def ask_model(self, batches: list, keep: Callable, answered: bool) -> None:
        model, processor = self.loaded
        prepared = Preparation(batches, processor, self.args.input, self.args.label_score)
        # Workers decode and resize while the device computes; without one they would take its cores.
        workers = 4 if self.state.device.type == "cuda" else 0
        for batch in DataLoader(prepared, batch_size=None, num_workers=workers):
            keep(answer_batch(model, processor, batch, self.args.label_score))

    @cached_property
    def loaded(self) -> tuple[PreTrainedModel, ProcessorMixin]:
        source = {"revision": self.args.revision, "trust_remote_code": True}
        model = AutoModelForImageTextToText.from_pretrained(self.args.model, use_safetensors=True, **source)
        model = model.to(self.state.device).eval()
        processor = AutoProcessor.from_pretrained(self.args.model, **source)
        if not processor.chat_template:
            raise ValueError(
                f"{self.args.model} has no chat template, without which nobody knows how to ask it: set "
                "`processor.chat_template` to the one of its model card, and save it beside the model."
            )
        if any(self.folders):
            attach_emoprompt(processor)
        tokenizer = processor.tokenizer
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # which is masked
        return model, processor

    def general(self) -> dict | None:
        """How well the model still does what it was not fine-tuned for; once, whatever the modes."""
        if not self.args.general:
            return None
        for folder in self.folders.values():
            if (folder / RESULTS).exists():
                return json.loads((folder / RESULTS).read_text())["general"]
        model, processor = self.loaded
        found = score_general(model, processor, self.conversations, self.args.batch_size)
        return {"dataset": self.args.general} | found

    def identity(self) -> dict:
        """Of the model on the Hub the commit, whatever the revision is called; and what tells the weights apart."""
        if self.is_endpoint:
            return {"commit": None, "weights": None}
        if Path(self.args.model).is_dir():
            return {"commit": None, "weights": digest_safetensors(Path(self.args.model))}
        config = cached_file(self.args.model, "config.json", revision=self.args.revision)
        return {"commit": extract_commit_hash(config, None), "weights": digest_safetensors(Path(config).parent)}

    def dataset_commit(self) -> str | None:
        """Of the dataset on the Hub, as far as it can be told."""
        if Path(self.args.dataset).is_dir():
            return None
        revision = resolve_revision(self.args.dataset, self.args.dataset_revision, repo_type="dataset")
        return getattr(revision, "resolved", None)

    def report(self, records: dict[str | None, list[dict]]) -> None:
        if (answered := sum(map(len, records.values()))) != self.total:
            raise ValueError(f"{answered} of {self.total} rows are answered; the same command again asks the others.")
        general, identity = self.general(), self.identity()
        for mode, folder in self.folders.items():
            settings = self.settings(mode)
            names = ("model", "revision", "endpoint_model", "dataset", "dataset_revision", "split", "limit", "seed")
            names += ("emoprompt", "emoprompt_wording", "input", "label_score")
            results = {name: settings[name] for name in names} | {
                **identity,
                "dataset_commit": self.dataset_commit(),
                "versions": {library.__name__: library.__version__ for library in (torch, transformers, datasets)},
                "n": len(records[mode]),
                "seconds": sum(record["seconds"] for record in records[mode]),
                "general": general,
                **score(records[mode], self.args.seed),
            }
            write_json(folder / RESULTS, results)
            print(f"{folder}:")
            for name, scores in [*results["scores"].items(), ("mean", results["mean"])]:
                low, high = scores["interval"]
                print(
                    f"{name:8} macro F1 {scores['macro_f1']:.3f} [{low:.3f}, {high:.3f}]  accuracy "
                    f"{scores['accuracy']:.3f}  chance {scores['chance']:.3f}  majority {scores['majority']:.3f}  "
                    f"n {scores['n']}"
                )


def main(args: argparse.Namespace) -> None:
    # Others wait while the first one downloads, and for the slowest share.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))
    with state.main_process_first():  # the first one fills the dataset's cache
        run = Run(args, state)
    with ExitStack() as locks:
        if state.is_main_process:
            for mode, folder in run.folders.items():
                check_settings(folder, run.settings(mode))
                try:
                    locks.enter_context(FileLock(folder / ".lock", timeout=0))
                except Timeout as error:
                    raise ValueError(f"Another command writes {folder}; wait for it.") from error
        state.wait_for_everyone()
        try:
            run.answer(run.collect())
        except TeacherError as error:
            print(f"{error}\nWhat is answered is kept; the same command again goes on.", file=sys.stderr)
            sys.exit(1)
        state.wait_for_everyone()
        records = run.collect()
        if state.is_main_process:
            run.report(records)


def at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return int(text)

    return parse


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder, Hub id or http(s)://.../v1; its own code is trusted")
    parser.add_argument("--revision", help="branch, tag or commit of the model's Hub id")
    parser.add_argument("--dataset", required=True, help="folder that dataset_scripts.build_emobench made, or Hub id")
    parser.add_argument("--dataset-revision", help="branch, tag or commit of the dataset's Hub id")
    parser.add_argument("--tasks", nargs="+", default=["all"], help=f"all, or some of {' '.join(EMOTION_TASKS)}")
    parser.add_argument(
        "--output",
        required=True,
        nargs="+",
        type=Path,
        help="for predictions and scores, a folder a mode of EmoPrompt",
    )
    parser.add_argument("--emoprompt", nargs="+", default=["none"], choices=[str(mode or "none") for mode in MODES])
    parser.add_argument(
        "--input", default="all", choices=INPUTS, help="text: grey pictures; picture: without the words quoted"
    )
    parser.add_argument("--label-score", default="likelihood", choices=LABEL_SCORES, help="of closed questions")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=at_least(1), help="samples a task, drawn by --seed")
    parser.add_argument(
        "--agreement",
        type=at_least(0),
        default=8,
        help="samples a task whose label is also generated",
    )
    parser.add_argument("--general", help="dataset of conversations, folder or Hub id, to see what is forgotten")
    parser.add_argument("--batch-size", type=at_least(1), default=16, help="samples")
    parser.add_argument("--seed", type=int, default=0, help="of --limit, --agreement and the bootstrap intervals")
    endpoint = parser.add_argument_group("endpoint", "whose key, if it needs one, is in OPENAI_API_KEY")
    endpoint.add_argument("--endpoint-model", help="its name there; by default the only one that is listed")
    endpoint.add_argument("--concurrency", type=at_least(1), default=8, help="requests at a time")
    endpoint.add_argument("--requests-per-minute", type=float)
    endpoint.add_argument("--timeout", type=float, default=120, help="seconds until a request is repeated")
    endpoint.add_argument("--max-tokens", type=at_least(1), default=1024, help="of an answer; a thinker needs more")
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
