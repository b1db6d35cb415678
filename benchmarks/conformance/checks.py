"""What an upgraded model must do, whatever its family. A check returns nothing, or says why it does not apply."""

import inspect
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.functional import interpolate

from modeling_emollm import EmoLLMForConditionalGeneration

from .family import IMAGE, Family


ONE_EACH = [[0], [1]]
RAGGED = [[0], [], [1, 2]]  # one image, none, several of other sizes
OTHER = [[0], [], [1, 8]]  # the same, but for what the last image shows


def upgrade(family: Family, **fields) -> EmoLLMForConditionalGeneration:
    torch.manual_seed(1)
    return EmoLLMForConditionalGeneration.from_foundation(family.model, **{"mvp_size": 16, **fields})


@torch.no_grad()
def as_if_trained(model: EmoLLMForConditionalGeneration) -> EmoLLMForConditionalGeneration:
    """An untrained upgrade gives what its foundation gives, since MVP's `up` is zero; this makes it act, and gives
    each perspective another gate."""
    mvp = model.model.multi_perspective_projection
    torch.nn.init.normal_(mvp.up.weight, std=mvp.up.in_features**-0.5, generator=torch.Generator().manual_seed(2))
    mvp.gates.copy_(torch.linspace(0.3, 0.9, len(mvp.gates)))
    return model


def upgrade_as_if_trained(family: Family, **fields) -> EmoLLMForConditionalGeneration:
    return as_if_trained(upgrade(family, **fields))


def check_same_answers(family: Family, batch: dict, **options) -> None:
    """Untrained, greedy, sampled and, where asked for, beam generation is the foundation's."""
    model = upgrade(family)
    for kind in ({}, {"do_sample": True}, options):
        generated = []
        for one in (family.model, model):
            torch.manual_seed(3)
            generated.append(one.generate(**batch, **kind, min_new_tokens=4, max_new_tokens=4))
        assert torch.equal(*generated), f"generate({kind}) of an untrained upgrade differs"


def check_refined_answers(family: Family, batch: dict, **fields) -> None:
    """
    As if trained, generation begins with what `forward` predicts, and refines its pictures once. Without padding,
    because some foundations number the positions behind it in another way when they generate.
    """
    model, calls = upgrade_as_if_trained(family, **fields), []
    options = {"min_new_tokens": 2, "max_new_tokens": 2, "output_logits": True, "return_dict_in_generate": True}
    with model.model.multi_perspective_projection.register_forward_hook(lambda *_: calls.append(1)):
        answer = model.generate(**batch, **options)
    assert len(calls) == 1, f"MVP ran {len(calls)} times"
    torch.testing.assert_close(answer.logits[0], model(**batch).logits[:, -1], atol=1e-4, rtol=1e-4)


def check_sight(family: Family, modality: str = "image") -> None:
    """What the second picture of a row shows is seen by its row, and by no other."""
    batch, model = family.batch(RAGGED, modality=modality), upgrade(family)
    inputs = family.video_inputs if modality == "video" else family.image_inputs
    before, after = (model(**batch | pixels).logits[:, -1] for pixels in ({}, inputs(OTHER)))
    torch.testing.assert_close(before[:2], after[:2])
    assert (before[2] - after[2]).abs().max() > 1e-5, f"the last {modality} is not seen"


