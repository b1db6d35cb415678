"""The dataset card and its figure: what a reader of the Hub's page is told, and what `load_dataset` finds in it."""

import inspect
import re
from itertools import combinations
from pathlib import Path

import matplotlib
import pytest
import yaml
from datasets import DatasetInfo, SplitDict, SplitInfo, load_dataset
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from dataset_scripts.card import SPLITS, draw_counts, draw_sheet, render_card
from dataset_scripts.features import FEATURES
from dataset_scripts.readers import READERS
from dataset_scripts.tasks import TASKS


SIZES = {"train": 2400, "validation": 128, "test": 240}


def make_stats(*sources: str, video: str = "frames", empty: tuple[tuple[str, str], ...] = ()) -> dict:
    """As a build of these sources at their published sizes writes them; the labels' shares are made up, and of the
    splits in `empty` nothing is kept."""
    configs = {}
    for task in TASKS.values():
        for source, asked in task.sources.items():
            if source not in sources:
                continue
            config = configs.setdefault(task.name, {"version": task.version, "sources": {}})
            published = SIZES if source == "drawn" else READERS[source].SOURCE.published
            shares = [0.55**place for place in range(len(asked.labels))]
            config["sources"][source] = {
                split: {
                    "read": number,
                    "kept": number
                    - (leaks := number if (source, split) in empty else 7 * (split == "train" and source != "drawn")),
                    "rows": (number - leaks) * (2 if asked.open else 1),
                    "skipped": {"duplicate of a held-out sample": leaks} if leaks else {},
                    "labels": {
                        label: int((number - leaks) * share / sum(shares))
                        for label, share in zip(asked.labels, shares, strict=True)
                    },
                }
                for split, number in published.items()
            }
    sizes = dict.fromkeys(configs, 1_000_000)
    return {
        "version": 2,
        "emobench_version": "0.1.0",
        "seed": 0,
        "video": video,
        "frames": 8,
        "configs": configs,
        "bytes": sizes,
        "missing_splits": [],
    }


def make_card(*sources: str, video: str = "frames", empty: tuple = (), **options) -> tuple[dict, str]:
    """The YAML and the page."""
    stats, infos = make_stats(*sources, video=video, empty=empty), {}
    for config, found in stats["configs"].items():
        splits = SplitDict()
        for split in SPLITS:
            rows = sum(by_split[split]["rows"] for by_split in found["sources"].values() if split in by_split)
            if rows:
                splits.add(SplitInfo(split, 1000 * rows, rows))
        infos[config] = DatasetInfo(features=FEATURES, splits=splits)
    head, page = re.fullmatch(r"---\n(.*?)\n---\n(.*)", render_card(infos, stats, **options), re.DOTALL).groups()
    return yaml.safe_load(head), page


ALL = ("drawn", *READERS)


def test_the_card_of_drawn_is_free_and_offends_nobody():
    head, page = make_card("drawn")
    assert head["license"] == "apache-2.0" and head["language"] == ["en"] and head["pretty_name"] == "EmoBench"
    assert head["size_categories"] == ["10K<n<100K"]
    assert head["task_categories"] == ["image-text-to-text", "visual-question-answering"]
    assert [config["config_name"] for config in head["configs"]] == sorted(TASKS)
    assert "not-for-all-audiences" not in head["tags"] and "Content warning" not in page
    assert "nobody is shown" in page and "identifiable" not in page
    assert "| hate_detection | drawn | train | – | 2,400 | 2,400 | 2,400 | – |" in page


def test_the_card_of_all_sources_warns_and_names_each_with_licence_paper_and_address():
    head, page = make_card(*ALL, video="clip")
    assert head["license"] == "other" and head["license_name"]
    assert head["size_categories"] == ["100K<n<1M"]
    assert "video-text-to-text" in head["task_categories"]
    assert "not-for-all-audiences" in head["tags"] and "Content warning" in page and "identifiable" in page
    assert "Not in this build" not in page
    assert head["language"] == ["en", "hi"] and "`cm_memes` has no\nsplits at all, so that a hash" in page
    for reader in READERS.values():
        source = reader.SOURCE
        for told in (source.title, source.about, source.paper, source.url, source.licence.rstrip(".")):
            assert told in page, (source.name, told)


@pytest.mark.parametrize("absent", READERS)
def test_a_source_that_is_missing_is_named_with_how_to_obtain_it(absent):
    page = make_card(*(name for name in ALL if name != absent))[1]
    assert READERS[absent].SOURCE.how_to_obtain in page.split("Not in this build")[1].split("## Counts")[0]
    assert READERS[absent].SOURCE.about not in page


