"""Parameters, memory and time of a training, from the configuration alone."""

from trl import ModelConfig, SFTConfig


def estimate(script_args, training_args: SFTConfig, model_args: ModelConfig) -> str:
    raise NotImplementedError
