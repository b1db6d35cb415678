"""A LLaVA of random weights with as many visual tokens and parameters as a benchmark wants, in a tiny one's place."""

import subprocess
import sys
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor


PATCH = 14


def build_processor(data: Path, folder: Path) -> LlavaProcessor:
    """A tiny foundation's, whose pictures become larger."""
    command = [sys.executable, "-m", "benchmarks.tiny_foundations", "--kind", "llava", "--dataset", str(data)]
    command += ["--output", str(folder), "--hidden-size", "32", "--num-layers", "1"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return LlavaProcessor.from_pretrained(folder)


def build_foundation(
    processor: LlavaProcessor,
    folder: Path,
    *,
    tokens_per_side: int,
    hidden_size: int,
    num_layers: int,
    vision_layers: int,
) -> dict[str, int]:
    """Makes a foundation and gives its parameters."""
    side, tokenizer = tokens_per_side * PATCH, processor.tokenizer
    processor.patch_size = PATCH
    processor.image_processor.size = {"shortest_edge": side}
    processor.image_processor.crop_size = {"height": side, "width": side}
    processor.save_pretrained(folder)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=5 * hidden_size // 4,
                intermediate_size=19 * hidden_size // 4,
                num_hidden_layers=vision_layers,
                num_attention_heads=hidden_size // 64,
                image_size=side,
                patch_size=PATCH,
            ),
            text_config=LlamaConfig(
                hidden_size=hidden_size,
                intermediate_size=11 * hidden_size // 2,
                num_hidden_layers=num_layers,
                num_attention_heads=hidden_size // 64,
                num_key_value_heads=1,
                vocab_size=max(len(tokenizer), 7 * hidden_size * num_layers),
                tie_word_embeddings=True,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            ),
            image_token_index=tokenizer.image_token_id,
            image_seq_length=tokens_per_side**2,
            vision_feature_layer=-1,
            tie_word_embeddings=True,
        )
    )
    model.save_pretrained(folder)
    language, embedding = model.model.language_model, model.get_input_embeddings().weight.numel()
    return {
        "vision tower": model.model.vision_tower.num_parameters(),
        "language model": language.num_parameters() - embedding,
        "embedding": embedding,
    }
