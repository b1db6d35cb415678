"""The benchmarks run, on next to nothing; what they measure is never tested."""

import json
import subprocess
import sys
from pathlib import Path


def test_overhead_prints_ratios():
    sizes = "--hidden-size 128 --num-layers 1 --tokens-per-side 2 --rounds 1"
    command = [sys.executable, "-m", "benchmarks.overhead", *sizes.split()]
    result = subprocess.run(
        command, cwd=Path(__file__).parents[1], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    ratios = json.loads(result.stdout)
    assert ratios.pop("device") in ("cpu", "cuda")
    measured = ("prefill", "training_step", "peak_memory")
    expected = {f"{name}_{images}" for name in measured for images in ("1_image", "8_frames")}
    expected |= {f"{name}_576_over_64_tokens" for name in measured[:2]} | {"mvp_parameters"}
    assert ratios.keys() == expected and all(ratio > 0 for ratio in ratios.values())
