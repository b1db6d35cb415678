"""
Write rationales into the training rows of an EmoBench folder, by a teacher that is told the right answers.

python -m evaluation.rationales --dataset EmoBench --teacher Qwen/Qwen2.5-VL-7B-Instruct --output EmoBench-Reasons
python -m evaluation.rationales --dataset EmoBench --teacher https://HOST/v1 --model NAME --output EmoBench-Reasons \
    --estimate --price 0.15 0.60  # says what it would cost, in USD per million tokens; the key is in OPENAI_API_KEY

A rationale is kept if the same teacher, asked again without pictures and without the answer, reaches the answer from
the rationale alone. Every reply is kept beside the output, in OUTPUT.responses.jsonl: the same command again resumes
an interrupted run, and asks nothing twice.
"""

import argparse
import asyncio
import io
import sys
from collections import Counter
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from dataset_scripts.media import MediaError, open_picture
from modeling_emollm.emoprompt import EMOTION_TASKS

from ..predictions import draw_samples
from .checks import UNANSWERED, Outcome, examine, first_request, second_request, trouble_with
from .dataset import FACTS, Tally, find_samples, read_samples, read_stats, write_dataset
from .interview import Interview
from .responses import Responses
from .teachers import Endpoint, LocalModel, TeacherError


# rough rules for the estimate
CHARACTERS_A_TOKEN, PIXELS_A_TOKEN = 4, 750
RATIONALE_TOKENS, ANSWER_TOKENS = 120, 8
ESTIMATED = 200  # samples


def survey(
    folder: Path, samples: dict[str, set[str]], teacher: Endpoint | LocalModel, responses: Responses
) -> tuple[dict[str, set[str]], Counter, Counter]:
    """By task the samples that are not done; how many requests of each number they need at most; and what was done."""
    if not len(responses):
        number = sum(map(len, samples.values()))
        return samples, Counter({1: number, 2: number}), Counter()
    todo, requests, done = {task: set() for task in samples}, Counter(), Counter()
    total = sum(map(len, samples.values()))
    for sample in tqdm(read_samples(folder, samples), total=total, desc="look up replies", unit="sample"):
        step = examine(sample, partial(responses.find, teacher))
        if isinstance(step, Outcome):
            done[step.reason] += 1
        else:
            todo[sample.task].add(sample.id)
            requests.update(range(step.number, 3))
    return todo, requests, done


def estimate_tokens(folder: Path, todo: dict[str, set[str]], requests: Counter, seed: int) -> tuple[int, int]:
    """Into and out of the teacher, about, from some of the samples."""
    drawn = draw_samples([name for names in todo.values() for name in names], ESTIMATED, seed)
    tokens, number = Counter(), 0
    for sample in read_samples(folder, {task: names & drawn for task, names in todo.items()}):
        number += 1
        tokens[1] += len(first_request(sample).text) / CHARACTERS_A_TOKEN
        tokens[2] += len(second_request(sample, "").text) / CHARACTERS_A_TOKEN + RATIONALE_TOKENS
        for data in () if trouble_with(sample) else sample.images:
            with open_picture(io.BytesIO(data)) as image:
                tokens[1] += image.width * image.height / PIXELS_A_TOKEN
    taken = sum(requests[which] * tokens[which] / number for which in tokens)
    return round(taken), requests[1] * RATIONALE_TOKENS + requests[2] * ANSWER_TOKENS


def cost(tokens: tuple[int, int], price: list[float] | None) -> str:
    money = f", ${sum(n * p for n, p in zip(tokens, price, strict=True)) / 1e6:,.2f}" if price else ""
    return f"{tokens[0]:,} tokens in and {tokens[1]:,} out{money}"


def make_teacher(args: argparse.Namespace) -> Endpoint | LocalModel:
    if args.teacher.lower().startswith(("http://", "https://")):
        limits = (args.concurrency, args.requests_per_minute, args.timeout)
        return Endpoint(args.teacher, args.model, args.max_tokens, *limits)
    if args.model:
        raise ValueError(f"--model {args.model} is for an endpoint, but --teacher {args.teacher} is no http(s)://...")
    return LocalModel(args.teacher, args.revision, args.max_tokens, args.batch_size)


def report(facts: dict, price: list[float] | None) -> None:
    for task, sources in facts["configs"].items():
        for source, found in sources.items():
            dropped = "".join(f", {number:,} {reason}" for reason, number in found["dropped"].items())
            print(f"{task}/{source}: {found['asked']:,} samples, {found['kept']:,} kept{dropped}")
    print(f"the replies report {cost((facts['input_tokens'], facts['output_tokens']), price)}")