def test_counts_are_told_by_source_split_and_label():
    page = make_card("ferplus", "intentonomy")[1]
    assert "| emotion_recognition | ferplus | train | 28,558 | 28,558 | 28,551 | 57,102 | 7 duplicate of a" in page
    assert "| emotion_recognition | ferplus | test | 3,573 | 3,573 | 3,573 | 7,146 | – |" in page
    labels = make_stats("ferplus")["configs"]["emotion_recognition"]["sources"]["ferplus"]
    for label in TASKS["emotion_recognition"].sources["ferplus"].labels:
        numbers = " | ".join(f"{labels[split]['labels'][label]:,}" for split in SPLITS)
        assert f"| {label} | {numbers} |" in page
    assert "`intentonomy`, intent understanding (version 1.2.0); a sample may have several labels:" in page
    assert "`ferplus`, emotion recognition (version 1.2.0):" in page


@pytest.mark.parametrize("sources", [("drawn",), ("harmeme", "mustard"), ALL])
@pytest.mark.parametrize("media", [True, False])
def test_every_card_says_what_is_ours_and_what_the_law_limits(sources, media):
    page = make_card(*sources, media=media)[1]
    ours = page
    for reader in READERS.values():
        ours = ours.replace(reader.SOURCE.about, "").replace(reader.SOURCE.licence.rstrip("."), "")
    prose = " ".join(ours.split())
    assert "The paper reports an EmoBench of 287k samples and an average improvement of 12.1%" in prose
    assert prose.count("%") == 1, "no other result"
    assert "no number below is the paper's" in prose and "what onlookers perceived" in prose
    for told in (
        "not legal advice",
        "(EU) 2024/1689",
        "Article 5(1)(f)",
        "Annex III, point 1(c)",
        "Article 50(3)",
        "(Article 2(6)); put to",
    ):
        assert told in prose
    assert "biometric data" in prose and "medical or safety reasons" in prose
    assert "None" not in ours.replace("None: the figures are drawn", "")
    assert "\n\n\n" not in page and not re.search(r"[ \t]$", page, re.MULTILINE)
    assert not re.search(r"(?<![\w.:/])/(home|tmp|work|root|usr)\b", page)


@pytest.mark.parametrize("media", [True, False])
def test_every_field_is_explained(media):
    table = make_card("drawn", media=media)[1].split("## Fields")[1].split("## ")[0]
    explained = [name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split(" | ")[0])]
    assert explained == [name for name in FEATURES if media or name not in ("images", "video")]


@pytest.mark.parametrize(
    ("video", "images", "clip"),
    [
        (
            "frames",
            "of a clip, 8 frames from the middle of equal parts, as JPEGs of at most 448 pixels",
            "null in this build",
        ),
        ("clip", "`images` | the pictures, byte", "the clip's bytes"),
        (
            "both",
            "of a clip, 8 frames from the middle of equal parts, as JPEGs of at most 448 pixels",
            "the clip's bytes",
        ),
    ],
)
def test_the_card_says_how_clips_are_stored(video, images, clip):
    page = make_card("ferplus", "meld", video=video)[1]
    assert images in page and clip in page


def test_without_media_frames_are_not_promised_from_files():
    page = make_card("ferplus", "meld", media=False)[1]
    assert "Video(decode=False)" not in page and "frames are not files of the source" in page
    assert '"meld"' not in page.split("## Sources")[0]


def test_the_lines_that_join_ones_own_copies_name_what_has_rows():
    empty = (("ferplus", "train"), *(("mintrec", split) for split in SPLITS))
    joining = make_card(
        "drawn", "ferplus", "mintrec", "mustard", video="clip", empty=empty, media=False, name="me/emo"
    )[1]
    joining = joining.split("## Joining")[1].split("## Sources")[0]
    assert 'load_dataset("me/emo", "emotion_recognition", split="validation")' in joining
    assert 'load_dataset("me/emo", "sarcasm_detection", split="train")' in joining
    assert "mintrec" not in joining and "`drawn` has no files" in joining


