"""
What makes evaluation fast: ratios of samples a second, measured in turns in one run on the same model, rows and
answers. On a GPU where there is one, else on the CPU (some 20 minutes on two cores).

python -m benchmarks.evaluation

- labels: a closed question by `evaluation.scoring`, in batches, over a forward pass for each row and label, as
  lmms-eval's loglikelihood does it, and over greedy generation row by row; with 7 labels (CAER-S's) and with 28
  (Intentonomy's, many of which begin alike).
- questions: closed and open, without EmoPrompt and with it, about each picture, over four runs that generate row by
  row.
- processes: two, each with one thread and half of the rows, over one with one thread and all.

The foundation is a LLaVA with 576 visual tokens a picture and the proportions of LLaVA-OneVision-0.5B (see
`benchmarks/training.py`). Its language model has learned in some steps, without pictures, to answer with one of the
labels and to end there: an untrained one would generate to its limit, slower row by row than any real one.
"""

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset, concatenate_datasets
from PIL import Image
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from dataset_scripts.pipeline import build
from dataset_scripts.tasks import TASKS
from evaluation.pictures import undecoded
from evaluation.rows import Batch, Question, make_batches
from evaluation.scoring import MAX_NEW_TOKENS, Preparation, answer_batch, ask, read_text
from modeling_emollm.emoprompt import answer_token_ids, attach_emoprompt

from .sized_llava import build_foundation, build_processor


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
SETS = {
    7: ("emotion_recognition", "caers"),
    28: ("intent_understanding", "intentonomy"),
}


