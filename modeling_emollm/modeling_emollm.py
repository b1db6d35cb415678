"""EmoLLM: any vision-language model of transformers, with Multi-perspective Visual Projection behind its eye.

It rests on one public contract of transformers (5.23): `get_image_features` (and `get_video_features`) return the
projected visual features in `pooler_output`, and `forward` takes them back as `mm_encoder_outputs`.
"""

import copy
import inspect
import itertools
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from .configuration_emollm import EmoLLMConfig
from .mvp import MultiPerspectiveVisualProjection, init_mvp_weights


MODALITIES = ("image", "video")


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


class EmoLLMModel(EmoLLMPreTrainedModel):
    """
    The foundation model and MVP, without a head of its own: `forward` gives the foundation's hidden states.

    Args:
        config (`EmoLLMConfig`): the foundation's config and MVP's dials.
        foundation (`PreTrainedModel`, *optional*): an existing foundation model; by default one is made from `config`.
    """

    def __init__(self, config: EmoLLMConfig, foundation: PreTrainedModel | None = None):
        super().__init__(config)
        self.foundation = foundation or AutoModelForImageTextToText.from_config(config.foundation_config)
        self.multi_perspective_projection = MultiPerspectiveVisualProjection(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.foundation.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.foundation.set_input_embeddings(value)

    def encode(self, input_ids: torch.Tensor, inputs: dict) -> tuple[dict, dict]:
        """
        Encodes the pictures and videos among `inputs` and refines them.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): tokens with one placeholder a visual token.
            inputs (`dict`): whatever else the foundation's processor made.

        Returns:
            The foundation's inputs with `mm_encoder_outputs` instead of pixels, and what MVP looked at, by modality.

        Raises:
            `ValueError`: if placeholders and features differ in number, or pixels come without `input_ids`.
        """
        inputs = dict(inputs)
        outputs, perspectives = {}, {}
        for modality in MODALITIES:
            encode = getattr(self.foundation.base_model, f"get_{modality}_features", None)
            if encode is None:
                continue
            names = [name for name in inspect.signature(encode).parameters if name != "kwargs"]
            if inputs.get(names[0]) is None:  # the pixels come first
                inputs.pop(names[0], None)
                continue
            given = {name: inputs[name] for name in names if inputs.get(name) is not None}
            encoded = encode(**given, return_dict=True)
            inputs.pop(names[0])
            outputs[modality], perspectives[modality] = self._refine(modality, encoded, input_ids)
        if outputs:
            inputs["mm_encoder_outputs"] = outputs
        return inputs, perspectives

    def _refine(self, modality: str, encoded: ModelOutput, input_ids: torch.Tensor) -> tuple[ModelOutput, dict]:
        if input_ids is None:
            raise ValueError("EmoLLM needs input_ids beside pixels: they tell which image belongs to which sample.")
        features = list(encoded.pooler_output)
        # Idefics3 and its kin give all images of a sample as one tensor and say how long an image is.
        length = getattr(self.foundation.base_model, "image_seq_len", None)
        if length is not None:
            images = [image for group in features for image in group.split(length)]
        else:
            images = features
        lengths = [len(image) for image in images]
        placeholders = (input_ids == getattr(self.config, f"{modality}_token_id")).sum(-1).tolist()
        if sum(lengths) != sum(placeholders):
            raise ValueError(
                f"{sum(placeholders)} {modality} placeholders in input_ids, but {sum(lengths)} {modality} features; "
                "make both with the same processor and do not truncate."
            )
        ends = list(itertools.accumulate(placeholders))
        sample = [next(row for row, end in enumerate(ends) if stop <= end) for stop in itertools.accumulate(lengths)]
        position = [place for _, group in itertools.groupby(sample) for place, _ in enumerate(group)]

        device = images[0].device
        padded = pad_sequence(images, batch_first=True)  # (I, N, hidden_size)
        valid = torch.arange(padded.shape[1], device=device) < torch.tensor(lengths, device=device)[:, None]
        refined, seen = self.multi_perspective_projection(
            padded, valid, torch.tensor(sample, device=device), torch.tensor(position, device=device)
        )
        refined = refined[valid].split([len(group) for group in features])  # as the foundation grouped them
        # A copy, because the foundation's generate repeats the features of this very object for its beams.
        encoded = copy.copy(encoded)
        stacked = isinstance(encoded.pooler_output, torch.Tensor)
        encoded.pooler_output = torch.stack(refined) if stacked else type(encoded.pooler_output)(refined)
        return encoded, seen | {"lengths": lengths, "sample": sample}

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        **kwargs,
    ) -> ModelOutput:
        """Hidden states of the foundation's base model, `last_hidden_state` of shape `(B, T, hidden_size)`."""
        inputs, _ = self.encode(input_ids, {"pixel_values": pixel_values, **kwargs})
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
        foundation: str | PreTrainedModel,
        *,
        revision: str | None = None,
        dtype: str | torch.dtype = "auto",
        probe: dict | None = None,
        **mvp_fields,
    ) -> "EmoLLMForConditionalGeneration":
        """
        Upgrades a vision-language model. It keeps its weights, tokens and processor, and answers as before until the
        gates of MVP are trained.

        Args:
            foundation (`str` or `PreTrainedModel`): a Hub id, a local folder, or a loaded model.
            revision (`str`, *optional*): branch, tag or commit of the Hub id.
            dtype (`str` or `torch.dtype`, *optional*, defaults to `"auto"`): the dtype to load a Hub id or folder in.
            probe (`dict`, *optional*): inputs of one batch with a picture, on which the upgrade is compared with the
                foundation. By default the processor beside a Hub id or folder makes one.
            mvp_fields: `mvp_size` and `perspectives` of [`EmoLLMConfig`].

        Raises:
            `ValueError`: if the model does not offer the contract, or the upgrade does not equal it on the probe.
        """
        if isinstance(foundation, str):
            if probe is None:
                probe = _probe_inputs(AutoProcessor.from_pretrained(foundation, revision=revision))
            is_folder = Path(foundation).is_dir()
            foundation = AutoModelForImageTextToText.from_pretrained(foundation, revision=revision, dtype=dtype)
            if is_folder:  # a Hub id is worth remembering, a path of this machine is not
                foundation.config.name_or_path = ""
        _check_contract(foundation)
        config = EmoLLMConfig(foundation_config=copy.deepcopy(foundation.config), dtype=foundation.dtype, **mvp_fields)
        # A composite config resets the attention implementation of its parts; the foundation's own has it still.
        config.foundation_config = foundation.config
        model = cls(config, foundation)
        model.model.multi_perspective_projection.to(device=foundation.device, dtype=foundation.dtype)
        model.generation_config = copy.deepcopy(foundation.generation_config)
        model.eval()
        if probe is not None:
            with torch.no_grad():
                expected, actual = foundation(**probe).logits, model(**probe).logits
            if not torch.equal(expected, actual):
                raise ValueError(
                    f"The upgrade of {type(foundation).__name__} differs from it by "
                    f"{(expected - actual).abs().max().item():.3g} at closed gates; please report this model."
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
        labels: torch.LongTensor | None = None,
        output_perspectives: bool = False,
        **kwargs,
    ) -> ModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): tokens with one placeholder a visual token.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 where a token is no padding.
            pixel_values (`torch.Tensor`, *optional*): as the foundation's processor makes them.
            labels (`torch.LongTensor` of shape `(B, T)`, *optional*): tokens to predict, -100 where none.
            output_perspectives (`bool`, *optional*): adds `perspectives`, by modality what
                [`MultiPerspectiveVisualProjection`] looked at, with `lengths` and `sample` of the images.

        Returns:
            The foundation's own output, `logits` of shape `(B, T, vocab_size)`.
        """
        inputs, perspectives = self.model.encode(input_ids, {"pixel_values": pixel_values, **kwargs})
        outputs = self.foundation(input_ids=input_ids, attention_mask=attention_mask, labels=labels, **inputs)
        if output_perspectives:
            outputs["perspectives"] = perspectives
        return outputs

    @torch.no_grad()
    def generate(self, inputs=None, generation_config=None, **kwargs):
        """The foundation's own `generate` over refined features, which are computed once."""
        input_ids = kwargs.pop("input_ids", inputs)
        encoded, _ = self.model.encode(input_ids, kwargs)
        self.foundation.generation_config = self.generation_config
        return self.foundation.generate(input_ids=input_ids, generation_config=generation_config, **encoded)


def _check_contract(foundation: PreTrainedModel) -> None:
    name = type(foundation).__name__
    remedy = "Use a vision-language model of transformers itself whose `forward` takes `mm_encoder_outputs`."
    if type(foundation).__module__.split(".")[0] != "transformers":
        raise ValueError(f"{name} is custom code (module {type(foundation).__module__}). {remedy}")
    if "mm_encoder_outputs" not in inspect.signature(foundation.forward).parameters:
        raise ValueError(f"{name}.forward does not take `mm_encoder_outputs`. {remedy}")
    if not hasattr(foundation.base_model, "get_image_features"):
        raise ValueError(f"{type(foundation.base_model).__name__} has no `get_image_features`. {remedy}")


def _probe_inputs(processor) -> dict:
    """One picture of a fixed pattern and a word, through the foundation's own processor."""
    picture = (torch.arange(3 * 64 * 64) * 7 % 256).to(torch.uint8).view(3, 64, 64)
    content = [{"type": "image"}, {"type": "text", "text": "emotion"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return dict(processor(images=[[picture]], text=[text], return_tensors="pt"))


__all__ = ["EmoLLMForConditionalGeneration", "EmoLLMModel", "EmoLLMPreTrainedModel"]
