"""The model to train, and which of its weights are trained."""

from pathlib import Path

from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig, PreTrainedModel, ProcessorMixin
from trl import ModelConfig

from modeling_emollm import EmoLLMForConditionalGeneration, attach_emoprompt, compact_processor


TRAINABLE = ("mvp", "mvp+lora", "mvp+lora+projector", "full")


def load_model(
    model_args: ModelConfig,
    *,
    upgrade: bool,
    mvp_size: int,
    visual_tokens_per_image: int | None,
    trust_remote_code: bool,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model to train, upgraded if asked for, and its processor with EmoPrompt."""
    name, revision = model_args.model_name_or_path, model_args.model_revision
    if name is None:
        raise ValueError("model_name_or_path is not set: give a folder or a Hub id.")
    used = ModelConfig(model_name_or_path=name, model_revision=revision, dtype=model_args.dtype)
    if unused := [key for key, value in vars(model_args).items() if value != getattr(used, key)]:
        raise ValueError(f"{', '.join(unused)} would have no effect here; leave it out.")
    processor = attach_emoprompt(
        AutoProcessor.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    )
    dtype = model_args.dtype or "auto"
    if upgrade:
        if PreTrainedConfig.get_config_dict(name, revision=revision)[0].get("model_type") == "emollm":
            raise ValueError(f"{name} is an EmoLLM already; set upgrade to false to train it further.")
        number = visual_tokens_per_image
        model = EmoLLMForConditionalGeneration.from_foundation(
            name, revision=revision, dtype=dtype, mvp_size=mvp_size, visual_tokens_per_image=number
        )
        if number is not None:
            processor = compact_processor(processor, number)
    else:
        model = AutoModelForImageTextToText.from_pretrained(
            name, revision=revision, dtype=dtype, trust_remote_code=trust_remote_code
        )
    return model, processor


def choose_trainable(model: PreTrainedModel, train: str, model_args: ModelConfig) -> PreTrainedModel:
    """The model with only the chosen weights to be trained."""
    return model


def save_trained(trainer) -> None:
    """Saves the trained model, processor and card to the output folder."""
    trainer.save_model()
    if trainer.is_world_process_zero():
        trainer.create_model_card()
        # A pickle, with paths of this machine in it, that nothing reads.
        Path(trainer.args.output_dir, "training_args.bin").unlink()
