"""
Parameters, memory and time of a training, from the foundation's `config.json` alone.

One training step is run on tensors that have a shape but no data (torch's `FakeTensorMode`): with the real model, the
real choice of what is trained and the loss of the answers. So floating-point operations (FLOPs), and the memory in use
at each moment, are counted operator by operator instead of following from a formula. Beside them stands the usual
formula of Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models" (2022, arXiv 2205.05198,
section 4): with fused attention a layer of a decoder keeps 34 s b h bytes, or 2 s b h if they are computed again, for
b rows of s tokens and a hidden size of h. LoRA keeps more, since peft casts what it reads to float32.
"""

import inspect
import math
import weakref
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel
from trl import ModelConfig, SFTConfig

from modeling_emollm import EmoLLMForConditionalGeneration

from .model import MVP, choose_trainable, find_projector


WORDS = 256  # tokens of a row that are not visual: EmoPrompt, question and answer
ANSWER = 64  # of these, the answer's, or a short rationale's
PEAK_FLOPS = {"bfloat16": 989e12, "float32": 67e12}  # a second, dense: NVIDIA's data sheet of the H100 SXM
UTILIZATION = 0.4  # the share of it that a training reaches
FRAGMENTATION = 1.1  # activations as the allocator holds them, over what is in use
RESERVE = 1e9  # bytes: the CUDA context and the workspaces of its libraries
DEVICES = (24, 40, 80, 141)  # gigabytes
PLANS = {"1 GPU": 1, "8 DDP": 8, "8 sharded": 8, "16 sharded": 16}
DEPTHS = (4, 6)  # of decoders whose steps are counted; what they take grows by the same with each further layer
COMPARISONS = {torch.ops.aten.eq: False, torch.ops.aten.ne: True}


