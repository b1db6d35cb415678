"""
Families whose processors pad images of different sizes to one and tell what is no padding: their sizes (Pixtral,
Emu3), a mask of the pixels (Idefics2, Aria), or the places of patches (Gemma 4).
"""

from functools import partial

import torch
from torch.nn.functional import pad

from .family import (
    END,
    IMAGE,
    MIXED,
    SEPARATORS,
    START,
    TEXT,
    VIDEO,
    VISION,
    WIDE,
    Family,
    build,
    fixed,
    flat,
    nested,
    pixels,
)


SIZES = [(8, 16), (16, 16), (16, 8)]
PIXTRAL = {**VISION, "head_dim": 8}
MAX_PATCHES = 16
SHAPES = [(1, 4, 4), (1, 2, 8), (1, 4, 2)]  # frames, height and width in patches of Gemma 4's images, by turns
CLIPS = [(3, 4, 4), (2, 2, 4)]


def padded(i: int) -> torch.Tensor:
    """An image of another size, `(1, 3, H, W)`, with zeros on the right and below."""
    height, width = SIZES[i % len(SIZES)]
    return pad(pixels(i, 1, 3, height, width), (0, 16 - width, 0, 16 - height))


def sized(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """Layout of Pixtral: `(images, 3, H, W)`, padded to the largest, and their sizes."""
    images = flat(rows)
    sizes = torch.tensor([SIZES[i % len(SIZES)] for i in images])
    return {"pixel_values": torch.cat([*map(padded, images)]), "image_sizes": sizes}


def pixtral_tokens(i: int) -> list[int]:
    """Pixtral: a break after every row of 2 x 2 patches, an end after the last."""
    height, width = SIZES[i % len(SIZES)]
    return [*[*[IMAGE] * (width // 8), SEPARATORS[0]] * (height // 8)][:-1] + [END]


def mistral3() -> Family:
    model = build("mistral3", text_config=TEXT, vision_config=PIXTRAL, image_token_id=IMAGE)
    return Family(model, pixtral_tokens, sized)


def mistral_large4() -> Family:
    text = {
        **TEXT, "num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "index_head_dim": 16,
        "index_n_heads": 2,
    }  # fmt: skip
    model = build("mistral_large4", text_config=text, vision_config=PIXTRAL, image_token_id=IMAGE)
    return Family(model, pixtral_tokens, sized)


def lighton_ocr() -> Family:
    model = build("lighton_ocr", text_config=TEXT, vision_config=PIXTRAL, image_token_id=IMAGE)
    return Family(model, lambda i: [token for token in pixtral_tokens(i) if token == IMAGE], sized)


def idefics2() -> Family:
    resampler = {
        "hidden_size": 32, "resampler_n_latents": 9, "resampler_depth": 1, "resampler_n_heads": 4,
        "resampler_head_dim": 8, "num_key_value_heads": 2, **WIDE,
    }  # fmt: skip
    vision = {**VISION, **WIDE}
    model = build("idefics2", text_config=TEXT, vision_config=vision, perceiver_config=resampler, image_token_id=IMAGE)
    # transformers fills these with ones, for weights to be loaded over: all visual tokens of an image would be equal.
    model.model.connector.perceiver_resampler.latents.data.normal_()
    return Family(model, fixed(9, before=(START,), after=(START,)), partial(nested, image=padded))


def aria() -> Family:
    model = build(
        "aria", text_config={**TEXT, "moe_num_experts": 4}, vision_config={**VISION, "model_type": "idefics3_vision"},
        image_token_id=IMAGE, projector_patch_to_query_dict={16: 9},
    )  # fmt: skip

    def image_inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        values = torch.cat([*map(padded, flat(rows))])
        return {"pixel_values": values, "pixel_mask": (values != 0).any(1)}

    return Family(model, fixed(9), image_inputs)


def emu3() -> Family:
    # As with Chameleon, but images differ in size, are padded, and every row of visual tokens ends in a newline. Its
    # eye sees the padding, so here the largest height and width are the same in every batch.
    sizes = [(16, 16), (8, 16), (16, 8)]
    words = {f"<|visual token {i:06d}|>": 30 + i for i in range(8)}
    model = build(
        "emu3", text_config=TEXT, vocabulary_map={"<image>": IMAGE, "<|extra_200|>": 95, **words},
        vq_config={
            "codebook_size": 8, "base_channels": 32, "channel_multiplier": [1, 1, 1], "num_res_blocks": 1,
            "attn_resolutions": [2], "hidden_size": 32,
        },
    )  # fmt: skip

    def image_tokens(i: int) -> list[int]:
        height, width = sizes[i % 3]
        return [START, 40 + height, 40 + width, 96, *[IMAGE] * (height // 4 * (width // 4 + 1)), 97, END]

    def image_inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        numbers = flat(rows)
        shapes = torch.tensor([sizes[i % 3] for i in numbers])
        height, width = shapes.amax(0).tolist()
        images = [
            pad(pixels(i, 3, h, w), (0, width - w, 0, height - h))
            for i, (h, w) in zip(numbers, shapes.tolist(), strict=True)
        ]
        return {"pixel_values": torch.stack(images), "image_sizes": shapes}

    return Family(model, image_tokens, image_inputs)


def positioned(shapes: list[tuple], channels: int, prefix: str, pixel_name: str):
    """Layout of Gemma 4: patches of each image or frame, padded to as many for all, and where in it each patch is."""

    def inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        values, positions, frames = [], [], []
        for number in flat(rows):
            time, height, width = shapes[number % len(shapes)]
            place = torch.cartesian_prod(torch.arange(height), torch.arange(width)).flip(-1)
            gap = (0, 0, 0, MAX_PATCHES - len(place))
            values.append(pad(pixels(number, time, len(place), channels), gap))
            positions += [pad(place, gap, value=-1)] * time
            frames.append(time)
        inputs = {pixel_name: torch.cat(values), f"{prefix}_position_ids": torch.stack(positions)}
        return inputs | ({"num_frames_per_video": torch.tensor(frames)} if prefix == "video" else {})

    return inputs


def dated(shapes: list[tuple], token: int, pooled: int):
    """Tokens of Gemma 4: placeholders between a start and an end; before every frame of a video, its time."""

    def tokens(i: int) -> list[int]:
        time, height, width = shapes[i % len(shapes)]
        frame = [START, *[token] * (height * width // pooled), END]
        return frame if token == IMAGE else [piece for second in range(time) for piece in (30 + second, *frame)]

    return tokens


def gemma4_family(model_type: str, pooled: int, channels: int, vision: dict, **text) -> Family:
    model = build(
        model_type, vision_config=vision, audio_config=None, image_token_id=IMAGE, video_token_id=VIDEO,
        audio_token_id=94, boi_token_id=START, eoi_token_id=END,
        text_config={**TEXT, **MIXED, "global_head_dim": 8, "use_bidirectional_attention": "vision", **text},
    )  # fmt: skip
    return Family(
        model, dated(SHAPES, IMAGE, pooled), positioned(SHAPES, channels, "image", "pixel_values"),
        dated(CLIPS, VIDEO, pooled), positioned(CLIPS, channels, "video", "pixel_values_videos"),
    )  # fmt: skip


def gemma4() -> Family:
    vision = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
        "num_key_value_heads": 4, "patch_size": 2, "pooling_kernel_size": 2, "position_embedding_size": 8,
    }  # fmt: skip
    return gemma4_family(
        "gemma4", 4, 12, vision, vocab_size_per_layer_input=TEXT["vocab_size"], hidden_size_per_layer_input=8
    )


def gemma4_unified() -> Family:
    vision = {
        "patch_size": 2, "pooling_kernel_size": 2, "mm_embed_dim": 32, "mm_posemb_size": 8, "output_proj_dims": 32
    }  # fmt: skip
    return gemma4_family("gemma4_unified", 1, 48, vision)


FAMILIES = {
    "aria": aria,
    "emu3": emu3,
    "gemma4": gemma4,
    "gemma4_unified": gemma4_unified,
    "idefics2": idefics2,
    "lighton_ocr": lighton_ocr,
    "mistral3": mistral3,
    "mistral_large4": mistral_large4,
}
