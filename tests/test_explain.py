"""The command that answers a question about a picture and draws what was looked at."""

import warnings
from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.font_manager import fontManager, get_font
from PIL import Image
from transformers import AutoProcessor, BatchFeature

from benchmarks.conformance.checks import as_if_trained
from evaluation import explain, explanation
from evaluation.explanation import find_grid, make_ground, model_views, to_tensor
from evaluation.explanation_figure import SLOTS, find_fonts, make_figure, slot_centres, slot_shares
from modeling_emollm import EmoLLMForConditionalGeneration
from modeling_emollm.compact import compact_processor
from modeling_emollm.emoprompt import encode_chats


CORNER = 3  # of the 4 x 4 tokens, the right one of the top row
LABELS = ["happiness", "sadness", "anger", "fear"]
QUESTION = "How does she feel about $5 and $6? Answer with one of: happiness, sadness, anger, fear."
UNWRITABLE = "\U0010fffd"  # for private use: no font has it


def run(*arguments):
    explain.main(explain.make_parser().parse_args(list(map(str, arguments))))


def make_picture(width, height):
    """Smooth and grey, every corner another shade."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray(np.uint8(60 + 130 * x * (1 - y / 2))).convert("RGB")


def ask(processor, pictures):
    content = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": QUESTION}]
    return encode_chats(processor, [[{"role": "user", "content": content}]], [pictures])


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    make_picture(96, 96).save(path)
    return path


@pytest.fixture(scope="module")
def make_emollm(tiny_foundations, picture, tmp_path_factory):
    """Upgrades the LLaVA kind, as if trained: the holistic perspective reads the picture's right top corner."""

    def make(**fields):
        model = EmoLLMForConditionalGeneration.from_foundation(str(tiny_foundations["llava"]), mvp_size=64, **fields)
        processor = AutoProcessor.from_pretrained(tiny_foundations["llava"])
        mvp = as_if_trained(model).model.multi_perspective_projection
        with torch.no_grad():
            mvp.gates.copy_(torch.tensor([0.5, -0.25, 0.25, 0.1])[: len(mvp.gates)])
            pixels = ask(processor, [Image.open(picture)])["pixel_values"]
            features = model.foundation.base_model.get_image_features(pixels, return_dict=True).pooler_output[0]
            tokens = mvp.down(mvp.norm(features)).double()
            wanted = torch.full((16,), -20.0, dtype=torch.double)
            wanted[CORNER] = 0
            if "holistic" in mvp.perspectives:
                mvp.holistic.score.weight.copy_(torch.linalg.pinv(tokens) @ wanted)
        folder = tmp_path_factory.mktemp("models") / "emollm"
        model.save_pretrained(folder)
        number = fields.get("visual_tokens_per_image")
        (compact_processor(processor, number) if number else processor).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="module")
def emollm(make_emollm):
    return make_emollm()


@pytest.fixture
def figures(monkeypatch):
    """The figures that the command makes."""
    made = []
    monkeypatch.setattr(
        explanation, "make_figure", lambda *inputs, **more: made.append(make_figure(*inputs, **more)) or made[-1]
    )
    return made


def panel_names(figure):
    return [axes.get_label() for axes in figure.axes if axes.get_label()]


def texts(figure):
    return [text.get_text() for place in [figure, *figure.axes] for text in place.texts]


def colour_by_cell(figure, panel, path):
    """How colourful the saved picture is in each of 4 x 4 cells of a panel."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    height, width, _ = pixels.shape
    (axes,) = [axes for axes in figure.axes if axes.get_label() == panel]
    (x0, y0), (x1, y1) = axes.get_position().get_points() * (width, height)
    inside = np.ptp(pixels, axis=2)[round(height - y1) : round(height - y0), round(x0) : round(x1)]
    return np.array([[c.mean() for c in np.array_split(row, 4, axis=1)] for row in np.array_split(inside, 4)])


def assert_it_reads_the_corner(figure, path):
    # The picture is grey: what has a colour is the overlay, over the corner that the model read, and only there.
    cells = colour_by_cell(figure, "holistic 1", path)
    assert np.argmax(cells) == CORNER and cells[0, 3] > 60 and cells[2:].mean() < 5 and cells[0, :2].mean() < 5


def assert_all_can_be_read(figure):
    """No text leaves the figure, and no two lines of its own lie over one another."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    for axes in figure.axes:
        labels = [*axes.texts, axes.xaxis.label, axes.yaxis.label]
        labels += [*axes.get_xticklabels(), *axes.get_yticklabels()] if axes.axison else []
        for label in labels:
            box = label.get_window_extent()
            assert not label.get_text() or (box.min >= 0).all() and (box.max <= figure.bbox.max).all(), label
    boxes = [text.get_window_extent() for text in figure.texts]
    assert all((box.min >= 0).all() and (box.max <= figure.bbox.max).all() for box in boxes)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    panels = [axes.get_tightbbox() for axes in figure.axes]
    assert not any(text.overlaps(panel) for text in boxes for panel in panels)


