"""Checkpoints: where a training goes on, and what stops one."""

from trl import ModelConfig, SFTConfig


def resume_point(script_args, training_args: SFTConfig, model_args: ModelConfig) -> str | None:
    """The checkpoint to go on from, or None to begin."""
    return training_args.resume_from_checkpoint
