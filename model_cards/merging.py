"""An adapter as a whole model."""

from pathlib import Path

from peft import PeftConfig, PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig, PreTrainedModel

from modeling_emollm import EmoLLMForConditionalGeneration


def load_merged(name: str, revision: str | None = None) -> PreTrainedModel:
    """A model by folder or Hub id; an adapter, be it of an adapter, merged into what it was trained on."""
    if Path(name, "adapter_config.json").is_file():
        config = PeftConfig.from_pretrained(name)
        if not config.base_model_name_or_path:
            raise ValueError(
                f"{name} is an adapter that does not say of what, as a checkpoint of train_sft.py: let the training "
                "end (--resume_from_checkpoint last), which merges it"
            )
        model = load_merged(config.base_model_name_or_path, config.revision)
        return PeftModel.from_pretrained(model, name).merge_and_unload()
    config, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
    # an EmoLLM by the code of this repository, so that nobody's own is run
    kind = EmoLLMForConditionalGeneration if config["model_type"] == "emollm" else AutoModelForImageTextToText
    return kind.from_pretrained(name, revision=revision)


def merge(source: Path, folder: Path) -> None:
    """Write the merged model, its processor, and what `source` says of its training."""
    load_merged(str(source)).save_pretrained(folder)
    base = PeftConfig.from_pretrained(source)
    named = str(source) if (source / "tokenizer_config.json").is_file() else base.base_model_name_or_path
    AutoProcessor.from_pretrained(named, revision=None if named == str(source) else base.revision).save_pretrained(
        folder
    )
    if (source / "training.json").is_file():
        (folder / "training.json").write_bytes((source / "training.json").read_bytes())
