"""
Publish a model, a dataset, the demo or the metric on the Hugging Face Hub.

hf auth login
python -m model_cards.publish model outputs/emollm --repo-id USER/EmoLLM --results results/emollm \\
    --dataset-id USER/EmoBench
python -m model_cards.publish dataset data/EmoBench --repo-id USER/EmoBench --without-media --gated manual
python -m model_cards.publish space --repo-id USER/EmoLLM-Demo --model USER/EmoLLM
python -m model_cards.publish metric --repo-id USER/emobench

What goes to the Hub is put together in a folder, checked, and compared with what is there; --dry-run ends here. Then
you are asked, all of it is uploaded in one commit, read back and loaded in a fresh interpreter. If anything fails, the
Hub is as it was before. The last line is the commit, to pin: revision="...".
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from dataset_scripts.publication import read_stats

from .checks import check_folder, probe
from .folders import assemble_dataset, assemble_metric, assemble_model, assemble_space
from .hub import Target, compare, describe, explain, head_of, push, read_back
from .rendering import check_id


SDKS = {"space": "gradio", "metric": "static"}


def assemble(args: argparse.Namespace, api: HfApi, folder: Path, scratch: Path) -> str:
    """Put together in a folder what the command is about; returns the title of its commit."""
    match args.kind:
        case "model":
            left = assemble_model(args.folder, folder, args.repo_id, args.results, args.dataset_id, scratch)
            if left:
                print(f"Left out, as loading needs none of it: {', '.join(left)}")
            return "EmoLLM"
        case "dataset":
            licences = assemble_dataset(
                args.folder, folder, args.repo_id, not args.without_media, args.private, args.gated
            )
            if licences and not args.private:
                print("The annotations keep their sources' licences. Check that these let you publish them:")
                for name, licence in licences.items():
                    print(f"  {name}: {licence}")
            version = read_stats(args.folder)["emobench_version"]
            return f"EmoBench {version}" + (", annotations only" if args.without_media else "")
        case "space":
            check_id(args.model)
            try:
                info = api.model_info(args.model, revision=args.model_revision)
            except (RepositoryNotFoundError, RevisionNotFoundError):
                at = f" at {args.model_revision}" if args.model_revision else ""
                raise ValueError(f"there is no model {args.model}{at} that you may see: publish it first") from None
            if info.private and not args.private:
                raise ValueError(
                    f"{args.model} is private, which a public demo can't load: publish it, or give --private"
                )
            assemble_space(folder, args.repo_id, args.model, info.sha)
            return f"Demo of {args.model}"
        case "metric":
            assemble_metric(folder, args.repo_id, scratch)
            return "Scores of EmoBench"


def ask(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        raise ValueError("nobody answers: give --yes to publish without being asked") from None


def publish(args: argparse.Namespace, target: Target, scratch: Path) -> None:
    api = HfApi()
    if not args.dry_run:
        api.whoami()  # without a token, fail before gigabytes are read in vain
    if target.branch != "main":
        head_of(api, target)  # raises for what is no branch
    folder = scratch / "folder"
    folder.mkdir()
    title = assemble(args, api, folder, scratch)
    source = getattr(args, "folder", None)
    check_folder(folder, args.kind, [source, source.resolve()] if source else [])
    if args.kind in ("model", "dataset"):  # the metric was tried already, and the demo has requirements of its own
        (scratch / "offline").mkdir()
        probe(args.kind, str(folder), scratch / "offline")
    difference = compare(api, target, folder)
    print(describe(difference, target, folder))
    if difference.head and difference.branch_exists and not difference.count and not difference.gates(target):
        print(f"It is published already.\n{difference.head}")
        return
    if args.dry_run:
        print("Nothing was changed on the Hub (--dry-run).")
        return
    if not args.yes and not ask("Publish this?"):
        print("Nothing was changed on the Hub.")
        return

    def verify(revision: str) -> None:
        home = scratch / "home"
        home.mkdir()
        read_back(target, revision, difference, home / "hub")
        if args.kind != "space":
            probe(args.kind, args.repo_id, home, revision)

    made = push(api, target, folder, difference, title, verify)
    kind = "" if target.repo_type == "model" else f"{target.repo_type}s/"
    print(f"published {api.endpoint}/{kind}{args.repo_id}/commit/{made}\n{made}")


def make_parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--repo-id", required=True, metavar="USER/NAME")
    common.add_argument("--private", action="store_true", help="only its owner may see it")
    common.add_argument("--revision", default="main", metavar="BRANCH", help="made from main if there is none")
    common.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    common.add_argument("--yes", action="store_true", help="do not ask")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    model = kinds.add_parser("model", parents=[common], help="a trained model")
    model.add_argument("folder", type=Path, help="that train_sft.py wrote")
    model.add_argument(
        "--results", type=Path, nargs="+", default=[], metavar="DIR", help="of evaluation.run, for the card"
    )
    model.add_argument("--dataset-id", metavar="USER/NAME", help="the dataset on the Hub that the results are of")
    dataset = kinds.add_parser("dataset", parents=[common], help="a finished build of EmoBench")
    dataset.add_argument("folder", type=Path, help="that build_emobench wrote")
    dataset.add_argument("--without-media", action="store_true", help="leave out pictures and clips")
    dataset.add_argument("--gated", choices=("auto", "manual"), help="let readers in who agree, at once or one by one")
    space = kinds.add_parser("space", parents=[common], help="the demo")
    space.add_argument("--model", required=True, metavar="USER/NAME", help="the model on the Hub that it shows")
    space.add_argument("--model-revision", metavar="COMMIT", help="its newest by default")
    kinds.add_parser("metric", parents=[common], help="the scores, for evaluate.load")
    return parser


def stop(number: int, _: object) -> None:
    sys.exit(128 + number)


def main(args: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, stop)  # an exception, so that what was begun is taken back
    target = Target(
        args.kind, args.repo_id, args.revision, args.private, getattr(args, "gated", None), SDKS.get(args.kind)
    )
    try:
        check_id(args.repo_id)
        with tempfile.TemporaryDirectory(prefix="publish-") as scratch:
            publish(args, target, Path(scratch))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except (ValueError, OSError, LocalTokenNotFoundError, HTTPError, RuntimeError) as error:
        sys.exit(f"publish: {explain(error, target)}")


if __name__ == "__main__":
    main(make_parser().parse_args())