def test_a_picture_is_explained(emollm, picture, tmp_path, figures, capsys):
    output = tmp_path / "new" / "explanation.png"
    run("--model", emollm, "--image", picture, "--question", QUESTION, "--labels", *LABELS, "--output", output)
    (figure,) = figures
    assert [path.name for path in output.parent.iterdir()] == ["explanation.png"]
    with Image.open(output) as image:
        assert image.size == tuple((figure.get_size_inches() * 160).astype(int)) and image.width > 1200
    assert panel_names(figure) == ["picture 1", "holistic 1", "content 1", "relation 1"]
    assert_it_reads_the_corner(figure, output)
    assert colour_by_cell(figure, "picture 1", output).max() < 1
    assert (colour_by_cell(figure, "content 1", output) > 5).all()  # every place has a winner
    assert_all_can_be_read(figure)

    shown, printed = texts(figure), capsys.readouterr().out
    answer = printed.splitlines()[0].removeprefix("Answer: ")
    shares = {line.split()[1]: float(line.split()[0][:-1]) for line in printed.splitlines()[1:5]}
    assert list(shares) == LABELS and max(shares, key=shares.get) == answer
    (likelihood,) = [text.removeprefix(f"{answer} · ") for text in shown if text.startswith(answer)]
    assert abs(float(likelihood[:-1]) - shares[answer]) < 0.6 and QUESTION in shown
    assert not any(text.get_parse_math() for text in figure.texts)  # dollars are no formula
    assert "one picture: nothing to compare" in shown and "+0.462" in shown and "-0.245" in shown  # tanh of the gates
    assert "how much is let through" in shown


def test_a_compact_model_is_explained(make_emollm, picture, tmp_path, figures):
    """The language model gets one visual token, but the perspectives look at all 16 of the foundation."""
    folder = make_emollm(visual_tokens_per_image=1)
    run("--model", folder, "--image", picture, "--question", QUESTION, "--output", tmp_path / "a.png")
    assert panel_names(figures[0]) == ["picture 1", "holistic 1", "content 1", "relation 1"]
    assert_it_reads_the_corner(figures[0], tmp_path / "a.png")


def test_only_the_perspectives_of_the_model_are_drawn(make_emollm, picture, tmp_path, figures):
    folder = make_emollm(perspectives=("holistic",))
    run("--model", folder, "--image", picture, picture, "--question", QUESTION, "--output", tmp_path / "a.png")
    assert panel_names(figures[0]) == ["picture 1", "holistic 1", "picture 2", "holistic 2"]
    assert_it_reads_the_corner(figures[0], tmp_path / "a.png")
    assert_all_can_be_read(figures[0])
    shown = texts(figures[0])
    assert "+0.462" in shown and "frame 2" in shown and not {"content", "relation", "temporal"} & set(shown)


def test_a_model_without_perspectives_has_none_to_draw(make_emollm, picture, tmp_path):
    folder = make_emollm(perspectives=())
    with pytest.raises(ValueError, match="has no perspectives to draw: upgrade its foundation with some"):
        run("--model", folder, "--image", picture, "--question", QUESTION, "--output", tmp_path / "a.png")


def test_loose_patches_are_explained_over_their_picture(tiny_foundations, picture, tmp_path, figures):
    model = EmoLLMForConditionalGeneration.from_foundation(str(tiny_foundations["paddleocr_vl"]), mvp_size=64)
    model.save_pretrained(tmp_path / "model")
    AutoProcessor.from_pretrained(tiny_foundations["paddleocr_vl"]).save_pretrained(tmp_path / "model")
    run(
        *("--model", tmp_path / "model", "--image", picture, picture, "--question", QUESTION),
        *("--output", tmp_path / "a.png"),
    )
    names = [f"{panel} {i}" for i in (1, 2) for panel in ("picture", "holistic", "content", "relation")]
    assert panel_names(figures[0]) == names and "frame 2" in texts(figures[0])


