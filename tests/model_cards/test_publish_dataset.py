"""EmoBench from a finished build to the Hub and back, with the commands and lines that users run, against a Hub of our
own on the loopback interface."""

import io
import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset
from loopback_hub import OWNER, READER, Fault, File, Repo

from benchmarks.fake_sources import make_sources
from dataset_scripts.manifest import verify
from dataset_scripts.pipeline import build
from dataset_scripts.publication import copy_text
from dataset_scripts.tasks import TASKS
from model_cards.hub import TRIAL


# Prints, for every config and split of a repository, as JSON: rows, and a hash of each row's id, text and media.
LOAD = """
import hashlib, json, sys
from datasets import Image, List, get_dataset_config_names, load_dataset

def fingerprint(rows):
    digest, number = hashlib.sha256(), 0
    for number, row in enumerate(rows, 1):
        for image in row.pop("images", None) or []:
            digest.update(image["bytes"])
        clip = row.pop("video", None)
        digest.update(clip["bytes"] if clip else b"")
        digest.update(json.dumps(row, sort_keys=True).encode())
    return [number, digest.hexdigest()]

def load(name, config, **options):
    splits = load_dataset(name, config, **options)
    if "images" in splits["train"].features:
        splits = splits.cast_column("images", List(Image(decode=False)))
    return {split: fingerprint(rows) for split, rows in splits.items()}

name, *streams = sys.argv[1:]
found = {c: [load(name, c, streaming=s == "stream") for s in streams] for c in get_dataset_config_names(name)}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """The user's own copies of three sources."""
    folder = tmp_path_factory.mktemp("sources")
    make_sources(folder, 0.0, ("ferplus", "harmeme", "mintrec"))
    return folder


@pytest.fixture(scope="module")
def built(sources, tmp_path_factory) -> Path:
    """EmoBench of these sources, with clips as they are, and of drawings."""
    folder = tmp_path_factory.mktemp("built") / "build"
    names = {name: str(sources / name) for name in ("ferplus", "harmeme", "mintrec")}
    build(
        {"drawn": None, **names},
        folder,
        ("emotion_recognition", "intent_understanding", "hate_detection"),
        drawn_size=16,
        video="clip",
    )
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """EmoBench-Drawn of one task."""
    folder = tmp_path_factory.mktemp("small") / "drawn"
    build({"drawn": None}, folder, ("hate_detection",), seed=5, drawn_size=16)
    return folder


@pytest.fixture
def load(run):
    """Every config of a repository by its name, loaded and streamed; or the error."""

    def load(name: str, token: str | None = None, streams: tuple[str, ...] = ("store", "stream")) -> dict | str:
        done = run("-c", LOAD, name, *streams, token=token)
        return done.stderr.splitlines()[-1] if done.returncode else json.loads(done.stdout.splitlines()[-1])

    return load


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def uploaded(repo: Repo) -> dict[str, bytes]:
    return {path: file.data for path, file in repo.files.items() if path != ".gitattributes"}


def head_of(card: bytes) -> dict:
    return yaml.safe_load(re.match(rb"---\n(.*?)\n---\n", card, re.DOTALL).group(1))


def is_verified(repo: Repo, folder: Path) -> bool:
    """Whether what is on the Hub is a whole build."""
    for path, data in uploaded(repo).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return verify(folder) == []


def rows_of(folder: Path | dict[str, bytes], config: str, split: str) -> list[dict]:
    """Rows as the Parquet files have them."""
    files = contents(folder) if isinstance(folder, Path) else folder
    shards = [data for path, data in sorted(files.items()) if path.startswith(f"{config}/{split}-")]
    return [row for shard in shards for row in pq.read_table(io.BytesIO(shard)).to_pylist()]


def test_drawn_is_published_in_one_commit_and_loads_by_name(drawn_dataset, hub, publish, load, tmp_path):
    printed = publish("dataset", drawn_dataset, "--repo-id", "owner/EmoBench-Drawn")
    repo = hub.repos["dataset", "owner/EmoBench-Drawn"]
    assert (repo.private, repo.gated, list(repo.branches)) == (False, False, ["main"])
    assert [title.split()[0] for title in repo.history] == ["EmoBench", "initial"]
    assert f"published {hub.endpoint}/datasets/owner/EmoBench-Drawn/commit/{repo.branches['main']}\n" in printed
    mine, theirs = contents(drawn_dataset), uploaded(repo)
    assert set(mine) == set(theirs)
    assert {path for path in mine if mine[path] != theirs[path]} == {"README.md", "manifest.json"}
    assert b'load_dataset("owner/EmoBench-Drawn", "emotion_recognition"' in theirs["README.md"]
    assert is_verified(repo, tmp_path / "copy")
    local, remote = load(str(drawn_dataset), streams=("store",)), load("owner/EmoBench-Drawn")
    assert set(local) == set(TASKS)
    for config, ((splits,)) in local.items():
        assert remote[config] == [splits, splits], config
        assert splits["test"][0] == (480 if config == "emotion_recognition" else 240)


