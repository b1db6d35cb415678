"""What an upgraded model must do, whatever its family. A check returns nothing, or says why it does not apply."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from modeling_emollm import EmoLLMForConditionalGeneration

from .family import Family


ONE_EACH = [[0], [1]]
RAGGED = [[0], [], [1, 2]]  # one image, none, several of other sizes


def upgrade(family: Family, **fields) -> EmoLLMForConditionalGeneration:
    torch.manual_seed(1)
    return EmoLLMForConditionalGeneration.from_foundation(family.model, **{"mvp_size": 16, **fields})


def upgrade_with_open_gates(family: Family, **fields) -> EmoLLMForConditionalGeneration:
    model = upgrade(family, **fields)
    torch.nn.init.constant_(model.model.multi_perspective_projection.gates, 0.5)
    return model


@torch.no_grad()
def check_logits(family: Family) -> None:
    """At closed gates the logits are the foundation's, bit for bit; once they open, they are not."""
    batch = family.batch(ONE_EACH)
    expected = family.model(**batch).logits
    assert expected.isfinite().all(), "the foundation itself gives logits that are not finite"
    assert torch.equal(upgrade(family)(**batch).logits, expected), "logits differ at closed gates"
    assert not torch.equal(upgrade_with_open_gates(family)(**batch).logits, expected), "MVP changes nothing"


@torch.no_grad()
def check_generation(family: Family) -> None:
    """Greedy, sampled (seeded) and beam generation of rows with different numbers of images."""
    batch, model = family.batch(RAGGED), upgrade(family)
    for options in ({}, {"do_sample": True}, {"num_beams": 3}):
        generated = []
        for one in (family.model, model):
            torch.manual_seed(3)
            generated.append(one.generate(**batch, **options, min_new_tokens=4, max_new_tokens=4))
        assert torch.equal(*generated), f"generate({options}) differs at closed gates"


@torch.no_grad()
def check_rows(family: Family) -> None:
    """Text only, several images a row, different numbers of images; padded on the left and on the right."""
    model = upgrade(family)
    for rows in ([[], []], RAGGED, [[0, 1], [2]]):
        for side in ("left", "right"):
            batch = family.batch(rows, side=side)
            expected = family.model(**batch).logits
            assert torch.equal(model(**batch).logits, expected), f"logits of {rows} padded {side} differ"


@torch.no_grad()
def check_neighbours(family: Family) -> None:
    """With open gates a row's logits are those that it has alone: no image is taken for a neighbour's."""
    model = upgrade_with_open_gates(family)
    together = model(**family.batch(RAGGED)).logits[:, -1]
    alone = torch.cat([model(**family.batch([row])).logits[:, -1] for row in RAGGED])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def check_gradients(family: Family) -> None:
    """With open gates a finite gradient reaches every parameter of MVP."""
    model, batch = upgrade_with_open_gates(family), family.batch(RAGGED)
    model.zero_grad()  # the foundation may have been here before
    model(**batch, labels=batch["input_ids"]).loss.backward()
    for name, parameter in model.model.multi_perspective_projection.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), f"no finite gradient for {name}"
        assert parameter.grad.abs().sum() > 0, f"gradient of {name} is zero"


def check_training(family: Family) -> None:
    """A few steps on MVP alone, from closed gates, lower the loss."""
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
    """`output_perspectives` tells what each perspective looked at in each image."""
    seen = upgrade_with_open_gates(family)(**family.batch(RAGGED), output_perspectives=True).perspectives["image"]
    images, longest = len(seen["sample"]), int(seen["lengths"].max())
    assert sorted(set(seen["sample"].tolist())) == [0, 2], f"images of rows {seen['sample'].tolist()}"
    assert int(seen["lengths"].sum()) == int(
        (family.batch(RAGGED)["input_ids"] == family.model.config.image_token_id).sum()
    )
    shapes = {"holistic": (images, longest), "content": (images, 8, longest), "relation": (images, 8, 8)}
    for name, shape in {**shapes, "temporal": (images, 8, images), "gates": (4,)}.items():
        assert seen[name].shape == shape, f"{name} has shape {tuple(seen[name].shape)}, expected {shape}"
    torch.testing.assert_close(seen["holistic"].sum(-1), torch.ones(images))
    apart = seen["sample"][:, None] != seen["sample"]
    assert (seen["temporal"].transpose(0, 1)[:, apart] == 0).all(), "the temporal perspective mixes samples"


@torch.no_grad()
def check_video(family: Family) -> str | None:
    """
    Videos through `get_video_features`: at closed gates the foundation's logits and greedy and sampled generation (its
    beams fail on the videos of some families), with open gates seen frame by frame and apart from their neighbours.
    """
    if family.video_inputs is None:
        return "takes no videos of their own; frames go in as images"
    for rows in (ONE_EACH, RAGGED):
        batch = family.batch(rows, modality="video")
        assert torch.equal(upgrade(family)(**batch).logits, family.model(**batch).logits), "logits differ"
    model = upgrade(family)
    for options in ({}, {"do_sample": True}):
        generated = []
        for one in (family.model, model):
            torch.manual_seed(3)
            generated.append(one.generate(**batch, **options, min_new_tokens=3, max_new_tokens=3))
        assert torch.equal(*generated), f"generate({options}) from videos differs at closed gates"
    model = upgrade_with_open_gates(family)
    together = model(**batch).logits[:, -1]
    alone = torch.cat([model(**family.batch([row], modality="video")).logits[:, -1] for row in RAGGED])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    seen = model(**batch, output_perspectives=True).perspectives["video"]
    frames = [[family.video_frames(i) for i in row] for row in RAGGED]
    expected = [row for row, numbers in enumerate(frames) for _ in range(sum(numbers))]
    assert seen["sample"].tolist() == expected, f"frames of rows {seen['sample'].tolist()}, expected {expected}"
    between = seen["temporal"].diagonal(dim1=0, dim2=2).sum() / seen["temporal"].sum()
    assert between < 0.99, "no frame looks at another"
    return None


@torch.no_grad()
def check_compact(family: Family) -> str | None:
    """`visual_tokens_per_image=4`, where an image has a square grid of visual tokens."""
    try:
        model = upgrade_with_open_gates(family, visual_tokens_per_image=4)
        batch = family.batch(RAGGED)
        model(**batch)
    except ValueError as error:
        if "Upgrade it without" in str(error):
            return "its images have no square grid of visual tokens, or DeepStack features"
        if "placeholders" not in str(error):
            raise
    number = int(upgrade(family)(**batch, output_perspectives=True).perspectives["image"]["lengths"][0])
    ids, token = batch["input_ids"], family.model.config.image_token_id
    count = (ids == token).cumsum(1)
    keep = (ids != token) | ((count - 1) % number < 4)  # the first four placeholders of every image
    width = int(keep.sum(1).max())
    compact = dict(batch)
    for name in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
        if name in batch:
            rows = [row[kept] for row, kept in zip(batch[name], keep, strict=True)]
            compact[name] = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in rows])
    logits = model(**compact).logits
    assert logits.shape[1] == width and logits.isfinite().all()
    generated = model.generate(**compact, min_new_tokens=3, max_new_tokens=3)
    assert generated.shape == (len(ids), width + 3)
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
    """An upgraded model with open gates, a batch and the logits it must give in a fresh interpreter."""
    model, batch = upgrade_with_open_gates(family), family.batch(RAGGED)
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