def test_tiles_are_explained_one_by_one(tiny_foundations, tmp_path, figures):
    model = EmoLLMForConditionalGeneration.from_foundation(str(tiny_foundations["idefics3"]), mvp_size=64)
    model.save_pretrained(tmp_path / "model")
    processor = AutoProcessor.from_pretrained(tiny_foundations["idefics3"])
    processor.image_processor.do_image_splitting = True
    processor.image_processor.size = {"longest_edge": 128}
    processor.save_pretrained(tmp_path / "model")
    wide = make_picture(128, 64)
    wide.save(tmp_path / "wide.png")
    run(
        *("--model", tmp_path / "model", "--image", tmp_path / "wide.png", "--question", QUESTION),
        *("--output", tmp_path / "a.png"),
    )
    (figure,) = figures
    assert [name for name in panel_names(figure) if "holistic" in name] == [f"holistic {i + 1}" for i in range(3)]
    shown = texts(figure)
    assert "part 3" in shown and "untrained: MVP adds nothing" in shown
    assert figure.axes[-1].get_xlabel() == "part looked at"
    assert_all_can_be_read(figure)
    drawn = {axes.get_label(): axes.images[0].get_array() for axes in figure.axes if axes.images}
    right = np.asarray(wide.crop((64, 0, 128, 64)).resize((480, 480))) / 255
    assert np.abs(drawn["picture 2"] - right).mean() < 0.02
    assert drawn["picture 3"].shape == (240, 480, 3)  # what shows all of the picture is drawn on it, not squeezed


def test_a_clip_is_explained(emollm, picture, tmp_path, figures, capsys):
    options = ["--question", f"Is it funny {UNWRITABLE}?", "--task", "humor_detection", "--emoprompt", "answer"]
    run("--model", emollm, "--image", picture, picture, *options, "--output", tmp_path / "clip.png")
    note, answer = capsys.readouterr().out.splitlines()[:2]
    assert UNWRITABLE in note and "Install" in note and answer.startswith("Answer: ")
    assert "frame 2" in texts(figures[0])
    with Image.open(tmp_path / "clip.png") as image:
        image.load()


def record_of(**fields):
    return {"prediction": None, "probabilities": None, "choices": [], "text": "It is sad."} | fields


def random_views(number, perspectives, shape=(32, 32)):
    torch.manual_seed(0)
    edges = torch.rand(8, 8).fill_diagonal_(0)
    maps = {"holistic": torch.rand(4, 4), "content": torch.rand(8, 4, 4) ** 4 * 5, "relation": edges}
    grounds = [torch.rand(3, *shape)] * number
    return grounds, [{name: maps[name] for name in {"content", *perspectives} & set(maps)}] * number


def test_frames_are_compared():
    grounds, maps = random_views(3, ["holistic", "temporal"])
    temporal = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.05, 0.9, 0.05]])[:, None].expand(3, 8, 3)
    gates = {"holistic": 0.1, "temporal": 0.2}
    figure = make_figure("Is it funny?", record_of(), grounds, maps, gates, temporal, "frame")
    at = {axes.get_label(): axes.get_position() for axes in figure.axes}
    for i in (1, 2, 3):  # a frame and its map side by side
        assert at[f"picture {i}"].y0 == at[f"holistic {i}"].y0 and at[f"picture {i}"].x1 < at[f"holistic {i}"].x0
    shown = texts(figure)
    assert "frame 3" in shown and "one picture: nothing to compare" not in shown
    assert {cell.get_text(): cell.get_position() for cell in figure.axes[-1].texts}["90"] == (1, 2)  # 3 looks at 2
    assert shown.count("It is sad.") == 1


def test_only_what_there_is_is_drawn():
    grounds, maps = random_views(1, ["content"])
    record = record_of(choices=["no", "yes"], text="Perhaps.")
    figure = make_figure("Is it?", record, grounds, maps, {"content": 0.0}, None, "frame", trained=False)
    assert panel_names(figure) == ["picture 1", "content 1"]
    shown = texts(figure)
    assert "none of the labels" in shown and "Perhaps." in shown and "untrained: MVP adds nothing" in shown
    assert not {"holistic", "relation", "temporal", "answer"} & set(shown)