def test_media_that_may_not_be_passed_on_are_refused(built, hub, refuse):
    (public, gated) = refuse(
        (OWNER, "dataset", built, "--repo-id", "owner/EmoBench"),
        (OWNER, "dataset", built, "--repo-id", "owner/EmoBench", "--gated", "auto"),
    )
    for message in (public, gated):
        assert "nothing says that pictures and clips of ferplus, mintrec, harmeme may be passed on" in message
        assert "harmeme: none stated for the memes: research only, never redistribute" in message
        assert "--without-media, or --private" in message
    assert not hub.repos and {path for _, path, _ in hub.requests} == {"/api/whoami-v2"}


def test_private_is_for_the_owner_alone(built, hub, publish, load):
    publish("dataset", built, "--repo-id", "owner/mine", "--private")
    assert hub.repos["dataset", "owner/mine"].private
    for token in (None, READER):
        assert "doesn't exist on the Hub or cannot be accessed" in load("owner/mine", token)
    local = load(str(built), streams=("store",))
    assert load("owner/mine", OWNER) == {config: [splits, splits] for config, (splits,) in local.items()}


def test_gated_is_for_those_who_agree(small, hub, publish, load):
    printed = publish("dataset", small, "--repo-id", "owner/gated", "--gated", "manual")
    shown = "  will become public\n  will become gated: manual (now: not gated)\n"
    assert shown in printed.split("Publish this?")[0]
    repo = hub.repos["dataset", "owner/gated"]
    assert repo.gated == "manual" and not repo.private
    settings = hub.requests.index(("PUT", "/api/datasets/owner/gated/settings", "owner"))
    commit = hub.requests.index(("POST", f"/api/datasets/owner/gated/commit/{TRIAL}", "owner"))
    assert settings < commit, "nothing may be there before the gate is"
    assert "you agree" in head_of(repo.files["README.md"].data)["extra_gated_prompt"]
    assert "gated dataset" in load("owner/gated") and "gated dataset" in load("owner/gated", READER)
    repo.granted.add("reader")
    assert set(load("owner/gated", READER, ("stream",))) == {"hate_detection"}
    repo.gated = False
    assert "will become gated: manual" in publish("dataset", small, "--repo-id", "owner/gated", "--gated", "manual")
    assert repo.gated == "manual" and len(repo.history) == 2
    assert "It is published already" in publish("dataset", small, "--repo-id", "owner/gated", "--gated", "manual")


def test_without_media_nothing_of_a_picture_or_clip_leaves(built, sources, hub, publish, tmp_path):
    printed = publish("dataset", built, "--repo-id", "owner/text", "--without-media")
    assert "Check that these let you publish them" in printed and "harmeme: none stated" in printed
    repo = hub.repos["dataset", "owner/text"]
    assert not repo.private and is_verified(repo, tmp_path)
    media = [data for path, data in contents(sources).items() if path.endswith((".png", ".jpg", ".jpeg", ".mp4"))]
    assert len(media) > 100
    for stored in (*uploaded(repo).values(), *hub.uploads.values()):
        assert not any(data[:200] in stored for data in media if data)
    head = head_of(repo.files["README.md"].data)
    assert head["pretty_name"] == "EmoBench, annotations only"
    for info in head["dataset_info"]:
        config = info["config_name"]
        names = [feature["name"] for feature in info["features"]]
        assert not {"images", "video"} & set(names) and {"media", "messages", "answer"} <= set(names)
        for split in info["splits"]:
            whole, text = rows_of(built, config, split["name"]), rows_of(uploaded(repo), config, split["name"])
            assert [{name: row[name] for name in names} for row in whole] == text
            assert split["num_examples"] == len(text)
    files = uploaded(repo)
    shards = {config: sum(len(files[path]) for path in files if path.startswith(f"{config}/")) for config in TASKS}
    assert json.loads(files["stats.json"])["bytes"] == {config: size for config, size in shards.items() if size}