def test_a_source_of_two_tasks_is_named_with_both_and_joined_from_the_one_that_is_there():
    stats, info = make_stats("cm_memes"), DatasetInfo(features=FEATURES, splits=SplitDict())
    del stats["configs"]["hate_detection"]
    info.splits.add(SplitInfo("train", 1, 1))
    page = render_card({"sarcasm_detection": info}, stats, name="me/emo", media=False)
    joining = page.split("## Joining")[1].split("## Sources")[0]
    assert 'load_dataset("me/emo", "sarcasm_detection", split="train")' in joining
    assert "- **CM_MEMES** (`cm_memes`, hate detection, sarcasm detection). Memes in Hindi" in page
    assert "- `cm_memes` (hate detection, sarcasm detection): CM_MEMES is at" in make_card("drawn")[1]


def test_citation_agrees_with_the_repository():
    cff = yaml.safe_load((Path(__file__).parents[1] / "CITATION.cff").read_text())
    page = make_card("drawn")[1]
    paper = cff["references"][0]
    assert f"title = {{{cff['title']}}}" in page and cff["authors"][0]["name"] in page
    assert f"title = {{{paper['title']}}}" in page and f"year = {{{paper['year']}}}" in page and paper["url"] in page
    names = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    assert f"author = {{{names}}}" in page


def test_the_card_knows_which_sources_are_clips():
    for reader in READERS.values():
        assert reader.SOURCE.clips == ("video=" in inspect.getsource(reader))


def test_splits_that_were_not_found_are_named():
    stats = make_stats("harmeme")
    infos = {"hate_detection": DatasetInfo(features=FEATURES, splits=SplitDict())}
    infos["hate_detection"].splits.add(SplitInfo("train", 1, 1))
    assert "Not found" not in render_card(infos, stats)
    page = render_card(infos, stats | {"missing_splits": [["harmeme", "test"], ["meld", "train"]]})
    assert "nothing could be compared with them either:\ntest of `harmeme`, train of `meld`." in page


def test_the_gate_asks_for_agreement():
    assert "research" in make_card("ferplus", gated=True)[0]["extra_gated_prompt"]
    assert "extra_gated_prompt" not in make_card("ferplus")[0]


def test_the_three_lines_load_the_build(drawn_dataset, tmp_path):
    page = (drawn_dataset / "README.md").read_text(encoding="utf-8")
    assert str(drawn_dataset.parent) not in page
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL).group(1)
    assert code.count("\n") == 3
    scope: dict = {}
    code = code.replace("path/to/this/folder", str(drawn_dataset)).replace('split="train"', 'split="train", **more')
    exec(code, scope | {"more": {"cache_dir": str(tmp_path)}}, scope)
    assert len(scope["dataset"]) == 32
    streamed = load_dataset(str(drawn_dataset), "humor_detection", split="test", streaming=True)
    assert len(next(iter(streamed))["images"]) == 3


# the figure


def test_the_figure_has_the_same_bytes_whatever_the_user_has_set(tmp_path):
    stats = make_stats(*ALL)
    draw_counts(stats, tmp_path / "one.png")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black", "savefig.dpi": 30}):
        draw_counts(stats, tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as image:
        assert not image.text, "no dates or versions in the file"
        assert min(image.size) > 1000


def written(figure) -> dict[Text, matplotlib.transforms.Bbox]:
    """Every text that is seen, and where."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    boxes = {text: text.get_window_extent(canvas.get_renderer()) for text in texts}
    axes = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = {tick.label1 for axis in axes for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())}
    drawn = {tick.label1 for axis in axes for tick in axis._update_ticks()}  # without those beyond an axis's end
    return {text: box for text, box in boxes.items() if text not in ticks - drawn}


@pytest.mark.parametrize("sources", [ALL, ("drawn",), ("mintrec",), ("ferplus", "harmeme"), ("intentonomy", "mmsd2")])
def test_everything_in_the_figure_can_be_read(sources):
    stats = make_stats(*sources, empty=(("harmeme", "validation"),))
    figure = draw_sheet(stats)
    boxes = written(figure)
    for text, box in boxes.items():
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, f"{text.get_text()} is cut off"
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, f"{text.get_text()} is cut off"
    for (one, here), (other, there) in combinations(boxes.items(), 2):
        assert not here.padded(-1).overlaps(there.padded(-1)), f"{one.get_text()} on {other.get_text()}"
    seen = {text.get_text() for text in boxes}
    for by_source in (config["sources"] for config in stats["configs"].values()):
        for source, by_split in by_source.items():
            assert source in seen and set(by_split["train"]["labels"]) <= seen
            totals = [sum(c["labels"][label] for c in by_split.values()) for label in by_split["train"]["labels"]]
            assert {f"{total:,}" for total in totals} <= seen
    assert set(SPLITS) <= seen
