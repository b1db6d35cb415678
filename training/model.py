"""The model to train, which of its weights are trained, and how the trained model is saved."""

import os
import shutil
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import recursively_apply
from huggingface_hub import upload_folder
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils.constants import DUMMY_TARGET_MODULES
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.utils.hub import resolve_revision
from trl import ModelConfig

from dataset_scripts.manifest import digest_safetensors
from modeling_emollm import EmoLLMForConditionalGeneration, attach_emoprompt, compact_processor

from .card import describe_training, write_card
from .checkpoints import not_written


LORA_FIELDS = ("lora_r", "lora_alpha", "lora_dropout", "use_rslora")
MODEL_FIELDS = ("model_name_or_path", "model_revision", "dtype", "attn_implementation", *LORA_FIELDS)
MVP = "multi_perspective_projection"
# What families call their modules between the vision encoder's layers and the language model.
PROJECTORS = {
    "aligner",
    "connector",
    "deepstack_merger_list",
    "embed_vision",
    "merger",
    "merger_list",
    "mm_projector",
    "multi_modal_projector",
    "patch_merger",
    "projector",
    "resampler_model",
    "vision_adapter",
    "vision_projection",
    "visual_embeddings_table",
}


def load_model(
    model_args: ModelConfig,
    *,
    mvp_fields: dict | None,
    trust_remote_code: bool,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model to train, upgraded if there are fields of its [`EmoLLMConfig`], and its processor with EmoPrompt."""
    name = model_args.model_name_or_path
    if name is None:
        raise ValueError("model_name_or_path is not set: give a folder or a Hub id.")
    used = ModelConfig(**{field: getattr(model_args, field) for field in MODEL_FIELDS})
    if unused := [key for key, value in vars(model_args).items() if value != getattr(used, key)]:
        raise ValueError(f"{', '.join(unused)} would have no effect here; leave it out.")
    # The commit, so that nothing that is read later is of another.
    revision = resolve_revision(name, model_args.model_revision)
    processor = attach_emoprompt(
        AutoProcessor.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    )
    dtype = model_args.dtype or "auto"
    if mvp_fields is not None:
        if PreTrainedConfig.get_config_dict(name, revision=revision)[0].get("model_type") == "emollm":
            raise ValueError(f"{name} is an EmoLLM already; set upgrade to false to train it further.")
        model = EmoLLMForConditionalGeneration.from_foundation(name, revision=revision, dtype=dtype, **mvp_fields)
        if model.config.visual_tokens_per_image is not None:
            processor = compact_processor(processor, model.config.visual_tokens_per_image)
    else:
        model = AutoModelForImageTextToText.from_pretrained(
            name, revision=revision, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True
        )
    if model_args.attn_implementation:  # now, since the upgrade's probe runs on the CPU, which not all can
        getattr(model, "foundation", model).set_attn_implementation(model_args.attn_implementation)
    model.load_again = partial(
        load_model,
        replace(model_args, model_revision=revision),
        mvp_fields=mvp_fields,
        trust_remote_code=trust_remote_code,
    )
    return model, processor


def find_projector(model: PreTrainedModel) -> list[str]:
    """Names of the modules between the vision encoder's layers and the language model."""
    found = []
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in PROJECTORS and not name.startswith(tuple(f"{outer}." for outer in found)):
            found += [f"{name}.{i}" for i in range(len(module))] if isinstance(module, nn.ModuleList) else [name]
    return found


def _to_dtype(tensors, dtype: torch.dtype):
    return recursively_apply(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, tensors)


def choose_trainable(model: PreTrainedModel, train: str, model_args: ModelConfig) -> PreTrainedModel | PeftModel:
    """
    The model with only the chosen weights to be trained, in float32 whatever it was loaded in: steps of training are
    too small for bfloat16. All others stay as they were loaded.

    Args:
        model (`PreTrainedModel`): a foundation or an EmoLLM.
        train (`str`): `"mvp"`, `"mvp+lora"`, `"mvp+lora+projector"` or `"full"`. A foundation has no MVP, and trains
            what else is named.
        model_args (`ModelConfig`): its fields of LoRA.

    Returns:
        The model itself for `"full"`, else a `PeftModel`, whose checkpoints hold what is trained and nothing else.

    Raises:
        `ValueError`: if nothing is left to train, the projector can't be found, or a field of LoRA has no effect.
    """
    parts, kind = train.split("+"), type(model).__name__
    total = model.num_parameters()
    if "lora" not in parts and (set_ := [f for f in LORA_FIELDS if getattr(model_args, f) != getattr(ModelConfig, f)]):
        raise ValueError(f"{', '.join(set_)} would have no effect with train={train}; leave it out.")
    if train == "full":
        model.loaded_dtype = model.dtype
        model.float()
    else:
        whole = [name for name, _ in model.named_modules() if name.rpartition(".")[2] == MVP]
        if train == "mvp" and not whole:
            raise ValueError(
                f"{kind} has no MVP to train: set upgrade to true, or train to mvp+lora, which trains LoRA."
            )
        if "projector" in parts:
            projector = find_projector(model)
            if not projector:
                raise ValueError(f"{kind} has no module named {', '.join(sorted(PROJECTORS))}: set train to mvp+lora.")
            # As MVP and LoRA do it themselves: what comes in gets the weights' type, what goes out the model's.
            narrow = partial(_to_dtype, dtype=model.dtype)
            for module in map(model.get_submodule, projector):
                module.register_forward_pre_hook(
                    lambda module, *inputs: _to_dtype(inputs, next(module.parameters()).dtype), with_kwargs=True
                )
                module.register_forward_hook(lambda _, inputs, output: narrow(output))
            whole += projector
        for name in whole:
            model.get_submodule(name).float()
        linear = DUMMY_TARGET_MODULES  # none
        if "lora" in parts:
            # Twice, since the decoder of some families is a model with a head. What an indexer selects has no slope.
            decoder = getattr(model, "foundation", model).get_decoder().get_decoder()
            inside = {id(module) for module in decoder.modules() if isinstance(module, nn.Linear)}
            linear = [n for n, module in model.named_modules() if id(module) in inside and ".indexer." not in n]
        model = get_peft_model(
            model,
            LoraConfig(
                target_modules=linear,
                modules_to_save=whole,
                r=model_args.lora_r,
                lora_alpha=model_args.lora_alpha,
                lora_dropout=model_args.lora_dropout,
                use_rslora=model_args.use_rslora,
            ),
        )
        model.peft_config["default"].base_model_name_or_path = ""  # of which peft asks the Hub at every checkpoint
    model.parameter_counts = {"all": total, "trained": model.num_parameters(only_trainable=True)}
    PartialState().print(f"train={train}: {model.parameter_counts['trained']:,} of {total:,} parameters.")
    return model


@contextmanager
def _writing(trainer, folder: Path):
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise not_written(trainer, folder, error) from error


def _merge(trained: PeftModel, folder: Path) -> PreTrainedModel:
    """
    What was trained, from a folder, in the weights as they are loaded: those of the trained model may be sharded.

    Raises:
        `ValueError`: if the folder lacks some of it, of which peft would only warn.
    """
    unset_hf_deepspeed_config()  # or these would be sharded as well
    model, _ = trained.get_base_model().load_again()
    model = PeftModel.from_pretrained(model, folder, torch_device="cpu")
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        if missing := sorted(get_peft_model_state_dict(model).keys() - set(file.keys())):
            raise ValueError(f"{folder} lacks {len(missing)} trained weights, e.g. {missing[0]}; please report this.")
    return model.merge_and_unload()


def save_trained(trainer) -> None:
    """
    Saves the trained model to the output folder, and pushes it if asked for: LoRA merged, in the type that it was
    loaded in, with its code, processor and card. The folder has a `config.json`, without which it does not load, only
    once all of it is there.

    Args:
        trainer (`EmoLLMTrainer`): of a model from [`load_model`] and [`choose_trainable`].

    Raises:
        `OSError`: if it can't be written. What was trained is left in the folder `unfinished` once it is there.
    """
    output = Path(trainer.args.output_dir)
    unfinished = output / "unfinished"
    weights, finished = unfinished / "weights", unfinished / "model"
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    with _writing(trainer, unfinished):
        trainer.save_model(str(weights), _internal_call=True)  # gathers what is sharded
    if trainer.is_world_process_zero():
        trained = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
        if isinstance(trained, PeftModel):
            model = _merge(trained, weights)
        else:
            model = type(trained).from_pretrained(weights, dtype=trained.loaded_dtype)
        with _writing(trainer, finished):
            model.save_pretrained(finished)
            trainer.processing_class.save_pretrained(finished)
            if trainer.facts is not None:
                facts = trainer.facts | describe_training(trainer) | {"weights": digest_safetensors(finished)}
                write_card(finished, facts, trainer.hub_model_id or output.name)
        # What an earlier training left here would be loaded as well.
        stale = ["config.json", "model*.safetensors*", "adapter_*"]
        for path in [path for pattern in stale for path in output.glob(pattern)]:
            path.unlink()
        files = sorted(os.listdir(finished), key="config.json".__eq__)  # which comes last
        for file in files:
            os.replace(finished / file, output / file)
        shutil.rmtree(unfinished)
        if trainer.args.push_to_hub:
            upload_folder(
                repo_id=trainer.hub_model_id,
                folder_path=output,
                allow_patterns=files,
                delete_patterns=stale,
                commit_message="End of training",
                token=trainer.args.hub_token,
                revision=trainer.args.hub_revision,
            )
    trainer.accelerator.wait_for_everyone()
