"""The benchmarks run, on next to nothing; what they measure is never tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(name: str, *arguments: str) -> dict:
    result = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout)


def test_overhead_prints_ratios():
    ratios = run("overhead", *"--hidden-size 128 --num-layers 1 --tokens-per-side 2 --rounds 1".split())
    assert ratios.pop("device") in ("cpu", "cuda")
    measured = ("prefill", "training_step", "peak_memory")
    expected = {f"{name}_{images}" for name in measured for images in ("1_image", "8_frames")}
    expected |= {f"{name}_576_over_64_tokens" for name in measured[:2]} | {"mvp_parameters"}
    assert ratios.keys() == expected and all(ratio > 0 for ratio in ratios.values())


def test_training_has_stocks_losses_by_every_lever():
    whole = ["all, 2 workers", "all, bf16", "all, 64 visual tokens"]
    names = ["answer-only logits", "feature cache", "Liger kernels", *whole, "all, length-grouped batches"]
    sizes = "--hidden-size 64 --num-layers 1 --vision-layers 1 --rows 4 --batch-size 2 --rounds 1"
    results = run("training", *sizes.split(), "--only", *names)
    levers, grouping = results["levers"], results["grouping"]
    assert levers.keys() == {"stock", *names[:-1]} and grouping.keys() == {"stock", names[-1]}
    liger = levers.pop("Liger kernels")
    assert isinstance(liger, dict) or liger.startswith("not run: ")
    for name, row in [*levers.items(), *grouping.items()]:
        assert row["samples_a_second"] > 0 and row["to_stock"] > 0 and row["mean_loss"] > 0
        assert ("to_stock_with_filling" in row) == ("all" in name or "cache" in name)
    del levers["all, 64 visual tokens"]
    assert all(row["same_loss"] for row in levers.values())
    assert levers["all, bf16"]["loss_difference"] > 0
    assert 1 <= grouping["all, length-grouped batches"]["padding"] < grouping["stock"]["padding"]


def test_evaluation_prints_ratios_of_the_same_answers():
    sizes = "--samples 2 --rounds 1 --batch-size 2 --tokens-per-side 4 --hidden-size 64 --num-layers 1"
    results = run("evaluation", *sizes.split(), "--vision-layers", "1", "--steps", "6")
    for labels in ("7 labels", "28 labels"):
        assert results[labels]["same_as_forward_per_label"] == 1
        assert results[labels]["to_forward_per_label"] > 0 and results[labels]["to_generate"] > 0
    assert results["4 questions a picture"]["to_generate"] > 0
    assert ("2 processes" in results) == results["device"].endswith("CPU cores")


def test_mfu_says_what_a_step_takes():
    sizes = "--hidden-size 256 --num-layers 4 --vision-size 64 --vision-layers 1 --tokens-per-side 2"
    results = run("mfu", *sizes.split(), "--batch-size", "2", "--steps", "1")
    for name in ("seconds_a_step", "tokens_a_second", "tflops_a_second", "matrix_peak_tflops", "of_matrix_peak"):
        assert results[name] > 0
    # Of two rows of four visual tokens and 64 of text; logits are of the eight answered tokens and the one before.
    layers, head = 4 * (4 * 256**2 + 3 * 256 * 1024), 256 * 24 * 256
    assert results["tflops_a_step"] == pytest.approx(6 * (layers * 2 * (4 + 64) + head * 2 * 9) / 1e12, rel=0.1)
    assert results["share_of_step"] and results["busy"] > 0
    assert ("note" in results) == (results["mfu"] is None)
