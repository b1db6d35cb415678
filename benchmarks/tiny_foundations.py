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
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2


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
    kind: str, corpus: list[str], *, seed: int, hidden_size: int = 128, num_layers: int = 4
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """
    Args:
        kind (`str`): `"llava"`, `"idefics3"` or `"gemma3"`.
        corpus (`list[str]`): texts that the tokenizer is trained on.
        seed (`int`): of the random weights.
        hidden_size (`int`, *optional*, defaults to 128): width of the eye and of the language model; multiple of 32.
        num_layers (`int`, *optional*, defaults to 4): layers of each.

    Raises:
        `ValueError`: for an unknown kind.
    """
    if kind not in ("llava", "idefics3", "gemma3"):
        raise ValueError(f"Unknown kind {kind!r}: use llava, idefics3 or gemma3.")
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    shape = {
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": hidden_size // 32,
        # The usual 0.02 suits thousands of channels; at this width it costs hundreds of steps before learning starts.
        "initializer_range": hidden_size**-0.5,
    }
    vision = {**shape, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
    image_token = {"llava": "<image>", "idefics3": "<image>", "gemma3": "<image_soft_token>"}[kind]
    extra = {
        "llava": {},
        "idefics3": {
            "fake_token": "<fake_token_around_image>",
            "global_token": "<global-img>",
            "eou": "<end_of_utterance>",
        },
        "gemma3": {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
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
    chat_template = CHAT_TEMPLATE.replace("IMAGE_TOKEN", extra.get("boi_token", image_token))
    torch.manual_seed(seed)
    if kind == "llava":
        processor = LlavaProcessor(
            CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=size),
            tokenizer,
            patch_size=PATCH_SIZE,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=chat_template,
        )
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(**vision),
            text_config=LlamaConfig(**text),
            image_token_index=tokenizer.image_token_id,
            image_seq_length=IMAGE_TOKENS,
            vision_feature_layer=-1,
        )
        model = LlavaForConditionalGeneration(config)
    elif kind == "idefics3":
        processor = Idefics3Processor(
            Idefics3ImageProcessorPil(
                size={"longest_edge": IMAGE_SIZE},
                max_image_size={"longest_edge": IMAGE_SIZE},
                do_image_splitting=False,
            ),
            tokenizer,
            image_seq_len=IMAGE_TOKENS // 4,
            chat_template=chat_template,
        )
        config = Idefics3Config(
            vision_config={**vision, "model_type": "idefics3_vision"},
            text_config=LlamaConfig(**text),
            image_token_id=tokenizer.image_token_id,
            scale_factor=2,
            pad_token_id=tokenizer.pad_token_id,
        )
        model = Idefics3ForConditionalGeneration(config)
    else:
        processor = Gemma3Processor(
            Gemma3ImageProcessorPil(size=size), tokenizer, image_seq_length=IMAGE_TOKENS, chat_template=chat_template
        )
        config = Gemma3Config(
            vision_config=SiglipVisionConfig(**vision, vision_use_head=False),
            text_config=Gemma3TextConfig(**text, head_dim=32, query_pre_attn_scalar=32),
            mm_tokens_per_image=IMAGE_TOKENS,
            image_token_id=tokenizer.image_token_id,
            boi_token_index=tokenizer.boi_token_id,
            eoi_token_index=tokenizer.eoi_token_id,
        )
        model = Gemma3ForConditionalGeneration(config)
        # transformers fills this matrix with zeros, for weights to be loaded over: nothing would be seen through it.
        model.model.multi_modal_projector.mm_input_projection_weight.data.normal_(std=hidden_size**-0.5)
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
    parser.add_argument("--kind", required=True, choices=["llava", "idefics3", "gemma3"])
    parser.add_argument(
        "--dataset", required=True, nargs="+", help="EmoBench folders, whose texts train the tokenizer"
    )
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--num-layers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    corpus = sorted({text for dataset in args.dataset for text in corpus_of(dataset)})
    model, processor = build_foundation(
        args.kind, corpus, seed=args.seed, hidden_size=args.hidden_size, num_layers=args.num_layers
    )
    model.save_pretrained(args.output)
    processor.save_pretrained(args.output)
    (args.output / "README.md").write_text(CARD, encoding="utf-8")
    print(f"{args.kind}: {model.num_parameters():,} parameters in {args.output}")


if __name__ == "__main__":
    main()