def make_rows(task: str, source: str, settings: tuple[str, ...], number: int, folder: Path) -> Dataset:
    """Questions of a source about pictures of noise; the answer follows from the wording, which can be learned."""
    draw, asked, rows = random.Random(0), TASKS[task].sources[source], []
    for i in range(number):
        path = folder / f"{source}-{i}.png"
        Image.frombytes("RGB", (96, 96), draw.randbytes(96 * 96 * 3)).save(path)
        wording = draw.randrange(len(asked.closed))
        answer = asked.labels[wording * (len(asked.labels) // 4)]
        for setting in settings:
            question = (asked.closed if setting == "closed" else asked.open)[wording].format(subject="this person")
            if setting == "closed":
                question += f" Answer with one of: {', '.join(asked.labels)}."
            content = [{"type": "image"}, {"type": "text", "text": question}]
            turns = [("user", content), ("assistant", [{"type": "text", "text": answer}])]
            rows.append(
                {
                    "id": f"{source}/test/{i}#{setting}",
                    "source": source,
                    "task": task,
                    "setting": setting,
                    "split": "test",
                    "images": [{"bytes": path.read_bytes(), "path": None}],
                    "instruction": question,
                    "context": "",
                    "turns": [],
                    "choices": list(asked.labels),
                    "answer": answer,
                    "answers": [answer],
                    "label_distribution": [],
                    "groups": [],
                    "messages": [{"role": role, "content": items} for role, items in turns],
                }
            )
    return Dataset.from_list(rows)


def teach(model: PreTrainedModel, processor: ProcessorMixin, rows: Dataset, steps: int) -> None:
    """To answer with a label and to end there, by words alone."""
    optimizer, draw = torch.optim.AdamW(model.model.language_model.parameters(), lr=5e-4), random.Random(1)
    taught = rows.to_list()
    processor.tokenizer.padding_side = "right"
    for _ in tqdm(range(steps), desc="teach", file=sys.stderr):
        texts, marks = [], []
        for row in draw.choices(taught, k=16):
            messages = [
                {**turn, "content": [item for item in turn["content"] if item["type"] == "text"]}
                for turn in row["messages"]
            ]
            full = processor.apply_chat_template(messages)
            texts.append(full)
            marks.append(len(processor.tokenizer(full[: full.rindex(row["answer"])])["input_ids"]))
        batch = processor.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        for label, mark in zip(labels, marks, strict=True):
            label[:mark] = -100
        loss = model(**batch.to(model.device), labels=labels.to(model.device)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"taught to a loss of {loss.item():.2f}", file=sys.stderr)


def together(model: PreTrainedModel, processor: ProcessorMixin, rows: Dataset, modes: tuple, size: int) -> list[dict]:
    """As the runner does it."""
    batches = make_batches(rows, modes, size)
    prepared = Preparation(batches, processor)
    return [record for i in range(len(prepared)) for record in answer_batch(model, processor, prepared[i])]


def encode_row(processor: ProcessorMixin, row: dict, mode: str | None, device: torch.device) -> dict:
    """A row's own inputs, from its picture's file."""
    batch = Batch(Dataset.from_list([row]), (Question(row["setting"], mode, False),), [(0,)])
    return dict(Preparation([batch], processor)[0].inputs[0].to(device, DTYPE))


@torch.inference_mode()
def one_by_one(model: PreTrainedModel, processor: ProcessorMixin, rows: Dataset, modes: tuple) -> list[dict]:
    """Greedy generation of every answer, row by row."""
    records = []
    for mode in modes:
        for row in rows:
            inputs = encode_row(processor, row, mode, model.device)
            tokens = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS[mode], do_sample=False)
            text = processor.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            records.append({"id": row["id"], "emoprompt": mode, **read_text(text, row, mode)})
    return records


@torch.inference_mode()
def each_label(model: PreTrainedModel, processor: ProcessorMixin, rows: Dataset) -> list[dict]:
    """A forward pass for each row and label, and `evaluation.scoring`'s rule: first tokens where all differ there."""
    records = []
    for row in rows:
        labels = [answer_token_ids(processor, ask(row, True), choice) for choice in row["choices"]]
        distinct = len({label[0] for label in labels}) == len(labels)
        scores = []
        for label in labels:
            inputs = encode_row(processor, row, None, model.device)
            tail = torch.tensor([label], device=model.device)
            inputs["input_ids"] = torch.cat([inputs["input_ids"], tail], dim=1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            logits = model(**inputs).logits[0, -len(label) - 1 : -1].float().log_softmax(-1)
            steps = logits.gather(1, tail[0, :, None])
            scores.append((steps[0] if distinct else steps.sum()).item())
        records.append({"id": row["id"], "prediction": row["choices"][scores.index(max(scores))]})
    return records


def measure(ways: dict[str, Callable[[], list[dict]]], rounds: int) -> tuple[dict[str, list[float]], dict]:
    """Seconds of each, in turns, and what each answers."""
    seconds, answers = {name: [] for name in ways}, {}
    for number in range(rounds):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            answers[name] = ways[name]()
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
            print(f"round {number + 1}, {name}: {seconds[name][-1]:.1f} s", file=sys.stderr)
    return seconds, answers


def ratio(seconds: dict[str, list[float]], name: str, ours: str = "ours") -> float:
    """How many times as fast ours is, as the median over the rounds."""
    return statistics.median(other / own for other, own in zip(seconds[name], seconds[ours], strict=True))


def agreement(first: list[dict], second: list[dict]) -> float:
    answers = {(r["id"], r.get("emoprompt")): r["prediction"] for r in second}
    return statistics.mean(r["prediction"] == answers[r["id"], r.get("emoprompt")] for r in first)


def share_of_rows(folder: Path, rows: Dataset, size: int, number: int, of: int, start, seconds) -> None:
    """One of several processes, with a thread of its own."""
    torch.set_num_threads(1)
    model, processor = load(folder)
    prepared = Preparation(make_batches(rows, (None,), size)[number::of], processor)
    start.wait()
    begin = time.perf_counter()
    for i in range(len(prepared)):
        answer_batch(model, processor, prepared[i])
    seconds.put(time.perf_counter() - begin)


def spread(folder: Path, rows: Dataset, size: int, processes: int) -> float:
    """Seconds that the slowest of some processes takes for its share."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.evaluation"])
    start, seconds = context.Barrier(processes), context.Queue()
    shares = [
        context.Process(target=share_of_rows, args=(folder, rows, size, number, processes, start, seconds))
        for number in range(processes)
    ]
    for share in shares:
        share.start()
    found = [seconds.get() for _ in shares]
    for share in shares:
        share.join()
    return max(found)


def load(folder: Path) -> tuple[PreTrainedModel, ProcessorMixin]:
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=DTYPE).to(DEVICE).eval()
    return model, attach_emoprompt(AutoProcessor.from_pretrained(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4 if DEVICE.type == "cpu" else 16)
    parser.add_argument("--tokens-per-side", type=int, default=24, help="visual tokens of a picture, along each side")
    parser.add_argument("--hidden-size", type=int, default=192)
    parser.add_argument("--num-layers", type=int, default=5)
    parser.add_argument("--vision-layers", type=int, default=6)
    parser.add_argument("--steps", type=int, default=150, help="in which it learns to answer with a label")
    args = parser.parse_args()
    results = {"device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"{os.cpu_count()} CPU cores"}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        build({"drawn": None}, folder / "data", drawn_size=16)
        processor = build_processor(folder / "data", folder / "tiny")
        sets = {
            number: undecoded(make_rows(*names, ("closed",), args.samples, folder)) for number, names in SETS.items()
        }
        four = undecoded(make_rows(*SETS[7], ("closed", "open"), args.samples, folder))
        sizes = {"hidden_size": args.hidden_size, "num_layers": args.num_layers, "vision_layers": args.vision_layers}
        path = folder / "model"
        results["parameters"] = build_foundation(processor, path, tokens_per_side=args.tokens_per_side, **sizes)
        model, processor = load(path)
        teach(model, processor, concatenate_datasets([*sets.values(), four]), args.steps)
        model.save_pretrained(path)
        model, processor = load(path)

        for number, rows in sets.items():
            ways = {
                "ours": lambda rows=rows: together(model, processor, rows, (None,), args.batch_size),
                "generate": lambda rows=rows: one_by_one(model, processor, rows, (None,)),
                "forward per label": lambda rows=rows: each_label(model, processor, rows),
            }
            seconds, answers = measure(ways, args.rounds)
            results[f"{number} labels"] = {
                "samples_per_second": args.samples / statistics.median(seconds["ours"]),
                "to_forward_per_label": ratio(seconds, "forward per label"),
                "to_generate": ratio(seconds, "generate"),
                "same_as_forward_per_label": agreement(answers["ours"], answers["forward per label"]),
                "same_as_generate": agreement(answers["ours"], answers["generate"]),
            }
        modes = (None, "answer")
        ways = {
            "ours": lambda: together(model, processor, four, modes, args.batch_size),
            "generate": lambda: one_by_one(model, processor, four, modes),
        }
        seconds, answers = measure(ways, args.rounds)
        results["4 questions a picture"] = {
            "samples_per_second": args.samples / statistics.median(seconds["ours"]),
            "to_generate": ratio(seconds, "generate"),
            "same_as_generate": agreement(answers["ours"], answers["generate"]),
        }
        if DEVICE.type == "cpu":
            taken = {n: [spread(path, sets[7], args.batch_size // 2, n) for _ in range(args.rounds)] for n in (1, 2)}
            pairs = zip(taken[1], taken[2], strict=True)
            results["2 processes"] = {"to_one": statistics.median(one / two for one, two in pairs)}
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
