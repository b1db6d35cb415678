"""The command that answers a question about a picture and draws what was looked at."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, BatchFeature

from evaluation import explain
from evaluation.explain import find_grid, make_figure, make_ground, model_views, slot_centres, slot_shares, to_tensor
from modeling_emollm import EmoLLMForConditionalGeneration
from modeling_emollm.emoprompt import encode_chats


CORNER = 3  # of the 4 x 4 tokens, the right one of the top row
LABELS = ["happiness", "sadness", "anger", "fear"]
QUESTION = "How does she feel about $5 and $6? Answer with one of: happiness, sadness, anger, fear."


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
def emollm(tiny_foundations, picture, tmp_path_factory):
    """An EmoLLM with open gates, whose holistic perspective reads the right top corner of the picture."""
    model = EmoLLMForConditionalGeneration.from_foundation(str(tiny_foundations["llava"]), mvp_size=64)
    processor = AutoProcessor.from_pretrained(tiny_foundations["llava"])
    mvp = model.model.multi_perspective_projection
    with torch.no_grad():
        mvp.gates.copy_(torch.tensor([0.5, -0.25, 0.25, 0.1]))
        pixels = ask(processor, [Image.open(picture)])["pixel_values"]
        features = model.foundation.base_model.get_image_features(pixels, return_dict=True).pooler_output[0]
        tokens = mvp.down(mvp.norm(features)).double()
        wanted = torch.full((16,), -20.0, dtype=torch.double)
        wanted[CORNER] = 0
        mvp.holistic.score.weight.copy_(torch.linalg.pinv(tokens) @ wanted)
    folder = tmp_path_factory.mktemp("models") / "emollm"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def panel_names(figure):
    return [axes.get_label() for axes in figure.axes if axes.get_label()]


def texts(figure):
    return [text.get_text() for place in [figure, *figure.axes] for text in place.texts]


def test_a_picture_is_explained(emollm, picture, tmp_path, monkeypatch, capsys):
    figures = []
    monkeypatch.setattr(explain, "make_figure", lambda *inputs: figures.append(make_figure(*inputs)) or figures[0])
    output = tmp_path / "new" / "explanation.png"
    run("--model", emollm, "--image", picture, "--question", QUESTION, "--labels", *LABELS, "--output", output)
    (figure,) = figures
    assert [path.name for path in output.parent.iterdir()] == ["explanation.png"]
    with Image.open(output) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    width, height = (figure.get_size_inches() * 160).astype(int)
    assert pixels.shape == (height, width, 3) and width > 1200

    # The picture is grey: what has a colour there is the overlay, over the corner that the model read, and only there.
    assert panel_names(figure) == ["picture 1", "holistic 1", "content 1", "relation 1"]
    colourful = np.ptp(pixels, axis=2)
    (x0, y0), (x1, y1) = figure.axes[1].get_position().get_points() * (width, height)
    holistic = colourful[round(height - y1) : round(height - y0), round(x0) : round(x1)]
    cells = [[cell.mean() for cell in np.array_split(row, 4, axis=1)] for row in np.array_split(holistic, 4)]
    assert np.argmax(cells) == CORNER and cells[0][3] > 60 and np.mean(cells[2:]) < 5 and np.mean(cells[0][:2]) < 5

    shown, printed = texts(figure), capsys.readouterr().out
    answer = printed.splitlines()[0].removeprefix("Answer: ")
    shares = {line.split()[1]: line.split()[0] for line in printed.splitlines()[1:5]}
    assert list(shares) == LABELS and max(shares, key=lambda label: float(shares[label][:-1])) == answer
    assert f"{answer} · {float(shares[answer][:-1]):.0f}%" in shown and QUESTION in shown
    assert not any(text.get_parse_math() for text in figure.texts)  # dollars are no formula
    assert "one picture: nothing to compare" in shown and "+0.462" in shown and "-0.245" in shown  # tanh of the gates


def test_a_clip_is_explained(emollm, picture, tmp_path, capsys):
    options = ["--question", "Is it funny?", "--task", "humor_detection", "--emoprompt", "answer"]
    run("--model", emollm, "--image", picture, picture, picture, *options, "--output", tmp_path / "clip.png")
    assert capsys.readouterr().out.startswith("Answer: ")
    with Image.open(tmp_path / "clip.png") as image:
        image.load()
        assert image.height > image.width > 1200


def record_of(**fields):
    return {"prediction": None, "probabilities": None, "choices": [], "text": "It is sad."} | fields


def random_views(number, perspectives):
    torch.manual_seed(0)
    edges = torch.rand(8, 8).fill_diagonal_(0)
    maps = {"holistic": torch.rand(4, 4), "content": torch.rand(8, 4, 4) ** 4 * 5, "relation": edges}
    grounds = [torch.rand(3, 32, 32)] * number
    return grounds, [{name: maps[name] for name in {"content", *perspectives} & set(maps)}] * number


def test_frames_are_compared():
    grounds, seen = random_views(3, ["holistic", "temporal"])
    temporal = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.05, 0.9, 0.05]])[:, None].expand(3, 8, 3)
    gates = {"holistic": 0.1, "temporal": 0.2}
    pictures = [make_picture(32, 32)] * 3
    figure = make_figure("Is it funny?", record_of(), pictures, grounds, seen, gates, temporal)
    assert panel_names(figure) == [f"{name} {i}" for name in ("clip", "holistic") for i in (1, 2, 3)]
    tops = {axes.get_position().y1 for axes in figure.axes[:3]}
    assert len(tops) == 1 and tops.pop() > figure.axes[3].get_position().y1  # the frames in a row, the maps below
    shown = texts(figure)
    assert "frame 3" in shown and "one picture: nothing to compare" not in shown
    assert {cell.get_text(): cell.get_position() for cell in figure.axes[-1].texts}["90%"] == (1, 2)  # 3 looks at 2
    assert shown.count("It is sad.") == 2  # as the answer, and in the panel of the generated text


def test_only_what_the_model_has_is_drawn():
    grounds, seen = random_views(1, ["content"])
    record = record_of(choices=["no", "yes"], text="Perhaps.")
    figure = make_figure("Is it?", record, [make_picture(32, 32)], grounds, seen, {"content": 0.0}, None)
    assert panel_names(figure) == ["picture 1", "content 1"]
    shown = texts(figure)
    assert "none of the labels" in shown and "Perhaps." in shown and "closed: MVP adds nothing" in shown
    assert not {"holistic", "relation", "temporal"} & set(shown)


def test_the_strongest_relations_point_to_who_listens():
    grounds, seen = random_views(1, ["relation"])
    figure = make_figure("?", record_of(), [make_picture(32, 32)], grounds, seen, {"relation": 0.1}, None)
    centres = [tuple(centre) for centre in slot_centres(seen[0]["content"], grounds[0]).tolist()]
    arrows = [note for note in figure.axes[1].texts if hasattr(note, "arrow_patch")]
    drawn = {(centres.index(arrow.xy), centres.index(arrow.xyann)) for arrow in arrows}
    order = seen[0]["relation"].flatten().argsort(descending=True)[:8].tolist()
    assert drawn == {divmod(edge, 8) for edge in order}
    widths = [arrow.arrow_patch.get_linewidth() for arrow in arrows]
    assert widths == sorted(widths, reverse=True) and widths[0] > widths[-1]


def test_slots_are_told_apart_where_they_look():
    maps = torch.full((8, 4, 4), 0.1)
    maps[:5, 0, 0], maps[5:, 3, 2] = 9, 9
    ground = torch.zeros(3, 200, 320)
    centres = slot_centres(maps, ground)
    assert (centres[:5, 1] < 100).all() and (centres[5:, 1] > 100).all()
    assert (centres[:5, 0] < 160).all() and (centres[5:, 0] > 160).all()
    assert torch.pdist(centres).min() > 15 and (centres > 0).all() and (centres < torch.tensor([320, 200])).all()


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
        ground = make_ground(views[1], wide)
        if expected is None:  # it sees all, squeezed: its maps belong on the picture itself
            assert ground.shape == (3, 160, 320)
            expected = torch.nn.functional.interpolate(whole[None], (64, 64), mode="area")[0]
        else:  # it sees a part
            assert ground.shape == (3, 320, 320)
        assert (views[1] - expected).abs().mean() < 0.02
    patches = BatchFeature({"pixel_values": torch.zeros(32, 1176)})
    assert torch.equal(model_views(patches, processor, [wide])[0], whole)


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
    with pytest.raises(SystemExit) as stop:
        run(*options(task="irony_detection", emoprompt="answer"))
    assert stop.value.code == 2 and "sarcasm_detection" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()