@pytest.mark.parametrize("number, shape", [(1, (90, 30)), (5, (20, 60))])
def test_much_text_is_laid_out(number, shape):
    labels = [f"a feeling of the {i}th kind, which has a rather long name that nobody would type" for i in range(25)]
    labels.append("悲" * 90)
    shares = [0.2, 0.5, *[0.01] * 24]
    record = record_of(prediction=labels[1], probabilities=shares, choices=labels, text=None)
    grounds, maps = random_views(number, ["holistic", "relation"], shape)
    gates = {"holistic": 0.1, "content": -0.9, "relation": 0.0, "temporal": 0.2}
    temporal = torch.full((number, 8, number), 1 / number)
    question = "Why\t\x11" + "do people think that she would rather not have come " * 12 + "悲" * 200
    with pytest.warns(UserWarning) if find_fonts("悲")[1] else warnings.catch_warnings():
        figure = make_figure(question, record, grounds, maps, gates, temporal, "frame")
        assert_all_can_be_read(figure)
    shown = "".join(texts(figure))
    assert shown.count("悲") == 200 and "\x11" not in shown  # all of the question but the control character
    (chart,) = [axes for axes in figure.axes if any("others" in tick.get_text() for tick in axes.get_yticklabels())]
    values = [text.get_text() for text in chart.texts]
    assert values == ["50%", "20%", *["1%"] * 6, "18%"]  # the likeliest first, the rest in one
    ticks = [tick.get_text().replace("\n", " ") for tick in chart.get_yticklabels()]
    assert ticks[0].startswith("a feeling of the 1th kind") and ticks[-1] == "18 others together"


