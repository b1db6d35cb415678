"""GPU hours of a plan, from the configs of its foundations alone."""

from training.estimate import PEAK_FLOPS, UTILIZATION, count, seconds_a_row

from .plan import ADAPTER, MVP, SFT, UNTRAINED, Cell, Plan
from .tables import table


# Of a training step's time, which computes with every weight once more, for the slopes of activations.
FORWARD = 1 / 2


def estimate(plan: Plan) -> str:
    """
    A table of what is trained of each foundation, and the GPU hours of its trainings and evaluations, in the worst
    case that `train_sft.py --estimate` tells: every row is as long as it may be. No weights are read.

    Raises:
        `ValueError`: as [`training.estimate.count`].
    """
    rows, together = [], 0
    for name in plan.values["foundations"]:
        trained, seconds = [], {}
        for arm in (SFT, ADAPTER, MVP):
            script_args, training_args, model_args = plan.arguments(Cell(name, arm, 0))
            counted = count(script_args, training_args, model_args)
            trained.append(f"{sum(p.numel() for p in counted.model.parameters() if p.requires_grad):,}")
            seconds[arm] = seconds_a_row(counted, training_args)
        steps = training_args.per_device_train_batch_size * training_args.gradient_accumulation_steps
        cells = [cell for cell in plan.cells if cell.foundation == name]
        trainings = [seconds.get(cell.arm, seconds[MVP]) for cell in cells if cell.arm not in UNTRAINED]
        training = training_args.max_steps * steps * sum(trainings) / 3600
        evaluation = plan.values["test_rows"] * len(cells) * FORWARD * seconds[MVP] / 3600
        rows.append([name, *trained, str(len(cells)), f"{training:.0f}", f"{evaluation:.0f}"])
        together += training + evaluation
    peak = PEAK_FLOPS["bfloat16" if training_args.bf16 else "float32"] / 1e12
    head = ["foundation", *(f"trained by {arm}" for arm in (SFT, ADAPTER, MVP)), "cells", "training", "evaluation"]
    hours = f"GPU hours, together {together:.0f}, at {UTILIZATION:.0%} of {peak:.0f} TFLOP/s (H100 SXM, dense)."
    return f"{table(head, rows)}\n\n{hours}"
