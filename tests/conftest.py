"""One offline session: every test, and every command that a test starts, sees the settings made here."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest


_HOME = tempfile.mkdtemp(prefix="emollm-tests-")
os.environ.update(  # before the first import of a Hugging Face library, which reads them once
    HF_HOME=_HOME,
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",  # a second thread gains tiny models nothing, and on a busy machine costs them tenfold
    MPLBACKEND="Agg",
    # what listens on this machine is not asked by way of a proxy
    no_proxy=",".join(filter(None, ["127.0.0.1", "localhost", os.environ.get("no_proxy")])),
)

import torch  # noqa: E402


torch.set_num_threads(1)


# Files of few tests that take minutes. At the end of the run one process would wait for the other's.
LONG = ("test_readme.py", "test_processes.py", "test_whole_road.py", "test_ablation.py", "test_documents.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONG)


def pytest_unconfigure():
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pictures that some tests read; it lies beside the checkout and is never part of it."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder shared/data beside the checkout: the tests on real pictures need it")
    return folder


@pytest.fixture(scope="session")
def drawn_dataset(tmp_path_factory) -> Path:
    """EmoBench-Drawn, all five tasks, with 16 training samples each."""
    from dataset_scripts.pipeline import build

    folder = tmp_path_factory.mktemp("emobench") / "drawn"
    build({"drawn": None}, folder, drawn_size=16)
    return folder


@pytest.fixture(scope="session")
def tiny_foundations(drawn_dataset, tmp_path_factory) -> dict[str, Path]:
    """Folders of untrained foundation models, the smallest there can be, by kind."""
    from benchmarks.tiny_foundations import MERGED, build_foundation, corpus_of

    folder, corpus = tmp_path_factory.mktemp("foundations"), corpus_of(str(drawn_dataset))
    for kind in MERGED:
        for part in build_foundation(kind, corpus, seed=0, hidden_size=32, num_layers=1):
            part.save_pretrained(folder / kind)
    return {kind: folder / kind for kind in MERGED}
