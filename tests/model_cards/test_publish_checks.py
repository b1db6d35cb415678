"""What the checks find in a folder, whoever put it together."""

import bz2
import io
import json
import lzma
import os
import pickle
import tarfile

import pytest

from model_cards.checks import check_folder, probe


HEAD = "---\nlicense: apache-2.0\nconfigs:\n- config_name: one\n---\n"


def tar() -> bytes:
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("one"))
        return file.getvalue()


@pytest.fixture
def dataset(tmp_path):
    (tmp_path / "README.md").write_text(f"{HEAD}\n# A dataset\n")
    (tmp_path / "stats.json").write_text("{}")
    return tmp_path


def test_a_whole_folder_passes(dataset):
    check_folder(dataset, "dataset")


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("one/.env", b"KEY=1", "one/.env: hidden"),
        (".cache/one.json", b"{}", ".cache/one.json: hidden"),
        ("load.py", b"", "load.py: no file of a dataset"),
        ("one.parquet", b"PK\x03\x04 zip", "one.parquet: a pickle or an archive"),
        ("one.png", b"\x80\x04 pickle", "one.png: a pickle or an archive"),
        ("one.json", pickle.dumps({"a": os.getcwd}, 0), "one.json: a pickle or an archive"),
        ("one.md", b"cos\nsystem\n(S'true'\ntR.", "one.md: a pickle or an archive"),
        ("one.png", tar(), "one.png: a pickle or an archive"),
        ("one.md", lzma.compress(b"one"), "one.md: a pickle or an archive"),
        ("one.md", bz2.compress(b"one"), "one.md: a pickle or an archive"),
        ("one.json", b"\xff", "one.json: "),
        ("one.json", b"{", "one.json: Expecting"),
        ("rows.jsonl", b'{"seen": "/Users/ann/pictures/1.png"}', "rows.jsonl: a local path, '/Users/ann/p"),
        ("rows.jsonl", b'{"seen": "C:\\\\Users\\\\ann"}', "rows.jsonl: a local path"),
        ("stats.json", b'{"teacher": ["x", {"of": "./tests/loopback_hub.py"}]}', "stats.json: a local path, './tests"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_may_not_be_there(dataset, name, content, told, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    (dataset / name).parent.mkdir(exist_ok=True)
    (dataset / name).write_bytes(content)
    with pytest.raises(ValueError, match="this may not be published: ") as error:
        check_folder(dataset, "dataset")
    assert told in str(error.value)


@pytest.mark.parametrize(
    "path",
    [
        "/scratch/proj/ann/x",
        "/mnt/data/ann/x",
        "/anywhere/else",
        "D:\\data\\ann",
        "d:/data",
        "file:/home/ann/x",
        "file:///home/ann/x",
        "from file:///home/ann/x",
        "see https://x.org, /home/ann/x",
        "cache:/home/ann/x",
    ],
)
def test_a_local_path(dataset, path):
    for text in (json.dumps([path]), json.dumps({"a": path}).replace("/", "\\/")):
        (dataset / "stats.json").write_text(text)
        with pytest.raises(ValueError, match="stats.json: a local path"):
            check_folder(dataset, "dataset")


def test_addresses_and_words_are_no_local_paths(dataset):
    words = (
        "https://x.org/home/ann/b https://x.org:80/mnt/a/b https://home/ann/b /home and/or /root image/png USER/NAME"
    )
    words = [
        words,
        *words.split(),
        "Q:\nand",
        "hate_detection/test-00000-of-00001.parquet",
        "a.b/c",
        "</s>",
        "1/2",
        "/",
    ]
    (dataset / "stats.json").write_text(json.dumps({word: word for word in words}))
    (dataset / "one.jsonl").write_text(json.dumps(words) + "\n")
    (dataset / "README.md").write_text(f"{HEAD}\n{words[0]}\n")
    check_folder(dataset, "dataset")


def test_nobodys_keys_are_known_where_it_is_tried(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "hidden")
    monkeypatch.setenv("HF_TOKEN", "hidden")
    (tmp_path / "tell").mkdir()
    (tmp_path / "tell" / "tell.py").write_text("import os\nraise ValueError(sorted(os.environ.items()))\n")
    with pytest.raises(ValueError, match="'HF_HUB_OFFLINE', '1'") as error:
        probe("metric", str(tmp_path / "tell"), tmp_path)
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize(
    "card, told",
    [
        ("# A dataset\n", "no YAML between --- and --- at its head"),
        ("---\nlicense: [\n---\n", "its head is no YAML"),
        ("---\nlicense: mit\n---\n", "no configs in its head"),
        (HEAD.replace("apache-2.0", "unknown"), "license in its head is 'unknown'"),
        (HEAD.replace("apache-2.0", ""), "license in its head is None"),
        (HEAD + "| steps | None |\n", "not finished, '| steps | None |'"),
        (HEAD + "by {{ who }}\n", "not finished, 'by {{'"),
    ],
)
def test_a_card_with_a_gap(dataset, card, told):
    (dataset / "README.md").write_text(card)
    with pytest.raises(ValueError, match="may not be published") as error:
        check_folder(dataset, "dataset")
    assert f"README.md: {told}" in str(error.value)
