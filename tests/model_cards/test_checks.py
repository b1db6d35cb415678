"""What the checks find in a folder, whoever put it together."""

import pytest

from model_cards.checks import check_folder


HEAD = "---\nlicense: apache-2.0\nconfigs:\n- config_name: one\n---\n"


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
        ("one.json", b"\xff", "one.json: "),
        ("rows.jsonl", b'{"seen": "/Users/ann/pictures/1.png"}', "rows.jsonl: a local path, '/Users/ann/p"),
        ("rows.jsonl", b'{"seen": "C:\\\\Users\\\\ann"}', "rows.jsonl: a local path"),
        ("stats.json", b'{"teacher": ["x", {"of": "./tests/loopback_hub.py"}]}', "stats.json: a local path, './tests"),
    ],
)
def test_a_file_that_may_not_be_there(dataset, name, content, told, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    (dataset / name).parent.mkdir(exist_ok=True)
    (dataset / name).write_bytes(content)
    with pytest.raises(ValueError, match="this may not be published: ") as error:
        check_folder(dataset, "dataset")
    assert told in str(error.value)


def test_addresses_and_words_are_no_local_paths(dataset):
    (dataset / "stats.json").write_text('{"a": "https://x.org/home/ann/b", "b": "/home", "c": "and/or", "d": "/root"}')
    check_folder(dataset, "dataset")


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