def write_rationales(args: argparse.Namespace, responses: Responses) -> None:
    stats = read_stats(args.dataset)
    samples = find_samples(args.dataset, stats, args.tasks, args.limit, args.seed)
    teacher = make_teacher(args)
    todo, requests, done = survey(args.dataset, samples, teacher, responses)
    total = sum(map(len, samples.values()))
    print(f"{len(responses):,} replies are there already")
    print(f"{total:,} samples, {done.total():,} of them done; at most {requests.total():,} requests to {teacher.name}")
    if requests:
        tokens = estimate_tokens(args.dataset, todo, requests, args.seed)
        print(f"about {cost(tokens, args.price)}; what it thinks before it answers comes on top", flush=True)
    if args.estimate:
        return
    if requests:
        with tqdm(total=total, initial=done.total(), desc=teacher.name, unit="sample") as progress:
            asyncio.run(Interview(teacher, responses, progress, done).run(read_samples(args.dataset, todo)))

    tally = Tally(partial(responses.find, teacher))
    known = {"teacher": teacher.name, "revision": args.revision, "seed": args.seed, "limit": args.limit}
    facts = write_dataset(args.dataset, args.output, stats, samples, tally, known)
    report(facts, args.price)
    print(f"written to {args.output}")
    counts = [found for sources in facts["configs"].values() for found in sources.values()]
    if unanswered := sum(found["dropped"].get(UNANSWERED, 0) for found in counts):
        print(f"{unanswered:,} samples were not answered; the same command again asks about them")


def main(args: argparse.Namespace) -> None:
    args.output = args.output.resolve()
    if args.output.exists() and not (args.output / FACTS).is_file():
        raise ValueError(f"{args.output} exists, and was not made by this command: choose another --output.")
    if args.dataset.resolve() in args.output.parents:
        raise ValueError(f"{args.output} is inside of {args.dataset}, which would change it: choose another --output.")
    path = args.responses or args.output.with_name(f"{args.output.name}.responses.jsonl")
    responses = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        lock = args.output.with_name(f".{args.output.name}.rationales.lock")
        with FileLock(f"{path}.lock", timeout=0), FileLock(lock, timeout=0):
            responses = Responses(path)
            write_rationales(args, responses)
    except Timeout as error:
        raise ValueError(
            f"Another command writes {args.output} or {path} (it holds {error.lock_file}): wait for it, or choose "
            "another --output and --responses."
        ) from error
    except (TeacherError, MediaError, OSError, KeyboardInterrupt) as stop:
        interrupted = isinstance(stop, KeyboardInterrupt)
        number = len(responses) if responses else 0
        print("interrupted" if interrupted else stop, file=sys.stderr)
        print(f"{number:,} replies are kept in {path}; the same command again goes on.", file=sys.stderr)
        sys.exit(130 if interrupted else 1)


def positive(kind: type):
    def parse(text: str):
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return parse


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, type=Path, help="folder that dataset_scripts.build_emobench made")
    parser.add_argument(
        "--teacher",
        required=True,
        help="an OpenAI-compatible endpoint's http(s)://.../v1, or a folder or Hub id",
    )
    parser.add_argument("--output", required=True, type=Path, help="folder for the dataset with rationales")
    parser.add_argument("--tasks", nargs="+", default=["all"], help=f"all, or some of {' '.join(EMOTION_TASKS)}")
    parser.add_argument("--limit", type=positive(int), help="samples a task, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--responses", type=Path, help="file of all replies; OUTPUT.responses.jsonl by default")
    parser.add_argument("--max-tokens", type=positive(int), default=1024, help="of a reply; a thinker needs more")
    parser.add_argument("--estimate", action="store_true", help="say what it would cost, and stop")
    parser.add_argument("--price", nargs=2, type=float, metavar=("IN", "OUT"), help="USD per million tokens")
    endpoint = parser.add_argument_group("endpoint", "whose key, if it needs one, is in OPENAI_API_KEY")
    endpoint.add_argument("--model", help="its name there; by default the only one that is listed")
    endpoint.add_argument("--concurrency", type=positive(int), default=8, help="requests at a time")
    endpoint.add_argument("--requests-per-minute", type=positive(float))
    endpoint.add_argument("--timeout", type=positive(float), default=120, help="seconds until a request is repeated")
    local = parser.add_argument_group("model in this process")
    local.add_argument("--revision", help="branch, tag or commit of the Hub id")
    local.add_argument("--batch-size", type=positive(int), default=8)
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