def check_alone(family: Family, modality: str = "image") -> None:
    """As if trained, a row's logits, and what MVP looked at, are those that it has alone."""
    model = upgrade_as_if_trained(family)
    together = model(**family.batch(RAGGED, modality=modality), output_perspectives=True)
    seen, images = together.perspectives[modality], 0
    for row, numbers in enumerate(RAGGED):
        alone = model(**family.batch([numbers], modality=modality), output_perspectives=True)
        torch.testing.assert_close(together.logits[row, -1], alone.logits[0, -1], atol=1e-4, rtol=1e-4)
        if numbers:
            expected = alone.perspectives[modality]
            here = slice(images, images := images + len(expected["sample"]))
            for name in ("lengths", "position"):
                assert torch.equal(seen[name][here], expected[name]), f"{name} of row {row} differ"
            maps = {"temporal": seen["temporal"][here, :, here], "relation": seen["relation"][here]}
            longest = expected["holistic"].shape[-1]
            maps |= {name: seen[name][here, ..., :longest] for name in ("holistic", "content")}
            for name, weights in maps.items():
                torch.testing.assert_close(weights, expected[name], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def check_logits(family: Family) -> None:
    """
    Untrained, the logits are the foundation's, bit for bit; as if trained, they are not, and each perspective's gate
    alone changes them.
    """
    batch, model = family.batch(RAGGED), upgrade(family)
    expected = family.model(**batch).logits
    assert expected.isfinite().all(), "the foundation itself gives logits that are not finite"
    assert torch.equal(model(**batch).logits, expected), "logits of an untrained upgrade differ"
    gates = as_if_trained(model).model.multi_perspective_projection.gates
    gates.zero_()
    closed = model(**batch).logits[2]
    assert not torch.equal(closed, expected[2]), "MVP changes nothing without perspectives"
    for i, perspective in enumerate(model.config.perspectives):
        gates.copy_(torch.arange(len(gates)) == i)
        assert not torch.equal(model(**batch).logits[2], closed), f"the {perspective} perspective changes nothing"


@torch.no_grad()
def check_generation(family: Family) -> None:
    """Rows with different numbers of images: untrained as the foundation, as if trained as `forward`."""
    check_same_answers(family, family.batch(RAGGED), num_beams=3)
    check_refined_answers(family, family.batch([[1, 2]]))


@torch.no_grad()
def check_rows(family: Family) -> None:
    """Text only, several images a row, different numbers of images; padded on the left and on the right."""
    model = upgrade(family)
    for rows in ([[], []], RAGGED, [[0, 1], [2]]):
        for side in ("left", "right"):
            batch = family.batch(rows, side=side)
            expected = family.model(**batch).logits
            assert torch.equal(model(**batch).logits, expected), f"logits of {rows} padded {side} differ"
    check_sight(family)


@torch.no_grad()
def check_neighbours(family: Family) -> None:
    """No image is taken for a neighbour's."""
    check_alone(family)


def check_gradients(family: Family) -> None:
    """As if trained, a finite gradient reaches every parameter of MVP."""
    model, batch = upgrade_as_if_trained(family), family.batch(RAGGED)
    model.zero_grad()  # the foundation may have been here before
    model(**batch, labels=batch["input_ids"]).loss.backward()
    for name, parameter in model.model.multi_perspective_projection.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), f"no finite gradient for {name}"
        assert parameter.grad.abs().sum() > 0, f"gradient of {name} is zero"


def check_training(family: Family) -> None:
    """A few steps on MVP alone, of an untrained upgrade, lower the loss."""
    model, batch = upgrade(family), family.batch(RAGGED)
    optimizer = torch.optim.AdamW(model.model.multi_perspective_projection.parameters(), lr=1e-2)
    losses = []
    for _ in range(4):
        losses.append(model(**batch, labels=batch["input_ids"]).loss)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0], f"the loss went from {losses[0]:.4f} to {losses[-1]:.4f}"


@torch.no_grad()
def check_perspectives(family: Family) -> None:
    """`output_perspectives` tells what each perspective looked at in each image (or tile of it)."""
    seen = upgrade_as_if_trained(family)(**family.batch(RAGGED), output_perspectives=True).perspectives["image"]
    images, longest = len(seen["sample"]), int(seen["lengths"].max())
    counts = [seen["sample"].tolist().count(row) for row in (0, 2)]
    assert sum(counts) == images, f"images of rows {seen['sample'].tolist()}"
    assert seen["position"].tolist() == [place for count in counts for place in range(count)]
    placeholders = [family.image_tokens(i).count(IMAGE) for row in RAGGED for i in row]
    ends, expected = ({*itertools.accumulate(lengths)} for lengths in (seen["lengths"].tolist(), placeholders))
    assert expected <= ends and max(ends) == max(expected), f"images end at {ends}, their placeholders at {expected}"
    shapes = {"holistic": (images, longest), "content": (images, 8, longest), "relation": (images, 8, 8)}
    for name, shape in {**shapes, "temporal": (images, 8, images), "gates": (4,)}.items():
        assert seen[name].shape == shape, f"{name} has shape {tuple(seen[name].shape)}, expected {shape}"
    torch.testing.assert_close(seen["holistic"].sum(-1), torch.ones(images))
    padding = torch.arange(longest) >= seen["lengths"][:, None]
    assert (seen["holistic"][padding] == 0).all() and (seen["content"].transpose(1, 2)[padding] == 0).all()
    apart = seen["sample"][:, None] != seen["sample"]
    assert (seen["temporal"].transpose(0, 1)[:, apart] == 0).all(), "the temporal perspective mixes samples"


@torch.no_grad()
def check_video(family: Family) -> str | None:
    """
    Videos through `get_video_features`, as images above (but for beams, which fail on the videos of some families),
    and seen frame by frame.
    """
    if family.video_inputs is None:
        return "takes no videos of their own; frames go in as images"
    for rows in (ONE_EACH, RAGGED):
        batch = family.batch(rows, modality="video")
        expected = family.model(**batch).logits  # first, for a family that fails at it
        assert torch.equal(upgrade(family)(**batch).logits, expected), "logits of an untrained upgrade differ"
    check_same_answers(family, batch)
    check_refined_answers(family, family.batch([[1, 2]], modality="video"))
    check_sight(family, "video")
    check_alone(family, "video")
    model = upgrade_as_if_trained(family)
    for rows in (ONE_EACH, RAGGED):
        seen = model(**family.batch(rows, modality="video"), output_perspectives=True).perspectives["video"]
        expected = [row for row, numbers in enumerate(rows) for i in numbers for _ in range(family.video_frames(i))]
        assert seen["sample"].tolist() == expected, f"frames of rows {seen['sample'].tolist()}, expected {expected}"
    between = seen["temporal"].diagonal(dim1=0, dim2=2).sum() / seen["temporal"].sum()
    assert between < 0.99, "no frame looks at another"
    return None


