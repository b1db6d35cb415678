"""One picture to what is stored of it, its file, and the features of many to those of a batch."""

import copy
import hashlib
import inspect
import uuid
from pathlib import Path

import torch
from accelerate.utils import send_to_device
from peft import PeftModel
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from transformers import PreTrainedModel, ProcessorMixin

from evaluation.decoding import foundation_of
from modeling_emollm.emoprompt import process_texts, render_chat


REFUSED = "can't be had from single pictures. Leave feature_cache out for this foundation."
QUESTION = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]


def digest_weights(foundation: PreTrainedModel) -> str:
    """
    Of all frozen weights that may make features: the language model's are none, but for its embeddings.

    Raises:
        `ValueError`: if this process does not hold the weights.
    """
    decoder, digest = foundation.get_decoder(), hashlib.sha256()
    others = set() if decoder is foundation.base_model else {*decoder.parameters(), *decoder.buffers()}
    others.discard(foundation.get_input_embeddings().weight)
    for name, weight in foundation.named_parameters():
        if weight.is_meta or not weight.numel():
            raise ValueError(
                f"{name} is not in this process: weights that are sharded from the beginning (DeepSpeed ZeRO-3) or "
                "offloaded can't fill a feature cache. Use ZeRO-2 or FSDP, or leave feature_cache out."
            )
    for name, weight in [*foundation.named_parameters(), *foundation.named_buffers()]:
        if weight not in others and not weight.requires_grad:
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def prepare(processor: ProcessorMixin, picture: Image.Image) -> tuple[dict, str]:
    """The processor's outputs for one picture, and the text that it puts in place of its placeholder."""
    texts, process_images = [], processor._process_images

    def keep(*args, **kwargs):
        outputs, replacements = process_images(*args, **kwargs)
        texts.extend(replacements)
        return outputs, replacements

    processor = copy.copy(processor)
    processor._process_images = keep
    inputs = process_texts(processor, [render_chat(processor, QUESTION)], [[picture]], "left")
    if len(texts) != 1:
        raise ValueError(f"The placeholders that {type(processor).__name__} writes {REFUSED}")
    return dict(inputs), texts[0]


def encode(model: PreTrainedModel | PeftModel, inputs: dict) -> dict[str, torch.Tensor | list[torch.Tensor]]:
    """What is stored of one picture: its features, and the sizes that positions follow from (M-RoPE)."""
    foundation = foundation_of(model)
    encoder = foundation.base_model.get_image_features
    given = {name: inputs[name] for name in inspect.signature(encoder).parameters if inputs.get(name) is not None}
    encoded = encoder(**send_to_device(given, foundation.device), return_dict=True)
    pooled, layers = encoded.pooler_output, getattr(encoded, "deepstack_features", None)
    if pooled is None:
        raise ValueError(f"The features of {type(foundation).__name__} {REFUSED}")
    sizes = [name for name, value in given.items() if isinstance(value, torch.Tensor) and is_size(name)]
    entry = {name: given[name] for name in sizes}
    entry["pooler_output"] = pooled if isinstance(pooled, torch.Tensor) else list(pooled)
    return entry if layers is None else {**entry, "deepstack_features": [torch.cat(layer) for layer in layers]}


def tokenwise(batch: dict) -> list[str]:
    """Names of the tensors that have a value a token."""
    shape = batch["input_ids"].shape
    return [name for name, value in batch.items() if isinstance(value, torch.Tensor) and value.shape == shape]


def is_size(name: str) -> bool:
    return "grid" in name or "sizes" in name


def join(entries: list[dict]) -> dict:
    """Features of single pictures as `get_image_features` gives them for all of these in one go."""
    pooled = [entry["pooler_output"] for entry in entries]
    joined = {"pooler_output": torch.cat(pooled) if isinstance(pooled[0], torch.Tensor) else sum(pooled, [])}
    if "deepstack_features" in entries[0]:
        layers = zip(*(entry["deepstack_features"] for entry in entries), strict=True)
        joined["deepstack_features"] = [list(layer) for layer in layers]  # of each a tensor a picture
    return joined


def write(path: Path, replacement: str, entry: dict[str, torch.Tensor | list[torch.Tensor]]) -> None:
    flat = {}
    for name, value in entry.items():
        parts = {name: value} if isinstance(value, torch.Tensor) else {f"{name}.{i}": v for i, v in enumerate(value)}
        flat |= {part: tensor.to("cpu", copy=True).contiguous() for part, tensor in parts.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{uuid.uuid4().hex}.tmp")  # machines may have like process ids
    try:
        unfinished.write_bytes(save(flat, {"replacement": replacement}))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read(path: Path) -> tuple[str, dict[str, torch.Tensor | list[torch.Tensor]]]:
    """What [`write`] was given."""
    entry = {}
    try:
        with safe_open(path, "pt") as file:
            for name in sorted(file.keys(), key=lambda name: (len(name), name)):  # parts of a list by number
                field, is_part, _ = name.partition(".")
                if is_part:
                    entry.setdefault(field, []).append(file.get_tensor(name))
                else:
                    entry[field] = file.get_tensor(name)
            return file.metadata()["replacement"], entry
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}). Delete it: the next start computes it anew.") from error