class FakeStep(TorchDispatchMode):
    """
    Runs operators on fake tensors, counts their FLOPs as torch's `FlopCounterMode` does, and notes the most bytes that
    were in use at once. Integers and masks are real, since shapes depend on them; numbers without a value equal none.

    Args:
        model (`torch.nn.Module`): whose weights and gradients do not count.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.flops = self.in_use = self.peak = 0
        self.known = WeakIdKeyDictionary()
        for tensor in [*model.parameters(), *model.buffers()]:
            self.known[tensor.untyped_storage()] = True
            if tensor.grad is not None:
                self.known[tensor.grad.untyped_storage()] = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func._overloadpacket
        if name in COMPARISONS and isinstance(args[0], FakeTensor):
            return torch.full(args[0].shape, COMPARISONS[name])
        if func is torch.ops.aten.index.Tensor:
            parts = [[i] if i is None or i.dtype != torch.bool else i.nonzero().unbind(-1) for i in args[1]]
            args = (args[0], [index for part in parts for index in part])
        out = func(*args, **kwargs)
        if name in flop_registry:
            self.flops += flop_registry[name](*args, **kwargs, out_val=out)
        for tensor in tree_leaves(out):
            if isinstance(tensor, FakeTensor) and (storage := tensor.untyped_storage()) not in self.known:
                self.known[storage] = True
                self.in_use += storage.nbytes()
                weakref.finalize(storage, self.free, storage.nbytes())
        self.peak = max(self.peak, self.in_use)
        return out

    def free(self, number: int) -> None:
        self.in_use -= number


def build(script_args, training_args: SFTConfig, model_args: ModelConfig) -> tuple[nn.Module, PreTrainedModel]:
    """The model as it is trained, and the foundation in it, on the meta device."""
    name, trust = model_args.model_name_or_path, training_args.trust_remote_code
    if name is None:
        raise ValueError("model_name_or_path is not set: give a folder or a Hub id.")
    config = AutoConfig.from_pretrained(name, revision=model_args.model_revision, trust_remote_code=trust)
    dtype = config.dtype if model_args.dtype in ("auto", None) else getattr(torch, model_args.dtype)
    attention = model_args.attn_implementation or "sdpa"
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(
            config, dtype=dtype or torch.float32, attn_implementation=attention, trust_remote_code=trust
        )
    if script_args.upgrade:
        model = EmoLLMForConditionalGeneration.from_foundation(model, **script_args.mvp_fields)
    foundation = getattr(model, "foundation", model)
    with torch.device("meta"):
        model = choose_trainable(model, script_args.train, model_args).train()
    if training_args.activation_checkpointing:
        model.activation_checkpointing_enable(training_args.activation_checkpointing_kwargs)
    return model, foundation


def make_fake(model: nn.Module, fake: FakeTensorMode) -> None:
    """Puts fake tensors in the place of meta ones, which know fewer operators and no precision of a device."""
    made = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor not in made:
                    with fake:
                        empty = torch.empty(tensor.shape, dtype=tensor.dtype)
                    is_weight = isinstance(tensor, nn.Parameter)
                    made[tensor] = nn.Parameter(empty, tensor.requires_grad) if is_weight else empty
                tensors[name] = made.get(tensor)


def make_pictures(foundation: PreTrainedModel, fake: FakeTensorMode, rows: int, number: int, room: int) -> dict:
    """
    What the vision tower takes for `number` pictures in each of `rows` rows. Families that keep a picture's resolution
    get pictures of `room` visual tokens.
    """
    vision, base = foundation.config.vision_config, foundation.base_model
    takes = inspect.signature(base.get_image_features).parameters
    if "image_grid_thw" in takes:
        height, merge = math.isqrt(room), vision.spatial_merge_size
        grid = torch.tensor([1, height * merge, room // height * merge])
        pixels = (rows * number * int(grid.prod()), 3 * vision.temporal_patch_size * vision.patch_size**2)
        with fake:
            values = torch.empty(pixels)
        return {"pixel_values": values, "image_grid_thw": grid.repeat(rows * number, 1)}
    needed = [n for n, p in takes.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if needed != ["pixel_values"] or not hasattr(vision, "image_size"):
        raise ValueError(
            f"A config does not tell what pictures of {type(foundation).__name__} are like (get_image_features takes "
            f"{', '.join(takes)}), so nothing can be estimated: train it with --max_steps 3 on the device instead."
        )
    size = vision.image_size if isinstance(vision.image_size, list | tuple) else [vision.image_size] * 2
    shape = (rows, number) if hasattr(base, "image_seq_len") else (rows * number,)  # Idefics3 and its kin
    with fake:
        return {"pixel_values": torch.empty(*shape, 3, *size)}


def run_step(model: nn.Module, inputs: dict, bf16: bool) -> FakeStep:
    """A training step, with gradients of steps before it, as they are where several steps are accumulated."""
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
    with FakeStep(model) as step:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(**inputs, use_cache=False, logits_to_keep=ANSWER + 1).logits[:, :-1].float()
            answers = inputs["input_ids"][:, -ANSWER:]
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten(), reduction="sum")
        loss.backward()
    return step


@dataclass
class Counted:
    """
    What the steps on fake tensors came to.

    Args:
        model (`nn.Module`): as it is trained.
        foundation (`PreTrainedModel`): the foundation in it.
        flops (`int`): of a step of one GPU.
        activations (`int`): the most bytes in use in it beside weights, gradients and optimizer states.
        tokens (`int`): visual tokens of a picture, as the language model gets them.
        pictures (`int`): in a row.
        picture_flops (`int`): to encode one.
        picture_bytes (`int`): of its features.
    """

    model: nn.Module
    foundation: PreTrainedModel
    flops: int
    activations: int
    tokens: int
    pictures: int
    picture_flops: int
    picture_bytes: int


def count(script_args, training_args: SFTConfig, model_args: ModelConfig) -> Counted:
    """Runs the vision tower and a training step on fake tensors; see `estimate`."""
    rows, length, bf16 = training_args.per_device_train_batch_size, training_args.max_length, training_args.bf16
    if length is None:
        raise ValueError("max_length is null: give the number of tokens of the longest row to estimate with.")
    fake, room = FakeTensorMode(allow_non_fake_inputs=True), length - WORDS
    model, foundation = build(script_args, training_args, model_args)
    make_fake(model, fake)
    pixels = make_pictures(foundation, fake, 1, 1, max(room, 1))
    with FakeStep(model) as encoder, torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        encoded = foundation.base_model.get_image_features(**pixels, return_dict=True)
    features = tree_leaves([encoded.pooler_output, getattr(encoded, "deepstack_features", None) or []])
    tokens = getattr(model.config, "visual_tokens_per_image", None) or sum(
        len(picture) for picture in encoded.pooler_output
    )
    pictures = room // tokens
    if pictures < 1:
        raise ValueError(
            f"max_length={length} leaves {room} tokens beside {WORDS} of text, but a picture takes {tokens}: raise it "
            f"to {WORDS + tokens}."
        )
    ids = torch.zeros(rows, length, dtype=torch.long)
    ids[:, : pictures * tokens] = foundation.config.image_token_id
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in inspect.signature(foundation.forward).parameters:
            inputs[name] = (ids == foundation.config.image_token_id).long()
    inputs |= make_pictures(foundation, fake, rows, pictures, room)
    name, layers = decoder_layers(foundation)
    steps = []
    for depth in DEPTHS:
        foundation.get_decoder().set_submodule(name, layers[:depth])
        steps.append(run_step(model, inputs, bf16))
    foundation.get_decoder().set_submodule(name, layers)
    left = (len(layers) - DEPTHS[1]) / (DEPTHS[1] - DEPTHS[0]) if len(layers) > DEPTHS[1] else 0
    flops, activations = (
        round(more + left * (more - less))
        for less, more in ((steps[0].flops, steps[1].flops), (steps[0].peak, steps[1].peak))
    )
    return Counted(model, foundation, flops, activations, tokens, pictures, encoder.flops, bytes_of(features))


def seconds_a_row(counted: Counted, training_args: SFTConfig) -> float:
    """Of one GPU, see `PEAK_FLOPS` and `UTILIZATION`."""
    peak = PEAK_FLOPS["bfloat16" if training_args.bf16 else "float32"]
    return counted.flops / training_args.per_device_train_batch_size / (peak * UTILIZATION)


def decoder_layers(foundation: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The layers of the language model, and their name in it."""
    lists = [named for named in foundation.get_decoder().named_modules() if isinstance(named[1], nn.ModuleList)]
    return max(lists, key=lambda named: sum(p.numel() for p in named[1].parameters()))