def test_places_have_the_colour_of_who_won_them():
    scores = torch.randn(8, 4, 4, generator=torch.Generator().manual_seed(0))
    scores[5, :, :2] += 9
    scores[1, :, 2:] += 9
    won = scores.softmax(0)
    maps = {"content": won / won.mean((1, 2), keepdim=True)}
    figure = make_figure("?", record_of(), [torch.rand(3, 32, 32)], [maps], {"content": 0.1}, None, "frame")
    image = figure.axes[1].images[1].get_array()
    left, right = image[:, : image.shape[1] * 2 // 5], image[:, image.shape[1] * 3 // 5 :]
    assert np.allclose(left[..., :3], to_rgb(SLOTS["F"])) and np.allclose(right[..., :3], to_rgb(SLOTS["B"]))
    assert len(figure.axes[1].collections) == 2  # outlines, of the two alone
    tags = {f"{letter} {share:.0%}" for letter, share in zip(SLOTS, won.mean((1, 2)), strict=True)}
    assert tags <= set(texts(figure))


def test_the_strongest_relations_point_to_who_listens():
    grounds, maps = random_views(1, ["relation"])
    figure = make_figure("?", record_of(), grounds, maps, {"relation": 0.1}, None, "frame")
    centres = [tuple(centre) for centre in slot_centres(maps[0]["content"], grounds[0]).tolist()]
    arrows = [note for note in figure.axes[1].texts if hasattr(note, "arrow_patch")]
    drawn = {(centres.index(tuple(arrow.xy)), centres.index(tuple(arrow.xyann))) for arrow in arrows}
    order = maps[0]["relation"].flatten().argsort(descending=True)[:8].tolist()
    assert drawn == {divmod(edge, 8) for edge in order}
    widths = [arrow.arrow_patch.get_linewidth() for arrow in arrows]
    assert widths == sorted(widths, reverse=True) and widths[0] > widths[-1]


def test_slots_are_told_apart_where_they_look():
    maps = torch.full((8, 4, 4), 0.1)
    maps[:5, 0, 0], maps[5:, 3, 2] = 9, 9
    centres = slot_centres(maps, torch.zeros(3, 200, 320))
    assert (centres[:5, 1] < 100).all() and (centres[5:, 1] > 100).all()
    assert centres[:5, 0].mean() < 100 and centres[5:, 0].mean() > 160
    apart = [(one - other).abs() for one, other in combinations(centres, 2)]
    assert all(x > 0.17 * 320 or y > 0.085 * 320 for x, y in apart)  # a tag's width or height
    assert (centres > 0).all() and (centres < torch.tensor([320, 200])).all()


def test_fonts_are_found():
    families, missing = find_fonts("Что чувствует? ¿Qué siente? شعور")
    assert set(families) == {"DejaVu Sans"} and not missing  # there may be several files of that name
    fonts = {}
    for font in fontManager.ttflist:
        fonts.setdefault(font.name, set()).update(get_font(font.fname).get_charmap())
    rare = chr(min(fonts["STIXGeneral"] - fonts["DejaVu Sans"]))
    families, missing = find_fonts(f"a{rare} {UNWRITABLE}")
    assert families[0] == "DejaVu Sans" and ord(rare) in fonts[families[1]] and missing == UNWRITABLE


def test_shares_undo_the_scaling():
    torch.manual_seed(0)
    won = (torch.randn(8, 12, 12) * 2).softmax(0)
    attention = won / won.mean((1, 2), keepdim=True)
    assert torch.allclose(slot_shares(attention).float(), won.mean((1, 2)), atol=1e-4)


@pytest.mark.parametrize(
    "number, height, width, grid",
    [
        (16, 64, 64, (4, 4)),
        (576, 336, 336, (24, 24)),
        (6, 20, 30, (2, 3)),
        (6, 30, 20, (3, 2)),
        (180, 50, 42, (15, 12)),
    ],
)
def test_grids_have_the_proportion_of_the_view(number, height, width, grid):
    assert find_grid(number, torch.zeros(3, height, width)) == grid


def test_tokens_that_are_no_grid():
    with pytest.raises(ValueError, match="577 visual tokens form no grid over a view of 336 x 336 pixels.* use"):
        find_grid(577, torch.zeros(3, 336, 336))


def test_views_are_what_the_model_sees(tiny_foundations):
    wide = make_picture(128, 64)
    whole, middle = to_tensor(wide), to_tensor(wide.crop((32, 0, 96, 64)))
    for kind, expected in [("llava", middle), ("idefics3", None), ("gemma3", None)]:
        processor = AutoProcessor.from_pretrained(tiny_foundations[kind])
        views = model_views(ask(processor, [wide, wide]), processor, [wide, wide])
        assert len(views) == 2 and views[1].shape == (3, 64, 64)
        ground = make_ground(views[1], [Image.new("RGB", (64, 64), "white"), wide])
        if expected is None:  # it sees all, squeezed: its maps belong on the picture itself
            assert ground.shape == (3, 240, 480)
            expected = torch.nn.functional.interpolate(whole[None], (64, 64), mode="area")[0]
        else:  # it sees a part
            assert ground.shape == (3, 480, 480)
        assert (views[1] - expected).abs().mean() < 0.02
    for shape in [(32, 1176), (3, 64, 768)]:  # of Qwen's kind and of SigLIP 2's, here three pictures
        views = model_views(BatchFeature({"pixel_values": torch.zeros(shape)}), processor, [wide])
        assert torch.equal(views[0], whole)
    # Loose patches that look like small pictures: these are of three.
    processor = AutoProcessor.from_pretrained(tiny_foundations["paddleocr_vl"])
    inputs = ask(processor, [wide, wide, wide])
    assert inputs["pixel_values"].shape[1:] == (3, 16, 16) and len(inputs["pixel_values"]) > 3
    views = model_views(inputs, processor, [wide, wide, wide])
    assert len(views) == 3 and torch.equal(views[0], whole)


def test_what_can_not_be_explained(emollm, tiny_foundations, picture, tmp_path, capsys):
    def options(**changes):
        given = {"model": emollm, "image": picture, "question": "Why?", "output": tmp_path / "a.png"} | changes
        return [word for name, value in given.items() for word in (f"--{name}", value)]

    with pytest.raises(ValueError, match="is no EmoLLM but llava, .* upgrade it with"):
        run(*options(model=tiny_foundations["llava"]))
    with pytest.raises(
        ValueError, match=r"--image .*missing\.png can't be read \(.*No such file.*; give a whole picture"
    ):
        run(*options(image=tmp_path / "missing.png"))
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"--image .*cut\.png can't be read"):
        run(*options(image=tmp_path / "cut.png"))
    with pytest.raises(ValueError, match=r"--output .*a\.pdf must be a \.png file"):
        run(*options(output=tmp_path / "a.pdf"))
    for labels in (["no", "no"], ["no", " "]):
        with pytest.raises(ValueError, match=r"--labels \['no', .*\] has an empty or a double one"):
            run(*options(), "--labels", *labels)
    with pytest.raises(ValueError, match=r"--model .*nowhere can't be loaded .*; give the folder of an EmoLLM"):
        run(*options(model=tmp_path / "nowhere"))
    with pytest.raises(SystemExit) as stop:
        run(*options(task="irony_detection", emoprompt="answer"))
    assert stop.value.code == 2 and "sarcasm_detection" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()
