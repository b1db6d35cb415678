"""A folder and a repository of the Hub: how they differ, and the one commit after which they do not.

Nothing that others load changes before what was uploaded has been read back: everything is committed to a branch of
its own first, which is deleted in the end. What is new, the repository or a branch, is deleted if anything fails, and
a repository is private until all is well. The last commit can't be stopped any more. A process that is killed can
leave this branch, which the next one deletes, and of a new repository an empty private one.
"""

import difflib
import hashlib
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


REPO_TYPES = {"model": "model", "dataset": "dataset", "space": "space", "metric": "space"}
# What an earlier publishing, or another program, may have put there and what would be loaded: deleted if it is not in
# the folder. Everything else that is there stays.
OWNED = {
    "model": r"[^/]+\.(safetensors|bin|pt|pth|ckpt|pkl|py|json|jinja|model)|(vocab|merges)\.txt"
    r"|additional_chat_templates/[^/]+\.jinja|\.eval_results/emobench\.yaml",
    "dataset": r"[^/]+/[^/]+\.parquet|figures/.+",
    "space": r".+\.(py|jinja|json|png|jpg|mp4)|requirements\.txt",
    "metric": r"[^/]+\.(py|html)",
}
REMEDIES = {
    401: "the Hub does not know you: run `hf auth login`, or set HF_TOKEN to a token that may write",
    403: "your token may not do that: use one that may write to this user or organisation",
    404: "there is no such repository, or your token may not see it",
    409: "something else is changing this repository: wait, and run the same command again",
    412: "something else has changed this repository meanwhile: run the same command again",
    429: "the Hub wants fewer requests: wait some minutes, and run the same command again",
}
TRIAL = "emollm-publishing-trial"  # the branch on which everything is tried first
BRIEF = 60  # lines of difference that are shown of a text


@dataclass(frozen=True)
class Target:
    kind: str
    repo_id: str
    branch: str = "main"
    private: bool = False
    gated: str | None = None
    sdk: str | None = None

    @property
    def repo_type(self) -> str:
        return REPO_TYPES[self.kind]

    @property
    def where(self) -> dict[str, str]:
        return {"repo_id": self.repo_id, "repo_type": self.repo_type}


@dataclass(frozen=True)
class Digests:
    """A file by the two names that the Hub may have for it."""

    sha256: str
    git: str

    def __contains__(self, oid: str) -> bool:
        return oid in (self.sha256, self.git)


@dataclass
class Difference:
    """What the commit would change. `head` is the commit that it is a change of, None without a repository."""

    head: str | None
    branch_exists: bool
    gated: str | bool
    digests: dict[str, Digests]
    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)  # of texts that change

    @property
    def count(self) -> int:
        return len(self.added) + len(self.changed) + len(self.removed)

    def gates(self, target: Target) -> bool:
        """Whether another gate was asked for than there is."""
        return target.gated not in (None, self.gated)

    def problems(self, there: dict[str, str]) -> list[str]:
        """Files that in what is there by [`listing`] are others than were uploaded, or not deleted."""
        wrong = [name for name, digests in self.digests.items() if there.get(name, "") not in digests]
        return wrong + sorted(set(self.removed) & set(there))


def digest(path: Path) -> Digests:
    by_content, by_git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            by_content.update(part)
            by_git.update(part)
    return Digests(by_content.hexdigest(), by_git.hexdigest())


def listing(api: HfApi, target: Target, revision: str) -> dict[str, str]:
    """Files at a commit by their git hash, large ones by their SHA-256."""
    info = api.repo_info(**target.where, revision=revision, files_metadata=True)
    return {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in info.siblings}


def text_changes(target: Target, head: str, folder: Path, name: str) -> list[str]:
    there = Path(hf_hub_download(**target.where, filename=name, revision=head))
    if max(there.stat().st_size, (folder / name).stat().st_size) > 1 << 20:
        return []
    try:
        old, new = (path.read_text(encoding="utf-8").splitlines() for path in (there, folder / name))
    except UnicodeDecodeError:
        return []
    lines = list(difflib.unified_diff(old, new, f"{name} on the Hub", name, lineterm="", n=1))
    more = len(lines) - BRIEF
    return lines[:BRIEF] + ([f"... and {more} more lines"] if more > 0 else [])


