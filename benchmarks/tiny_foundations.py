"""
Small foundation models to upgrade: stock transformers configs with random weights, stock processors, a tokenizer
trained on the spot and a chat template, saved as ordinary folders. They stand in for downloads, and train in minutes.

python -m benchmarks.tiny_foundations --kind llava --dataset EmoBench-Drawn --output foundations/llava
"""

import argparse
from pathlib import Path

import torch
from datasets import get_dataset_config_names, load_dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Gemma3TextConfig,
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PaddleOCRVLConfig,
    PaddleOCRVLForConditionalGeneration,
    PaddleOCRVLImageProcessorPil,
    PaddleOCRVLProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    SiglipVisionConfig,
)

from modeling_emollm.emoprompt import PROLOGUE


PAD, BOS, END = "<pad>", "<s>", "<|end|>"
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|' ~ message['role'] ~ '|>' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for item in message['content'] -%}
{{- 'IMAGE_TOKEN' if item['type'] == 'image' else item['text'] -}}
{%- endfor -%}
{%- endif -%}
{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""
CARD = "---\nlicense: apache-2.0\n---\n\nA small model of random weights, to stand in for a foundation.\n"
ROLES = ["<|system|>", "<|user|>", "<|assistant|>"]
IMAGE_SIZE, PATCH_SIZE = 64, 16
# Patches a side of what becomes one visual token, by kind.
MERGED = {"llava": 1, "idefics3": 2, "gemma3": 1, "paddleocr_vl": 2}


def build_tokenizer(corpus: list[str], image_token: str, extra: dict[str, str]) -> PreTrainedTokenizerFast:
    """
    A byte-level BPE tokenizer of at most 2,000 tokens, trained on `corpus` (any text can be encoded by it).

    Args:
        corpus (`list[str]`): texts to train on.
        image_token (`str`): the placeholder of one visual token.
        extra (`dict[str, str]`): further special tokens by name, e.g. `{"boi_token": "<start_of_image>"}`.
    """
    special = [PAD, BOS, END, *ROLES, image_token, *extra.values()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=END,
        extra_special_tokens={"image_token": image_token, **extra},
    )


def build_foundation(
    kind: str,
    corpus: list[str],
    *,
    seed: int,
    hidden_size: int = 128,
    num_layers: int = 4,
    image_size: int = IMAGE_SIZE,
    patch_size: int = PATCH_SIZE,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """
    Args:
        kind (`str`):
            `"llava"` and `"gemma3"` make a visual token of each patch, and in `"gemma3"` these see each other both
            ways; `"idefics3"` and `"paddleocr_vl"` make one of 2 x 2 patches. `"paddleocr_vl"` has rotary positions in
            two dimensions, in eye and language model, and gives pictures of other proportions other numbers of tokens.
        corpus (`list[str]`): texts that the tokenizer is trained on.
        seed (`int`): of the random weights.
        hidden_size (`int`, *optional*, defaults to 128): width of the eye and of the language model; multiple of 32.
        num_layers (`int`, *optional*, defaults to 4): layers of each.
        image_size (`int`, *optional*, defaults to 64): pixels a side that pictures are scaled to.
        patch_size (`int`, *optional*, defaults to 16): pixels a side of a patch.

    Raises:
        `ValueError`: for an unknown kind, or an `image_size` that is not made of whole visual tokens.
    """
    if kind not in MERGED:
        raise ValueError(f"Unknown kind {kind!r}: use {', '.join(MERGED)}.")
    merged = MERGED[kind]
    if min(image_size, patch_size) < 1 or image_size % (merged * patch_size):
        raise ValueError(
            f"image_size={image_size} does not fit patch_size={patch_size}: {kind} makes a visual token of "
            f"{merged} x {merged} patches; use an image_size that is a multiple of {merged} * patch_size."
        )
    image_tokens = (image_size // (merged * patch_size)) ** 2
    size = {"height": image_size, "width": image_size}
    shape = {
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": hidden_size // 32,
        # The usual 0.02 suits thousands of channels; at this width it costs hundreds of steps before learning starts.
        "initializer_range": hidden_size**-0.5,
    }
    vision = {**shape, "image_size": image_size, "patch_size": patch_size}
    image_token = "<image_soft_token>" if kind == "gemma3" else "<image>"
    extra = {
        "llava": {},
        "idefics3": {
            "fake_token": "<fake_token_around_image>",
            "global_token": "<global-img>",
            "eou": "<end_of_utterance>",
        },
        "gemma3": {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
        "paddleocr_vl": {"vision_start": "<vision_start>", "vision_end": "<vision_end>"},
    }[kind]
    tokenizer = build_tokenizer(corpus, image_token, extra)
    text = {
        **shape,
        "num_key_value_heads": hidden_size // 32,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 2048,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    image = extra.get("boi_token", image_token)
    if kind == "paddleocr_vl":  # takes pictures with nothing between them for one
        image = f"{extra['vision_start']}{image_token}{extra['vision_end']}"
    chat_template = CHAT_TEMPLATE.replace("IMAGE_TOKEN", image)
    torch.manual_seed(seed)
    if kind == "llava":
        processor = LlavaProcessor(
            CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=size),
            tokenizer,
            patch_size=patch_size,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=chat_template,
        )
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(**vision),
            text_config=LlamaConfig(**text),
            image_token_index=tokenizer.image_token_id,
            image_seq_length=image_tokens,
            vision_feature_layer=-1,
        )
        model = LlavaForConditionalGeneration(config)
    elif kind == "idefics3":
        processor = Idefics3Processor(
            Idefics3ImageProcessorPil(
                size={"longest_edge": image_size},
                max_image_size={"longest_edge": image_size},
                do_image_splitting=False,
            ),
            tokenizer,
            image_seq_len=image_tokens,
            chat_template=chat_template,
        )
        config = Idefics3Config(
            vision_config={**vision, "model_type": "idefics3_vision"},
            text_config=LlamaConfig(**text),
            image_token_id=tokenizer.image_token_id,
            scale_factor=merged,
            pad_token_id=tokenizer.pad_token_id,
        )
        model = Idefics3ForConditionalGeneration(config)
    elif kind == "gemma3":
        processor = Gemma3Processor(
            Gemma3ImageProcessorPil(size=size), tokenizer, image_seq_length=image_tokens, chat_template=chat_template
        )
        config = Gemma3Config(
            vision_config=SiglipVisionConfig(**vision, vision_use_head=False),
            text_config=Gemma3TextConfig(**text, head_dim=32, query_pre_attn_scalar=32),
            mm_tokens_per_image=image_tokens,
            image_token_id=tokenizer.image_token_id,
            boi_token_index=tokenizer.boi_token_id,
            eoi_token_index=tokenizer.eoi_token_id,
        )
        model = Gemma3ForConditionalGeneration(config)
        # transformers fills this matrix with zeros, for weights to be loaded over: nothing would be seen through it.
        model.model.multi_modal_projector.mm_input_projection_weight.data.normal_(std=hidden_size**-0.5)
    else:
        area = image_size**2
        processor = PaddleOCRVLProcessor(
            PaddleOCRVLImageProcessorPil(
                size={"shortest_edge": area, "longest_edge": area}, patch_size=patch_size, merge_size=merged
            ),
            tokenizer,
            chat_template=chat_template,
        )
        config = PaddleOCRVLConfig(
            vision_config={**vision, "spatial_merge_size": merged},
            text_config={
                **text,
                "head_dim": 32,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            },
            image_token_id=tokenizer.image_token_id,
            vision_start_token_id=tokenizer.vision_start_id,
            vision_end_token_id=tokenizer.vision_end_id,
        )
        model = PaddleOCRVLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model.eval(), processor


def corpus_of(dataset: str) -> list[str]:
    """The instructions, answers and rationales of an EmoBench folder's training split, and EmoPrompt's guidance."""
    texts = {PROLOGUE}
    for name in get_dataset_config_names(dataset):
        rows = load_dataset(dataset, name, split="train").select_columns(["instruction", "answer", "rationale"])
        texts.update(rows["instruction"], rows["answer"], filter(None, rows["rationale"]))
    return sorted(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", required=True, choices=list(MERGED))
    parser.add_argument(
        "--dataset", required=True, nargs="+", help="EmoBench folders, whose texts train the tokenizer"
    )
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--num-layers", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=IMAGE_SIZE, help="pixels a side that pictures are scaled to")
    parser.add_argument("--patch-size", type=int, default=PATCH_SIZE, help="pixels a side of what the eye sees as one")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    corpus = sorted({text for dataset in args.dataset for text in corpus_of(dataset)})
    model, processor = build_foundation(
        args.kind,
        corpus,
        seed=args.seed,
        hidden_size=args.hidden_size,
        num_layers=args.num_layers,
        image_size=args.image_size,
        patch_size=args.patch_size,
    )
    model.save_pretrained(args.output)
    processor.save_pretrained(args.output)
    (args.output / "README.md").write_text(CARD, encoding="utf-8")
    print(f"{args.kind}: {model.num_parameters():,} parameters in {args.output}")


if __name__ == "__main__":
    main()
