"""EmoLLM: any vision-language model of transformers, with Multi-perspective Visual Projection behind its eye.

It rests on one public contract of transformers (5.23): `get_image_features` (and `get_video_features`) return the
projected visual features in `pooler_output`, and `forward` takes them back as `mm_encoder_outputs`.
"""

import copy
import dataclasses
import inspect
import math
from pathlib import Path

import torch
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForImageTextToText,
    AutoProcessor,
    BatchFeature,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import ModelOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .compact import compact_processor
from .configuration_emollm import EmoLLMConfig
from .mvp import MultiPerspectiveVisualProjection, init_mvp_weights


MODALITIES = ("image", "video")
REMEDY = "Use a vision-language model of transformers itself whose `forward` takes `mm_encoder_outputs`."


class EmoLLMPreTrainedModel(PreTrainedModel):
    config: EmoLLMConfig
    base_model_prefix = "model"
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ["past_key_values"]
    _no_split_modules = ["MultiPerspectiveVisualProjection"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        # The foundation is a PreTrainedModel of its own and initialises itself; what is left is MVP.
        init_mvp_weights(module)

    @classmethod
    def from_pretrained(cls, *args, output_loading_info: bool = False, **kwargs):
        """
        As in transformers, but strict, and from safetensors alone: other files of weights are pickles.

        Raises:
            `OSError`: if the checkpoint has no safetensors.
            `ValueError`: if the checkpoint lacks a weight, has one too many, or one of another shape.
        """
        kwargs["use_safetensors"] = True
        kwargs["ignore_mismatched_sizes"] = True  # for transformers, whose own error names no weight
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        _check_loaded(cls.__name__, info, ("missing_keys", "unexpected_keys", "mismatched_keys"))
        return (model, info) if output_loading_info else model

    def save_pretrained(self, *args, **kwargs):
        """As in transformers, but with this code beside a model that FSDP2 shards, too."""
        given = type(self)
        # FSDP2 puts a class of its own in front, whose file transformers would save as the model's.
        self.__class__ = next(cls for cls in given.__mro__ if not cls.__name__.startswith("FSDP"))
        try:
            super().save_pretrained(*args, **kwargs)
        finally:
            self.__class__ = given


class EmoLLMModel(EmoLLMPreTrainedModel):
    """
    The foundation model and MVP, without a head of its own: `forward` gives the foundation's hidden states.

    Args:
        config (`EmoLLMConfig`): the foundation's config and MVP's dials.
        foundation (`PreTrainedModel`, *optional*): an existing foundation model; by default one is made from `config`.
    """

    def __init__(self, config: EmoLLMConfig, foundation: PreTrainedModel | None = None):
        super().__init__(config)
        if foundation is None:
            foundation = AutoModelForImageTextToText.from_config(config.foundation_config)
        else:
            for module in foundation.modules():
                module._is_hf_initialized = True  # or post_init draws anew what a user has put into it, e.g. a head
        self.foundation = foundation
        self.multi_perspective_projection = MultiPerspectiveVisualProjection(config)
        # What each encoder of the foundation takes, the pixels first.
        encoders = {name: getattr(self.foundation.base_model, f"get_{name}_features", None) for name in MODALITIES}
        self._encoder_inputs = {
            modality: [name for name in inspect.signature(encoder).parameters if name != "kwargs"]
            for modality, encoder in encoders.items()
            if encoder is not None
        }
        if getattr(config, "quantization_config", None) is not None:
            self._keep_in_fp32_modules = [".*multi_perspective_projection"]  # what quantizers leave alone
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.foundation.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.foundation.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.foundation.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module):
        self.foundation.set_output_embeddings(value)

    def encode(self, input_ids: torch.Tensor, inputs: dict) -> tuple[dict, dict]:
        """
        Encodes the pictures and videos among `inputs`, unless they come encoded, and refines them.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): tokens with one placeholder a visual token.
            inputs (`dict`): whatever else the foundation's processor made, or `mm_encoder_outputs` with what the
                foundation's `get_image_features` (or `get_video_features`) gave for the pixels.

        Returns:
            The foundation's inputs with refined `mm_encoder_outputs` instead of pixels, and what MVP looked at, by
            modality.

        Raises:
            `ValueError`: if placeholders and visual tokens differ in number, pixels come without a text or beside
                their encoder's outputs, or an image has no square grid of visual tokens to make compact.
        """
        inputs = dict(inputs)
        outputs, perspectives = dict(inputs.pop("mm_encoder_outputs", None) or {}), {}
        for modality, names in self._encoder_inputs.items():
            encoded = outputs.get(modality)
            if inputs.get(names[0]) is not None:
                if encoded is not None:
                    raise ValueError(f"Give either {names[0]} or mm_encoder_outputs[{modality!r}], not both.")
                given = {name: inputs[name] for name in names if inputs.get(name) is not None}
                encoded = getattr(self.foundation.base_model, f"get_{modality}_features")(**given, return_dict=True)
            # A model that assists in generation is given what the one that it assists has refined.
            if encoded is not None and not getattr(encoded, "is_refined", False):
                if encoded.pooler_output is None:
                    name = type(self.foundation).__name__
                    raise ValueError(f"get_{modality}_features of {name} gives no `pooler_output` to refine.")
                placeholders = self._find_placeholders(modality, input_ids, inputs)
                lengths, parts = self._find_images(modality, encoded.pooler_output, inputs, placeholders)
                # What the foundation drops behind MVP, of videos alone, has no placeholders.
                kept = inputs.get("video_compression_mask") if modality == "video" else None
                outputs[modality], perspectives[modality] = self._refine(encoded, placeholders, lengths, parts, kept)
            inputs.pop(names[0], None)
        if outputs:
            inputs["mm_encoder_outputs"] = outputs
        return inputs, perspectives

    def _find_placeholders(self, modality: str, input_ids: torch.Tensor | None, inputs: dict) -> torch.Tensor:
        """Where visual tokens belong, `(B, T)`, which tells whose image is whose."""
        token_id = getattr(self.config, f"{modality}_token_id")
        if input_ids is None:
            if inputs.get("inputs_embeds") is None:
                raise ValueError("EmoLLM needs input_ids or inputs_embeds beside pixels.")
            # As the foundations do it: a placeholder is known by its embedding.
            embeds = inputs["inputs_embeds"]
            return (embeds == self.get_input_embeddings()(torch.tensor(token_id, device=embeds.device))).all(-1)
        placeholders = input_ids == token_id
        types = inputs.get("mm_token_type_ids")
        if types is None:
            return placeholders
        # Frames of GLM-V's videos have the placeholders of images; only the types of tokens tell them apart.
        of_video = types[:, -input_ids.shape[1] :] == 2  # of the whole conversation, of which a cache may hold a part
        if modality == "image":
            return placeholders & ~of_video
        return placeholders if placeholders.any() else (input_ids == self.config.image_token_id) & of_video

    def _find_images(
        self, modality: str, features, inputs: dict, placeholders: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The number of visual tokens of each image `(I,)`, and of images in each entry of `features` `(E,)`: the frames
        of a video, or, with Idefics3 and its kin, all images of a sample.
        """
        entries = torch.tensor([len(entry) for entry in features], device="cpu")
        pixels = inputs.get(self._encoder_inputs[modality][0])
        names = [name for name in self._encoder_inputs[modality] if "grid" in name and name in inputs]
        grids = [inputs[name] for name in names]  # frames, height, width
        image_length = getattr(self.foundation.base_model, "image_seq_len", None)
        if modality == "image":
            if entries.max() == 1 and len(entries) == placeholders.sum():
                # Patches that do not tell which image they are of, as with Inkling: each run of placeholders is one.
                rows = nn.functional.pad(placeholders, (1, 0)).flatten().cpu()
                values, runs = rows.unique_consecutive(return_counts=True)
                return runs[values], torch.ones_like(entries)
            parts = torch.ones_like(entries) if image_length is None else entries // image_length
        elif grids:
            vision_config = getattr(self.foundation.config, "vision_config", None)  # ERNIE merges moments
            parts = grids[0][:, 0].cpu() // getattr(vision_config, "temporal_merge_size", 1)
        elif "num_frames_per_video" in inputs:
            parts = inputs["num_frames_per_video"].cpu()
        elif pixels is None:
            name = type(self.foundation).__name__
            raise ValueError(f"Encoded videos of {name} don't tell their frames; give their pixels instead.")
        else:  # (videos, frames, C, H, W), encoded video by video or frame by frame; or always by frame
            frames = pixels.shape[0] * pixels.shape[1] // len(features) if pixels.ndim == 5 else 1
            parts = torch.full_like(entries, frames)
        parts = parts.minimum(entries)  # the entry of a sample without images, which some families have, is empty
        # What does not divide evenly, such as a closing newline, goes to the last image.
        some = parts.clamp(min=1)
        lengths = (entries // some).repeat_interleave(parts)
        return lengths.index_add(0, (parts.cumsum(0) - 1).clamp(min=0), entries % some), parts

    def _refine(
        self,
        encoded: ModelOutput,
        placeholders: torch.Tensor,
        lengths: torch.Tensor,
        parts: torch.Tensor,
        kept: torch.Tensor | None,
    ) -> tuple[ModelOutput, dict]:
        features = encoded.pooler_output
        number, entries = self.config.visual_tokens_per_image, [len(entry) for entry in features]
        given = lengths  # to the language model
        if number is not None:
            self._check_grid(encoded, lengths)
            given, entries = torch.full_like(lengths, number), (parts * number).tolist()
        elif kept is not None:
            image = torch.arange(len(lengths), device="cpu").repeat_interleave(lengths)  # that a visual token is of
            given = torch.zeros_like(lengths).index_add(0, image, kept.cpu().long())
        if given.sum() != placeholders.sum():
            raise ValueError(
                f"{placeholders.sum()} placeholders for visual tokens in input_ids, but {given.sum()} visual tokens; "
                "make both with the same processor and do not truncate."
            )
        flat = features.flatten(0, 1) if isinstance(features, torch.Tensor) else torch.cat(tuple(features))
        up = self.multi_perspective_projection.up.weight
        device = flat.device if up.is_meta else up.device  # offloaded weights come to their input by themselves
        sample = torch.searchsorted(placeholders.sum(-1).cumsum(0).to(device), given.cumsum(0).to(device))
        position = torch.arange(len(sample), device=device) - torch.searchsorted(sample, sample)
        valid = torch.arange(lengths.max(), device="cpu") < lengths[:, None]
        index = valid.flatten().nonzero().squeeze(-1)  # on the CPU, where it need not be waited for
        refined, seen = self.multi_perspective_projection(
            flat.to(device), index.to(device), valid.to(device), sample, position
        )
        refined = refined.to(flat.device).split(entries)  # as the foundation grouped them
        stacked = isinstance(features, torch.Tensor)
        pooled = torch.stack(refined) if stacked else type(features)(refined)
        encoded = dataclasses.replace(encoded, pooler_output=pooled)  # what was given stays as it was
        encoded.is_refined = True
        return encoded, seen | {"lengths": lengths.to(device), "sample": sample, "position": position}

    def _check_grid(self, encoded: ModelOutput, lengths: torch.Tensor) -> None:
        number, name = self.config.visual_tokens_per_image, type(self.foundation).__name__
        if getattr(encoded, "deepstack_features", None) is not None:
            raise ValueError(
                f"visual_tokens_per_image={number} does not fit {name}, whose later layers take visual features of "
                "their own (DeepStack). Upgrade it without."
            )
        found = sorted(set(lengths.tolist()))
        if len(found) > 1 or math.isqrt(found[0]) ** 2 != found[0] or found[0] < number:
            raise ValueError(
                f"visual_tokens_per_image={number} needs a square grid of no fewer visual tokens for every image, "
                f"but {name} gave {found}. Upgrade it without."
            )

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, ModelOutput] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ModelOutput:
        """Hidden states of the foundation's base model, `last_hidden_state` of shape `(B, T, hidden_size)`."""
        given = {
            "pixel_values": pixel_values,
            "inputs_embeds": inputs_embeds,
            "mm_encoder_outputs": mm_encoder_outputs,
        }
        inputs, _ = self.encode(input_ids, {**given, **kwargs})
        return self.foundation.base_model(input_ids=input_ids, attention_mask=attention_mask, **inputs)


class EmoLLMForConditionalGeneration(EmoLLMPreTrainedModel, GenerationMixin):
    """
    EmoLLM with the foundation's head. Upgrade a foundation with [`from_foundation`], load with `from_pretrained`.

    Args:
        config (`EmoLLMConfig`): the foundation's config and MVP's dials.
        foundation (`PreTrainedModel`, *optional*): an existing foundation model; by default one is made from `config`.
    """

    def __init__(self, config: EmoLLMConfig, foundation: PreTrainedModel | None = None):
        super().__init__(config)
        self.model = EmoLLMModel(config, foundation)
        self.post_init()

    @property
    def foundation(self) -> PreTrainedModel:
        return self.model.foundation

    @classmethod
    def from_foundation(
        cls,
        foundation: str | Path | PreTrainedModel,
        *,
        revision: str | None = None,
        dtype: str | torch.dtype = "auto",
        device_map: str | dict | None = None,
        quantization_config=None,
        probe: dict | None = None,
        **mvp_fields,
    ) -> "EmoLLMForConditionalGeneration":
        """
        Upgrades a vision-language model. It keeps its weights, tokens and processor, and answers as before until MVP
        is trained.

        Args:
            foundation (`str`, `Path` or `PreTrainedModel`): a Hub id, a local folder, or a loaded model.
            revision (`str`, *optional*): branch, tag or commit of the Hub id.
            dtype (`str` or `torch.dtype`, *optional*, defaults to `"auto"`): the dtype to load a Hub id or folder in.
            device_map (`str` or `dict`, *optional*): where to load it, e.g. `"auto"`.
            quantization_config (*optional*): how to quantize it, e.g. a `BitsAndBytesConfig`; MVP stays as it is.
            probe (`dict`, *optional*): inputs of one batch with a picture, on which the upgrade is compared with the
                foundation. By default the processor beside a Hub id or folder makes one.
            mvp_fields: `mvp_size`, `perspectives` and `visual_tokens_per_image` of [`EmoLLMConfig`]. With the last one
                the upgrade sees fewer tokens than its foundation, and the probe only has to fit.

        Raises:
            `ValueError`: if the model does not offer the contract, a weight of it is missing, or the upgrade does not
                equal it on the probe.
        """
        number = mvp_fields.get("visual_tokens_per_image")
        if isinstance(foundation, (str, Path)):
            kind = PreTrainedConfig.get_config_dict(foundation, revision=revision)[0].get("model_type")
            if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
                raise ValueError(f"{foundation} of type {kind} can't be upgraded. {REMEDY}")
            if probe is None:
                processor = AutoProcessor.from_pretrained(foundation, revision=revision)
                probe = _probe_inputs(processor if number is None else compact_processor(processor, number))
            is_folder, name = Path(foundation).is_dir(), foundation
            foundation, info = AutoModelForImageTextToText.from_pretrained(
                foundation,
                revision=revision,
                dtype=dtype,
                device_map=device_map,
                quantization_config=quantization_config,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
            # Weights that the foundation does not use are its own affair.
            _check_loaded(name, info, ("missing_keys", "mismatched_keys"))
            if is_folder:  # a Hub id is worth remembering, a path of this machine is not
                foundation.config.name_or_path = ""
        _check_contract(foundation)
        config = EmoLLMConfig(
            foundation_config=copy.deepcopy(foundation.config),
            dtype=foundation.dtype,
            attn_implementation=foundation.config._attn_implementation,
            **mvp_fields,
        )
        # A composite config resets the attention implementation of its parts; the foundation's own has it still.
        config.foundation_config = foundation.config
        model = cls(config, foundation)
        # Offloaded weights are on no device: their inputs come to them.
        device = next((p.device for p in foundation.parameters() if not p.is_meta), torch.device("cpu"))
        model.model.multi_perspective_projection.to(device=device, dtype=foundation.dtype)
        model.generation_config = copy.deepcopy(foundation.generation_config)
        _hand_over_loading(foundation, model, device)
        model.eval()
        if probe is not None:
            probe = BatchFeature(probe).to(device)  # some processors leave lists among the tensors
            with torch.no_grad():
                actual = model(**probe).logits
                expected = actual if number else foundation(**probe).logits
            if not torch.equal(expected, actual):
                raise ValueError(
                    f"The upgrade of {type(foundation).__name__} differs from it by "
                    f"{(expected - actual).abs().max().item():.3g} untrained; please report this model."
                )
        return model

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.foundation.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module):
        self.foundation.set_output_embeddings(value)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        mm_encoder_outputs: dict[str, ModelOutput] | None = None,
        output_perspectives: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): tokens with one placeholder a visual token.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 where a token is no padding.
            pixel_values (`torch.Tensor`, *optional*): as the foundation's processor makes them.
            inputs_embeds (`torch.Tensor` of shape `(B, T, hidden_size)`, *optional*): instead of `input_ids`.
            labels (`torch.LongTensor` of shape `(B, T)`, *optional*): tokens to predict, -100 where none.
            mm_encoder_outputs (`dict[str, ModelOutput]`, *optional*): instead of pixels, by modality what the
                foundation's `get_image_features` (or `get_video_features`) gave for them, and MVP has not seen yet.
            output_perspectives (`bool`, *optional*): adds `perspectives`, by modality what
                [`MultiPerspectiveVisualProjection`] looked at, with `lengths`, `sample` and `position` of the images
                or frames.

        Returns:
            The foundation's own output, `logits` of shape `(B, T, vocab_size)`.
        """
        given = {
            "pixel_values": pixel_values,
            "inputs_embeds": inputs_embeds,
            "mm_encoder_outputs": mm_encoder_outputs,
        }
        inputs, perspectives = self.model.encode(input_ids, {**given, **kwargs})
        outputs = self.foundation(input_ids=input_ids, attention_mask=attention_mask, labels=labels, **inputs)
        if output_perspectives:
            outputs["perspectives"] = perspectives
        return outputs

    @torch.no_grad()
    def generate(self, inputs=None, generation_config=None, **kwargs):
        """
        The foundation's own `generate` over refined features, which are computed once. In a conversation that goes on
        from its `past_key_values`, the temporal perspective compares the new turn's images alone.
        """
        input_ids = kwargs.pop("input_ids", inputs)
        cache = kwargs.get("past_key_values")
        # In a conversation that goes on, pictures that the cache has seen do not come again.
        unseen = input_ids if cache is None or input_ids is None else input_ids[:, cache.get_seq_length() :]
        encoded, _ = self.model.encode(unseen, kwargs)
        self.foundation.generation_config = self.generation_config
        return self.foundation.generate(input_ids=input_ids, generation_config=generation_config, **encoded)


def _check_loaded(name: str, info: dict, kinds: tuple[str, ...]) -> None:
    wrong = []
    for kind in kinds:
        keys = sorted(map(str, info[kind]))
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            wrong.append(f"{kind.partition('_')[0]}: {', '.join(keys[:3])}{more}")
    if wrong:
        raise ValueError(f"The weights of {name} do not fit its config; {'; '.join(wrong)}. Save or download it anew.")


def _hand_over_loading(
    foundation: PreTrainedModel, model: EmoLLMForConditionalGeneration, device: torch.device
) -> None:
    """How the foundation was loaded becomes how the whole was: saving, loading and training look there."""
    if places := getattr(foundation, "hf_device_map", None):
        model.hf_device_map = {f"model.foundation.{name}".rstrip("."): place for name, place in places.items()}
        place = device.type if device.index is None else device.index  # as accelerate names them
        model.hf_device_map["model.multi_perspective_projection"] = place
    quantizer = getattr(foundation, "hf_quantizer", None)
    if quantizer is not None:
        quantization = copy.deepcopy(quantizer.quantization_config)
        for name in ("llm_int8_skip_modules", "modules_to_not_convert"):
            if skipped := getattr(quantization, name, None):  # patterns from the beginning of a name, or its end
                setattr(quantization, name, [*skipped, *(f".*foundation.{pattern}" for pattern in skipped)])
        model.config.quantization_config = quantization
        # Not `is_quantized`, with which Trainer would refuse to train MVP alone.
        for name in ("hf_quantizer", "quantization_method", "is_loaded_in_4bit", "is_loaded_in_8bit"):
            if hasattr(foundation, name):
                setattr(model, name, getattr(foundation, name))


def _check_contract(foundation: PreTrainedModel) -> None:
    name = type(foundation).__name__
    if type(foundation).__module__.split(".")[0] != "transformers":
        raise ValueError(f"{name} is custom code (module {type(foundation).__module__}). {REMEDY}")
    if type(foundation.config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ValueError(f"{name} can't be loaded by `AutoModelForImageTextToText`. {REMEDY}")
    if "mm_encoder_outputs" not in inspect.signature(foundation.forward).parameters:
        raise ValueError(f"{name}.forward does not take `mm_encoder_outputs`. {REMEDY}")
    if "pixel_values" in inspect.signature(foundation.generate).parameters:
        raise ValueError(f"{name}.generate encodes the pixels itself and takes no `mm_encoder_outputs`. {REMEDY}")
    if not hasattr(foundation.base_model, "get_image_features"):
        raise ValueError(f"{type(foundation.base_model).__name__} has no `get_image_features`. {REMEDY}")


def _probe_inputs(processor) -> dict:
    """One picture of a fixed pattern and a word, through the foundation's own processor."""
    picture = (torch.arange(3 * 64 * 64) * 7 % 256).to(torch.uint8).view(3, 64, 64)
    content = [{"type": "image"}, {"type": "text", "text": "emotion"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return dict(processor(images=[[picture]], text=[text], return_tensors="pt"))


__all__ = ["EmoLLMForConditionalGeneration", "EmoLLMModel", "EmoLLMPreTrainedModel"]