def head_of(api: HfApi, target: Target) -> str | None:
    """
    The newest commit of the branch, None if there is no such branch.

    Raises:
        `ValueError`: if it can be none: the name of our own branch, of a tag or of a commit.
    """
    if target.branch == TRIAL:
        raise ValueError(f"branch {TRIAL} is what publishing itself makes and deletes: choose another name")
    try:
        found = api.repo_info(**target.where, revision=target.branch).sha
        if target.branch not in [branch.name for branch in api.list_repo_refs(**target.where).branches]:
            raise ValueError(
                f"{target.branch} is a tag or a commit of {target.repo_id}, where nothing can be added: give a branch"
            )
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return None
    return found


def compare(api: HfApi, target: Target, folder: Path) -> Difference:
    """
    What differs between a folder and what is on the Hub.

    Raises:
        `ValueError`: if the repository is visible to others than was asked for.
    """
    digests = {
        path.relative_to(folder).as_posix(): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    try:
        info = api.repo_info(**target.where)
    except RepositoryNotFoundError:
        return Difference(None, False, False, digests, added=list(digests))
    found = info.sha if target.branch == "main" else head_of(api, target)
    head, exists = found or info.sha, found is not None
    there = listing(api, target, head)
    if info.private != target.private:
        asked, found = ("private", "public") if target.private else ("public", "private")
        raise ValueError(
            f"{target.repo_id} exists and is {found}, but was to be {asked}: change that in its settings on the Hub, "
            "choose another name, or, if it is an empty one that a killed publishing left, delete it there"
        )
    owned = {name for name in set(there) - set(digests) if re.fullmatch(OWNED[target.kind], name)}
    difference = Difference(
        head,
        exists,
        getattr(info, "gated", False) or False,
        digests,
        added=sorted(set(digests) - set(there)),
        changed=sorted(name for name in set(digests) & set(there) if there[name] not in digests[name]),
        removed=sorted(owned),
        others=sorted(set(there) - set(digests) - owned),
    )
    for name in difference.changed:
        if Path(name).suffix in {".md", ".json", ".jinja", ".py", ".txt", ".yaml"}:
            difference.lines += text_changes(target, head, folder, name)
    return difference


def describe(difference: Difference, target: Target, folder: Path) -> str:
    """The difference in words (`str`)."""
    size = {name: f"{(folder / name).stat().st_size:,} bytes" for name in difference.digests}
    marked = {"+": difference.added, "~": difference.changed, "-": difference.removed}
    lines = [f"  {mark} {name}  {size.get(name, '')}".rstrip() for mark, names in marked.items() for name in names]
    same = len(difference.digests) - len(difference.added) - len(difference.changed)
    there = "which is not there yet" if difference.head is None else f"at {difference.head[:12]}"
    branch = f", branch {target.branch}" if target.branch != "main" else ""
    lines.insert(0, f"{target.repo_type} {target.repo_id}{branch}, {there}:")
    lines.append(f"  {same} files as they are")
    if difference.head is None:
        lines.append(f"  will become {'private' if target.private else 'public'}")
    if difference.gates(target):
        lines.append(f"  will become gated: {target.gated} (now: {difference.gated or 'not gated'})")
    lines += [f"  left alone: {', '.join(difference.others)}"] if difference.others else []
    return "\n".join([*lines, *difference.lines])


def handle_signals(handler: Callable | signal.Handlers) -> dict[int, Callable | signal.Handlers | None]:
    """Set what SIGINT and SIGTERM do; returns what they did."""
    return {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}


@contextmanager
def hold_signals() -> Iterator[None]:
    """A signal waits for the end of this."""
    held = []
    before = handle_signals(lambda number, _: held.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held:
        signal.raise_signal(held[0])


def is_lost(error: HTTPError) -> bool:
    """Whether what was asked for may have been done: the Hub broke down, or its answer did not arrive."""
    return not isinstance(error, HfHubHTTPError) or error.response.status_code >= 500


def take_back(what: str, action: Callable, **arguments: object) -> None:
    handle_signals(signal.SIG_IGN)  # who is impatient now would leave half of it there
    try:
        action(**arguments)
    except (HTTPError, OSError) as error:
        if not isinstance(error, HfHubHTTPError) or error.response.status_code != 404:  # it was not made
            sys.stderr.write(f"{what} could not be taken back, please look after it on the Hub: {error}\n")


@contextmanager
def making(stack: ExitStack, what: str, undo: Callable, **arguments: object) -> Iterator[None]:
    """Make something that `stack` takes back, also if a signal comes in the middle or the answer is lost."""
    with hold_signals():
        try:
            yield
        except HTTPError as error:
            if is_lost(error):
                stack.callback(take_back, what, undo, **arguments)
            raise
        stack.callback(take_back, what, undo, **arguments)


def commit(
    api: HfApi, target: Target, folder: Path, difference: Difference, message: str, branch: str, parent: str
) -> str:
    """
    All changes in one commit.

    Returns:
        `str`: the commit's hash.

    Raises:
        `HTTPError`: if there is no such commit.
    """
    changes = [CommitOperationAdd(name, folder / name) for name in (*difference.added, *difference.changed)]
    changes += [CommitOperationDelete(name, is_folder=False) for name in difference.removed]
    options = {**target.where, "revision": branch, "parent_commit": parent}
    try:
        return api.create_commit(operations=changes, commit_message=message, **options).oid
    except HTTPError as error:
        if not is_lost(error):
            raise
        try:
            made = api.repo_info(**target.where, revision=branch).sha
            if made != parent and not difference.problems(listing(api, target, made)):
                return made
        except HTTPError:
            raise ConnectionError(f"look there whether {branch} of {target.repo_id} has changed ({error})") from None
        raise


def read_back(target: Target, revision: str, difference: Difference, cache: Path) -> None:
    """
    Download every file at a commit into a cache and compare it with what was uploaded, which huggingface_hub does not.

    Raises:
        `ValueError`: naming a file whose bytes are others.
    """
    for name, digests in difference.digests.items():
        path = Path(hf_hub_download(**target.where, filename=name, revision=revision, cache_dir=cache))
        if digest(path).sha256 != digests.sha256:
            raise ValueError(f"{name} came back from the Hub with other bytes than were uploaded: publish it again")
        if target.kind == "dataset":  # which is streamed again, and can be larger than the disk
            path.resolve().unlink()


def push(
    api: HfApi,
    target: Target,
    folder: Path,
    difference: Difference,
    message: str,
    verify: Callable[[str], None],
) -> str:
    """
    Make the change. If anything fails, the Hub is as it was.

    Args:
        verify (`Callable`): called with the hash of a commit that has everything, before others see it; raises if what
            is there does not load.

    Returns:
        `str`: the hash of the commit on the branch.
    """
    where, head = target.where, difference.head
    with ExitStack() as failed, ExitStack() as always:
        if difference.head is None:
            with making(failed, f"the new {target.repo_id}", api.delete_repo, **where):
                api.create_repo(**where, private=True, space_sdk=target.sdk)
            head = api.repo_info(**where).sha
        if target.branch != "main" and not difference.branch_exists:
            with making(failed, f"branch {target.branch}", api.delete_branch, **where, branch=target.branch):
                api.create_branch(**where, branch=target.branch, revision=head)
        if difference.gates(target):  # before anything is there
            failed.callback(take_back, "the gate", api.update_repo_settings, **where, gated=difference.gated)
            api.update_repo_settings(**where, gated=target.gated)
        if TRIAL in [branch.name for branch in api.list_repo_refs(**where).branches]:
            api.delete_branch(**where, branch=TRIAL)
        with making(always, f"branch {TRIAL}", api.delete_branch, **where, branch=TRIAL):
            api.create_branch(**where, branch=TRIAL, revision=head)
        trial = commit(api, target, folder, difference, message, TRIAL, head)
        if wrong := difference.problems(listing(api, target, trial)):
            raise ValueError(f"{wrong[0]} is another in commit {trial} than was uploaded: publish it again")
        verify(trial)
        handle_signals(signal.SIG_IGN)  # from here on it is published
        made = commit(api, target, folder, difference, message, target.branch, head)
        if difference.head is None and not target.private:
            api.update_repo_settings(**where, private=False)
        failed.pop_all()
    return made


def explain(error: Exception, target: Target) -> str:
    """What went wrong and what to do, in a line."""
    # of many files, the one that is not uploaded wraps the reason
    cause = error.__cause__ if isinstance(error, RuntimeError) else error
    match cause:
        case HfHubHTTPError():
            status = cause.response.status_code
            remedy = REMEDIES.get(status, "the Hub has a fault, try again" if status >= 500 else "the Hub refuses")
            return f"{target.repo_id}: {remedy} ({' '.join(str(cause).split())})"
        case HTTPError() | ConnectionError():
            return f"{constants.ENDPOINT} cannot be reached: {cause}"
        case LocalTokenNotFoundError():
            return REMEDIES[401]
        case ValueError() | OSError():
            return str(cause)
    raise error