@torch.no_grad()
def check_compact(family: Family) -> str | None:
    """`visual_tokens_per_image=4`, where images have a square grid: untrained, averages over a coarser one."""
    encode, batch = family.model.base_model.get_image_features, family.batch(RAGGED)
    model = upgrade(family, visual_tokens_per_image=4)
    try:
        model(**batch)
    except ValueError as error:
        if "Upgrade it without" in str(error):
            return "its images have no square grid of visual tokens, or DeepStack features"
        if "placeholders" not in str(error):
            raise
    number = int(upgrade(family)(**batch, output_perspectives=True).perspectives["image"]["lengths"][0])

    def first_of_each(i: int) -> list[int]:
        place = itertools.count()
        return [token for token in family.image_tokens(i) if token != IMAGE or next(place) % number < 4]

    compact = replace(family, image_tokens=first_of_each)
    batch = compact.batch(RAGGED)
    logits = model(**batch).logits
    pixels = {name: value for name, value in batch.items() if name in inspect.signature(encode).parameters}
    encoded, side = encode(**pixels, return_dict=True), round(number**0.5)
    features = encoded.pooler_output
    grids = torch.cat([*features]).view(-1, side, side, features[0].shape[-1]).movedim(-1, 1)
    averages = interpolate(grids, (2, 2), mode="area").flatten(2).mT.flatten(0, 1)
    averages = averages.split([len(entry) // number * 4 for entry in features])
    encoded.pooler_output = torch.stack(averages) if isinstance(features, torch.Tensor) else averages
    text = {name: value for name, value in batch.items() if name not in pixels}
    expected = family.model(**text, mm_encoder_outputs={"image": encoded}).logits
    assert torch.equal(logits, expected), "an untrained upgrade does not see the averages"
    check_refined_answers(family, compact.batch([[1, 2]]), visual_tokens_per_image=4)
    return None


CHECKS: dict[str, Callable[[Family], str | None]] = {
    "logits": check_logits,
    "generation": check_generation,
    "rows": check_rows,
    "neighbours": check_neighbours,
    "gradients": check_gradients,
    "training": check_training,
    "perspectives": check_perspectives,
    "video": check_video,
    "compact": check_compact,
}

# What a model or a check can raise; anything else is a mistake of this program and ends it.
FAILURES = (AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError)


def make_family(build: Callable[[], Family]) -> Family:
    torch.manual_seed(0)
    family = build()
    family.model.eval()
    return family


def run_checks(family: Family, folder: Path) -> dict[str, str]:
    """
    Every check by name to `"passed"`, `"does not apply: ..."` or `"failed: ..."`; the upgraded model is saved in
    `folder` for [`reload_all`], which has the last word on `"reload"`.
    """
    outcomes = {}
    for name, check in {**CHECKS, "reload": lambda family: save(family, folder)}.items():
        try:
            reason = check(family)
            outcomes[name] = "passed" if reason is None else f"does not apply: {reason}"
        except FAILURES as error:
            outcomes[name] = f"failed: {type(error).__name__}: {error}"
    return outcomes


def save(family: Family, folder: Path) -> None:
    """An upgraded model as if trained, a batch and the logits it must give in a fresh interpreter."""
    model, batch = upgrade_as_if_trained(family), family.batch(RAGGED)
    with torch.no_grad():
        batch["expected_logits"] = model(**batch).logits
    model.save_pretrained(folder)
    tensors = {name: value.contiguous() for name, value in batch.items() if isinstance(value, torch.Tensor)}
    save_file(tensors, folder / "batch.safetensors")
    lists = {name: value for name, value in batch.items() if name not in tensors}  # some processors leave such
    (folder / "batch.json").write_text(json.dumps(lists))


LOAD = f"""
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText
torch.set_num_threads(1)
outcomes = {{}}
for folder in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
    batch = load_file(folder / "batch.safetensors")
    batch |= json.loads((folder / "batch.json").read_text())
    expected = batch.pop("expected_logits")
    try:
        model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
        with torch.no_grad():
            torch.testing.assert_close(model(**batch).logits, expected)
        outcomes[folder.name] = "passed"
    except ({", ".join(error.__name__ for error in FAILURES)}) as error:
        outcomes[folder.name] = f"failed: {{type(error).__name__}}: {{error}}"
print(json.dumps(outcomes))
"""


def reload_all(folder: Path) -> dict[str, str]:
    """Loads all models that were saved in `folder`, in one fresh and isolated interpreter; outcomes by name."""
    command = [sys.executable, "-I", "-c", LOAD, str(folder)]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=folder)
    if result.returncode:
        raise RuntimeError(f"The fresh interpreter failed:\n{result.stderr[-3000:]}")
    return json.loads(result.stdout.splitlines()[-1])