def test_annotations_load_by_name_and_the_cards_lines_join_ones_own_copies(
    built, sources, hub, publish, load, run, tmp_path
):
    publish("dataset", built, "--repo-id", "owner/text", "--without-media")
    loaded = load("owner/text")
    for config, (stored, streamed) in loaded.items():
        assert stored == streamed
        assert all(count == len(rows_of(built, config, split)) for split, (count, _) in stored.items())
    card = hub.repos["dataset", "owner/text"].files["README.md"].data.decode()
    pictures, clips = re.findall(r"```python\n(.*?)```", card.split("## Joining")[1], re.DOTALL)
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "to").symlink_to(sources)
    show = """
import hashlib, json
def of(image):
    return hashlib.sha256(image.tobytes()).hexdigest()
print(json.dumps([[row["id"], [of(image) for image in row["images"]], row["messages"]] for row in dataset]))
"""
    done = run("-c", pictures + show, token=None, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    joined = json.loads(done.stdout.splitlines()[-1])
    whole = """
import sys
from datasets import load_dataset
dataset = load_dataset(sys.argv[1], "emotion_recognition", split="train")
dataset = dataset.filter(lambda row: row["source"] == "ferplus")
"""
    done = run("-c", whole + show, str(built), token=None)
    assert joined and joined == json.loads(done.stdout.splitlines()[-1])
    assert all(row[2][0]["content"][0] == {"type": "image"} for row in joined)

    show = 'import json; print(json.dumps([[row["id"], row["video"]["path"], row["messages"]] for row in dataset]))'
    done = run("-c", clips + show, token=None, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    joined = json.loads(done.stdout.splitlines()[-1])
    whole = {
        row["id"]: row["video"]["bytes"] for row in rows_of(built, "intent_understanding", "train") if row["video"]
    }
    assert joined and {name: (tmp_path / path).read_bytes() for name, path, _ in joined} == whole
    assert all(row[2][0]["content"][0] == {"type": "video"} for row in joined)


def test_annotations_have_the_rationales(drawn_dataset, tmp_path):
    (shard,) = drawn_dataset.glob("humor_detection/train-*.parquet")
    table, copy = pq.read_table(shard), tmp_path / "copy" / "train.parquet"
    place, texts = table.column_names.index("rationale"), [None, *(f"Setup {i}." for i in range(1, len(table)))]
    pq.write_table(table.set_column(place, table.field(place), [texts]), tmp_path / "written.parquet")
    copy_text(tmp_path / "written.parquet", copy)
    loaded = Dataset.from_parquet(str(copy), cache_dir=str(tmp_path))
    assert loaded["rationale"][:] == texts and "images" not in loaded.features


def test_publishing_again_replaces_what_was_there_and_leaves_other_files(drawn_dataset, small, hub, publish):
    publish("dataset", drawn_dataset, "--repo-id", "owner/drawn")
    repo = hub.repos["dataset", "owner/drawn"]
    repo.commit("main", "by hand", "", repo.files | {"LICENSE": File(b"mine", lfs=False)})
    publish("dataset", small, "--repo-id", "owner/drawn")
    mine, theirs = contents(small), uploaded(repo)
    assert set(theirs) == {*mine, "LICENSE"} and len(repo.history) == 4
    assert {path for path in mine if mine[path] != theirs[path]} == {"README.md", "manifest.json"}


def test_refusals_say_what_to_do(small, hub, refuse, tmp_path):
    for name, private in (("owner/public", False), ("owner/private", True)):
        repo = hub.repos["dataset", name] = Repo("dataset", name, private=private)
        repo.commit("main", "initial commit", "", {})
    for name in ("changed", "unfinished"):
        shutil.copytree(small, tmp_path / name)
    (tmp_path / "changed" / "duplicates.jsonl").write_text("{}\n")
    (tmp_path / "changed" / "notes.txt").write_text("mine")
    (tmp_path / "unfinished" / "manifest.json").unlink()
    drawn, to = small, "--repo-id"
    endings = refuse(
        (OWNER, "dataset", tmp_path / "none", to, "owner/new"),
        (OWNER, "dataset", tmp_path / "unfinished", to, "owner/new"),
        (OWNER, "dataset", tmp_path / "changed", to, "owner/new"),
        (OWNER, "dataset", drawn, to, "new"),
        (OWNER, "dataset", drawn, to, "owner/what is this"),
        ("", "dataset", tmp_path / "changed", to, "owner/new"),  # before gigabytes are read in vain
        ("hf_wrong", "dataset", drawn, to, "owner/new"),
        (READER, "dataset", drawn, to, "owner/new"),
        (READER, "dataset", drawn, to, "owner/public"),
        (OWNER, "dataset", drawn, to, "owner/public", "--private"),
        (OWNER, "dataset", drawn, to, "owner/private"),
    )
    for ending, told in zip(
        endings,
        (
            "none has no manifest.json, stats.json, README.md: it is no finished build",
            "unfinished has no manifest.json: it is no finished build",
            "notes.txt: not part of the build; duplicates.jsonl: ",
            "new must be USER/NAME",
            "owner/what is this",
            "run `hf auth login`, or set HF_TOKEN",
            "run `hf auth login`, or set HF_TOKEN",
            "your token may not do that",
            "your token may not do that",
            "owner/public exists and is public, but was to be private",
            "owner/private exists and is private, but was to be public",
        ),
        strict=True,
    ):
        assert ending.startswith("publish: ") and told in ending, (told, ending)
        assert "\n" not in ending
    assert list(hub.repos) == [("dataset", "owner/public"), ("dataset", "owner/private")]
    assert not any(repo.files for repo in hub.repos.values())


def test_large_files_that_do_not_arrive(small, hub, refuse, tmp_path):
    """What fails once is sent again; what is refused, or arrives with another byte, is told of."""
    call = (OWNER, "dataset", small, "--repo-id", "owner/one")
    hub.broken = {"lfs_upload": Fault(403, "quota is used up")}
    (ending,) = refuse(call)
    assert "owner/one: your token may not do that" in ending and "403" in ending and "\n" not in ending
    hub.broken = {"lfs_upload": Fault(wrong=True)}
    (ending,) = refuse(call)
    assert "owner/one: the Hub refuses" in ending and "is another" in ending and not hub.repos
    hub.seen.clear()
    hub.broken = {
        "lfs_upload": Fault(cut="request", requests=[1]),
        "lfs_batch": Fault(429, retry_after=1, requests=[1]),
        "resolve": Fault(cut="answer", requests=[40]),
    }
    assert refuse(call) == [None]
    assert is_verified(hub.repos["dataset", "owner/one"], tmp_path) and hub.seen["lfs_batch"] > 1


# the Hub of the tests itself


def test_the_hub_keeps_branches_tags_and_history(hub, run, tmp_path):
    code = """
import json
from datasets import Dataset, Image, List, Features, load_dataset
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from PIL import Image as Picture
Picture.new("RGB", (4, 3), (10, 200, 30)).save("green.png")
features = Features({"images": List(Image())})
for config in ("one", "two"):
    Dataset.from_dict({"images": [["green.png"]]}, features=features).push_to_hub("owner/pushed", config_name=config)
for config in ("one", "two"):
    (row,) = load_dataset("owner/pushed", config, split="train")
    assert row["images"][0].getpixel((0, 0)) == (10, 200, 30)

api = HfApi()
api.create_repo("owner/model")
first = api.upload_file(repo_id="owner/model", path_or_fileobj=b"1", path_in_repo="a/b.txt").oid
api.create_tag("owner/model", tag="v1")
api.create_branch("owner/model", branch="try/it")
api.upload_file(repo_id="owner/model", path_or_fileobj=b"\\0" * 1000, path_in_repo="a/b.bin", revision="try/it")
api.upload_file(repo_id="owner/model", path_or_fileobj=b"2", path_in_repo="a/b.txt")
assert open(hf_hub_download("owner/model", "a/b.txt")).read() == "2"
assert open(hf_hub_download("owner/model", "a/b.txt", revision="v1")).read() == "1"
assert open(hf_hub_download("owner/model", "a/b.txt", revision=first)).read() == "1"
assert open(snapshot_download("owner/model", revision="try/it") + "/a/b.bin", "rb").read() == b"\\0" * 1000
assert api.list_repo_files("owner/model") == [".gitattributes", "a/b.txt"]
titles = [commit.title for commit in api.list_repo_commits("owner/model")]
assert titles == ["Upload a/b.txt with huggingface_hub"] * 2 + ["initial commit"]
assert {b.name for b in api.list_repo_refs("owner/model").branches} == {"main", "try/it"}
assert [f.path for f in api.list_repo_tree("owner/model")] == [".gitattributes", "a"]
assert api.model_info("owner/model", files_metadata=True).siblings[1].size == 1
for wrong in (dict(revision="v2"), dict(filename="c.txt"), dict(repo_id="owner/other")):
    try:
        hf_hub_download(**{"repo_id": "owner/model", "filename": "a/b.txt"} | wrong)
        raise AssertionError(wrong)
    except (RevisionNotFoundError, EntryNotFoundError, RepositoryNotFoundError) as error:
        print(type(error).__name__)
api.update_repo_settings("owner/model", gated="auto")
try:
    hf_hub_download("owner/model", "a/b.txt", token=False, cache_dir="other")
except GatedRepoError as error:
    print(type(error).__name__)
try:
    api.upload_file(repo_id="owner/model", path_or_fileobj=b"3", path_in_repo="late", parent_commit=first)
except HfHubHTTPError as error:
    print(error.response.status_code)
api.delete_file("a/b.txt", "owner/model")
assert api.list_repo_files("owner/model") == [".gitattributes"]
api.delete_repo("owner/model")
assert not api.repo_exists("owner/model")
"""
    done = run("-c", code, token=OWNER, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "RevisionNotFoundError",
        "RemoteEntryNotFoundError",
        "RepositoryNotFoundError",
        "GatedRepoError",
        "412",
    ]