def count_parameters(model: nn.Module, foundation: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """All and trained parameters of each part. peft's copies of what is trained whole take the originals' place."""
    decoder, tower = ({id(p) for p in part.parameters()} for part in language_and_vision(foundation))
    projector = {id(p) for name in find_projector(foundation) for p in foundation.get_submodule(name).parameters()}
    counts = {part: [0, 0] for part in ("vision tower", "projector", "language model", "MVP", "LoRA")}
    for name, parameter in model.named_parameters():
        if ".original_module." in name:
            continue
        if "lora_" in name:
            part = "LoRA"
        elif MVP in name:
            part = "MVP"
        elif id(parameter) in projector:
            part = "projector"
        elif id(parameter) in decoder:
            part = "language model"
        else:
            part = "vision tower" if id(parameter) in tower else "projector"
        counts[part][0] += parameter.numel()
        counts[part][1] += parameter.numel() * parameter.requires_grad
    return {part: tuple(numbers) for part, numbers in counts.items()}


def language_and_vision(foundation: PreTrainedModel) -> tuple[nn.ModuleList, nn.Module]:
    """The language model with its head, and the vision tower."""
    return (
        nn.ModuleList([foundation.get_decoder(), foundation.get_output_embeddings()]),
        foundation.get_encoder(modality="image"),
    )


def bytes_of(parameters) -> int:
    return sum(parameter.numel() * parameter.dtype.itemsize for parameter in parameters)


def memory(model: nn.Module, foundation: PreTrainedModel, activations: int) -> dict[str, list[float]]:
    """Bytes on a device, by what they are for, for each of `PLANS`."""
    weights, trained = bytes_of(model.parameters()), bytes_of(p for p in model.parameters() if p.requires_grad)
    layers = [bytes_of(layer.parameters()) for layer in decoder_layers(foundation)[1]]
    table = {}
    for plan, processes in PLANS.items():
        sharded = "sharded" in plan
        parts = processes if sharded else 1
        # Whole at one time: what is in no layer, the layer that computes, and the one that is fetched meanwhile.
        gathered = weights - sum(layers) + 2 * max(layers) if sharded else 0
        buckets = trained if "DDP" in plan else 0  # in which DDP sends the gradients
        rows = [weights / parts, trained / parts, 2 * trained / parts, gathered + buckets, FRAGMENTATION * activations]
        table[plan] = [*rows, sum(rows) + RESERVE]
    return table


def estimate(script_args, training_args: SFTConfig, model_args: ModelConfig) -> str:
    """
    What a training takes, in the worst case: every row has `max_length` tokens, and as many pictures as fit.

    Args:
        script_args (`EmoLLMArguments`): what is trained of which model.
        training_args (`SFTConfig`): `per_device_train_batch_size`, `max_length`, `bf16`, `activation_checkpointing`.
        model_args (`ModelConfig`): the model, of which the `config.json` alone is read.

    Raises:
        `ValueError`: without `max_length`, for an optimizer other than AdamW, if no picture fits into a row, or if
            what the vision tower takes does not follow from the config.
    """
    if training_args.optim not in ("adamw_torch", "adamw_torch_fused"):
        raise ValueError(f"optim={training_args.optim.value}: the memory of adamw_torch(_fused) alone is known.")
    counted = count(script_args, training_args, model_args)
    rows, length = training_args.per_device_train_batch_size, training_args.max_length
    foundation, flops = counted.foundation, counted.flops / rows  # a row
    counts, text = count_parameters(counted.model, foundation), foundation.config.get_text_config()
    table = memory(counted.model, foundation, counted.activations)
    checkpointed, precision = training_args.activation_checkpointing, "bfloat16" if training_args.bf16 else "float32"
    layers = 2 * text.num_hidden_layers + 34 if checkpointed else 34 * text.num_hidden_layers
    formula = layers * length * rows * text.hidden_size * (1 if training_args.bf16 else 2)
    logits = 4 * rows * text.vocab_size
    frozen = counts["vision tower"][1] + counts["projector"][1] == 0
    seconds = 1000 * seconds_a_row(counted, training_args)
    lines = [
        f"Rows a GPU: {rows}, each of {length:,} tokens. Pictures a row: {counted.pictures}, each of "
        f"{counted.tokens:,} visual tokens. Tokens of the answer: {ANSWER}.",
        f"train={script_args.train}, weights loaded in {str(foundation.dtype).removeprefix('torch.')}, computed in "
        f"{precision}, AdamW, {'with' if checkpointed else 'without'} activation checkpointing.",
        "",
        f"{'parameters':<22}{'all':>16}{'trained':>16}",
        *(f"{part:<22}{count:>16,}{trained:>16,}" for part, (count, trained) in counts.items()),
        f"{'together':<22}{sum(c for c, _ in counts.values()):>16,}{sum(t for _, t in counts.values()):>16,}",
        "",
        f"{'GB a GPU':<22}" + "".join(f"{plan:>12}" for plan in table),
    ]
    kinds = ("weights", "gradients", "optimizer states", "gathered, in buckets", "activations", "together, 1 reserved")
    for i, kind in enumerate(kinds):
        lines.append(f"{kind:<22}" + "".join(f"{parts[i] / 1e9:>12.1f}" for parts in table.values()))
    fits = [next((str(size) for size in DEVICES if parts[-1] <= size * 1e9), "none") for parts in table.values()]
    minutes = [seconds / processes / 60 for processes in PLANS.values()]
    lines += [
        f"{'fits ' + '/'.join(map(str, DEVICES)):<22}" + "".join(f"{size:>12}" for size in fits),
        f"{'minutes a 1,000 rows':<22}" + "".join(f"{value:>12.2f}" for value in minutes),
        "",
        f"{flops / 1e12:.1f} TFLOPs a row, at {UTILIZATION:.0%} of {PEAK_FLOPS[precision] / 1e12:.0f} "
        "TFLOP/s (H100 SXM, dense), without communication and waiting for data.",
        f"Activations by the formula of Korthikanti et al. (2022): {formula / 1e9:.1f} GB.",
        f"Logits of the answers: {logits * (ANSWER + 1) / 1e9:.2f} GB; of all tokens they would be "
        f"{logits * length / 1e9:.1f} GB.",
    ]
    if frozen:
        size, saved = counted.picture_bytes / 1e6, counted.pictures * counted.picture_flops  # GB a thousand
        lines.append(
            f"With --feature_cache: {size:.2f} GB per 1,000 pictures, {(flops - saved) / 1e12:.1f} TFLOPs a row."
        )
    return "\n".join(lines)
