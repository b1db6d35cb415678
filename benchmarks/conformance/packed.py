"""
Families whose images are patches on grids of their own size (`image_grid_thw`, with few exceptions), one image after
another without padding.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod

import torch
from transformers import PreTrainedModel

from .family import (
    CONVOLUTION,
    END,
    IMAGE,
    MIXED,
    MROPE_TEXT,
    PAIR,
    QWEN3_5_TEXT,
    ROPE,
    START,
    TEXT,
    VIDEO,
    VISION,
    Family,
    build,
    flat,
    pixels,
)


GRIDS = [(1, 4, 4), (1, 4, 8), (1, 12, 4)]  # time, height and width in patches of the images, by turns
CLIPS = [(3, 4, 4), (2, 4, 8)]
CLIP_START, CLIP_END = 94, 95  # around a video whose frames look like images
COMMA, NEWLINE, AUDIO_TOKEN = 24, 25, 96
MOMENTS = (3 * 2 * 4 * 4,)  # a patch of 4 x 4 pixels, two moments long
STILL = (3 * 4 * 4,)
GRID_VISION = {**VISION, "depth": 2, "num_heads": 4, "out_hidden_size": 32, "num_position_embeddings": 16}
DEEPSTACK = {**GRID_VISION, "deepstack_visual_indexes": [0]}
WINDOWS = {**GRID_VISION, "fullatt_block_indexes": [1], "window_size": 16}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
LATENT = {
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 8,
    "num_key_value_heads": 4,
}  # fmt: skip
WIDER = {"initializer_range": 0.15}  # for projectors of four maps
SEEN = {**PAIR, "vision_start_token_id": START, "vision_end_token_id": END}
GLM_SEEN = {
    **PAIR, "image_start_token_id": START, "image_end_token_id": END,
    "video_start_token_id": CLIP_START, "video_end_token_id": CLIP_END,
}  # fmt: skip


def packed(grids: list[tuple], shape: tuple[int, ...], suffix: str = "", grid_name: str = "image_grid_thw"):
    """Layout of Qwen2-VL: patches of all images after one another, `(patches, *shape)`, and their grids."""

    def inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        numbers = flat(rows)
        sizes = [grids[i % len(grids)] for i in numbers]
        patches = [pixels(i, t * h * w, *shape) for i, (t, h, w) in zip(numbers, sizes, strict=True)]
        return {f"pixel_values{suffix}": torch.cat(patches), grid_name: torch.tensor(sizes)}

    return inputs


def merged(grids: list[tuple], token: int, before: tuple[int, ...] = (START,), after: tuple[int, ...] = (END,)):
    """Tokens of Qwen2-VL: a placeholder for each 2 x 2 patches, between a start and an end."""

    def tokens(i: int) -> list[int]:
        time, height, width = grids[i % len(grids)]
        return [*before, *[token] * (time * height * width // 4), *after]

    return tokens


def timed(token: int, before: tuple[int, ...] = (), after: tuple[int, ...] = ()):
    """Tokens of Qwen3-VL: each moment of a video is laid out like an image behind its time."""

    def tokens(i: int) -> list[int]:
        time, height, width = CLIPS[i % len(CLIPS)]
        frames = [[30 + t, START, *[token] * (height * width // 4), END] for t in range(time)]
        return [*before, *sum(frames, []), *after]

    return tokens


def packed_family(
    model: PreTrainedModel,
    video_tokens: Callable[[int], list[int]] | None,
    shape: tuple[int, ...] = MOMENTS,
    text_inputs: Callable[[torch.Tensor], dict] | None = None,
) -> Family:
    videos = None if video_tokens is None else packed(CLIPS, shape, "_videos", "video_grid_thw")
    return Family(model, merged(GRIDS, IMAGE), packed(GRIDS, shape), video_tokens, videos, text_inputs=text_inputs)


def qwen2_vl() -> Family:
    vision = {**GRID_VISION, "embed_dim": 32, "mlp_ratio": 1}
    return packed_family(build("qwen2_vl", vision_config=vision, text_config=MROPE_TEXT, **SEEN), merged(CLIPS, VIDEO))


def qwen2_5_vl() -> Family:
    model = build("qwen2_5_vl", vision_config=WINDOWS, text_config=MROPE_TEXT, **SEEN)
    return packed_family(model, merged(CLIPS, VIDEO))


def qwen3_vl() -> Family:
    model = build("qwen3_vl", vision_config=DEEPSTACK, text_config=MROPE_TEXT, **SEEN)
    return packed_family(model, timed(VIDEO))


def qwen3_vl_moe() -> Family:
    text = {**MROPE_TEXT, **EXPERTS, "num_experts": 4}
    return packed_family(build("qwen3_vl_moe", vision_config=DEEPSTACK, text_config=text, **SEEN), timed(VIDEO))


def cosmos3_omni() -> Family:
    vision, text = {**DEEPSTACK, "model_type": "qwen3_vl_vision"}, {**MROPE_TEXT, "model_type": "qwen3_vl_text"}
    return packed_family(build("cosmos3_omni", vision_config=vision, text_config=text, **SEEN), timed(VIDEO))


def cosmos3_edge() -> Family:
    model = build(
        "cosmos3_edge", vision_config={**GRID_VISION, "num_patches": 16}, text_config=MROPE_TEXT,
        projector_hidden_size=32, **SEEN,
    )  # fmt: skip
    return packed_family(model, timed(VIDEO), STILL)


def cohere_compass() -> Family:
    layers = ["sliding_attention", "full_attention"]
    text = {**TEXT, "layer_types": layers, "rope_parameters": dict.fromkeys(layers, ROPE)}
    return packed_family(build("cohere_compass", vision_config=DEEPSTACK, text_config=text, **SEEN), timed(VIDEO))


def qwen3_5() -> Family:
    return packed_family(build("qwen3_5", vision_config=GRID_VISION, text_config=QWEN3_5_TEXT, **SEEN), timed(VIDEO))


def qwen3_5_moe() -> Family:
    text = {**QWEN3_5_TEXT, **EXPERTS, "num_experts": 4}
    return packed_family(build("qwen3_5_moe", vision_config=GRID_VISION, text_config=text, **SEEN), timed(VIDEO))


def qwen4_exp() -> Family:
    text = {
        **QWEN3_5_TEXT, **EXPERTS, "num_experts": 4, "hc_count": 2, "hc_lowrank": 8, "ple_layer_ids": [1],
        "ple_embed_dim": 32, "ngram_vocab_size_base": 64, "make_ngram_vocab_size_divisible_by": 8,
        "heads_per_ngram": 2, "split_ngram_parts": 2, "indexer_n_heads": 2, "indexer_kv_heads": 1,
        "indexer_head_dim": 8, "indexer_budget": 64, "indexer_compress_ratio": 4,
    }  # fmt: skip
    return packed_family(build("qwen4_exp", vision_config=GRID_VISION, text_config=text, **SEEN), timed(VIDEO))


def thinker(model_type: str, vision: dict, text: dict) -> Family:
    """The Omni models without their voice; videos come with the seconds between their moments."""
    audio = {
        "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "d_model": 16, "num_mel_bins": 8,
        "output_dim": 32, "downsample_hidden_size": 8,
    }  # fmt: skip
    heard = {"audio_token_id": AUDIO_TOKEN, "audio_start_token_id": 97, "audio_end_token_id": 98}
    model = build(model_type, vision_config=vision, audio_config=audio, text_config=text, **heard, **SEEN)
    family = packed_family(model, merged(CLIPS, VIDEO))

    def video_inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        return family.video_inputs(rows) | {"video_second_per_grid": torch.ones(len(flat(rows)))}

    return replace(family, video_inputs=video_inputs)


def glm(name: str, text: dict, **vision) -> Family:
    """Frames of GLM-V's videos have the placeholders of images: only the tokens around a video tell them apart."""
    model = build(name, vision_config={**GRID_VISION, **WIDER, **vision}, text_config=text, **GLM_SEEN)

    def text_inputs(input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        inside = (input_ids == CLIP_START).cumsum(1) > (input_ids == CLIP_END).cumsum(1)
        return {"mm_token_type_ids": (input_ids == IMAGE) * (1 + inside.long())}

    return packed_family(model, timed(IMAGE, (CLIP_START,), (CLIP_END,)), text_inputs=text_inputs)


def glm46v(name: str = "glm46v") -> Family:
    return glm(name, {**MROPE_TEXT, "model_type": "glm4v_text"}, model_type="glm4v_vision")


def glm4v_moe() -> Family:
    # Rotary embeddings turn half of each head, so it is twice as wide.
    return glm("glm4v_moe", {**MROPE_TEXT, **EXPERTS, "head_dim": 16, "n_routed_experts": 4})


def glm5_next() -> Family:
    text = {
        **TEXT, **EXPERTS, "num_key_value_heads": 4, "n_routed_experts": 4, "kv_lora_rank": 8, "q_lora_rank": 8,
        "v_head_dim": 8, "qk_nope_head_dim": 8, "mlp_layer_types": ["dense", "sparse"],
        "layer_types": ["linear_attention", "indexed_attention"], "indexer_types": ["full", "full"],
        "index_topk": 64, "index_head_dim": 8, "index_n_heads": 2, "index_kpool": 2,
        "linear_head_dim": 8, "linear_num_heads": 4, "hc_mult": 2,
    }  # fmt: skip
    return glm("glm5_next", text, projection_intermediate_size=32)


def video_llama_3() -> Family:
    grids = [(1, 2, 3), (1, 4, 3), (1, 2, 4)]  # not merged
    model = build("video_llama_3", vision_config=GRID_VISION, text_config={**TEXT, "model_type": "qwen2"}, **PAIR)

    def image_tokens(i: int) -> list[int]:
        _, height, width = grids[i % len(grids)]
        return [IMAGE] * (height * width)

    def image_inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        return packed(grids, STILL)(rows) | {"image_merge_sizes": torch.ones(len(flat(rows)), dtype=torch.long)}

    def kept(i: int) -> torch.Tensor:
        """Which tokens of each frame are kept: all of the first, ever fewer of the next."""
        time, height, width = CLIPS[i % len(CLIPS)]
        return torch.arange(time)[:, None] + torch.arange(height * width // 4) < height * width // 4

    def video_tokens(i: int) -> list[int]:
        return sum([[30 + t, *[VIDEO] * int(frame.sum()), COMMA] for t, frame in enumerate(kept(i))], [])[:-1]

    def video_inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        inputs = packed(CLIPS, STILL, "_videos", "video_grid_thw")(rows)
        inputs["video_merge_sizes"] = torch.full((len(flat(rows)),), 2)
        return inputs | {"video_compression_mask": torch.cat([kept(i).flatten() for i in flat(rows)])}

    return Family(model, image_tokens, image_inputs, video_tokens, video_inputs)


def ernie4_5_vl_moe() -> Family:
    clips = [(6, 4, 4), (4, 4, 8)]  # two moments share their tokens
    halved = [(t // 2, h, w) for t, h, w in clips]
    text = {**MROPE_TEXT, "moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1}
    model = build(
        "ernie4_5_vl_moe",
        vision_config=GRID_VISION,
        text_config={**text, "moe_intermediate_size": [16, 8]},
        **GLM_SEEN,
    )

    def moe_types(input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        image, video = (
            torch.isin(input_ids, torch.tensor(ids)).long()
            for ids in ([START, IMAGE, END], [CLIP_START, VIDEO, CLIP_END])
        )
        return {"moe_mm_token_type_ids": image + 2 * video}

    return Family(
        model,
        merged(GRIDS, IMAGE),
        packed(GRIDS, STILL),
        merged(halved, VIDEO, (CLIP_START,), (CLIP_END,)),
        packed(clips, STILL, "_videos", "video_grid_thw"),
        text_inputs=moe_types,
    )


def paddleocr_vl() -> Family:
    model = build("paddleocr_vl", vision_config=GRID_VISION, text_config=MROPE_TEXT, **SEEN)
    return packed_family(model, None, (3, 4, 4))


def exaone4_5() -> Family:
    text = {**TEXT, **MIXED, "model_type": "exaone4"}
    model = build("exaone4_5", vision_config={**WINDOWS, "num_key_value_heads": 2}, text_config=text, **PAIR)
    return packed_family(model, merged(CLIPS, VIDEO))


def hunyuan_vl() -> Family:
    model = build(
        "hunyuan_vl", vision_config={**GRID_VISION, "max_image_size": 16, "min_image_size": 8},
        text_config={**TEXT, "rope_parameters": {**ROPE, "mrope_section": [1, 1, 1, 1]}}, image_token_id=IMAGE,
        im_start_id=START, im_end_id=END, im_newline_id=NEWLINE,
    )  # fmt: skip

    def image_tokens(i: int) -> list[int]:
        _, height, width = GRIDS[i % len(GRIDS)]
        return [START, *[IMAGE] * (height // 2 * (width // 2 + 1) + 2), END]  # one closes a row, two enclose them all

    return Family(model, image_tokens, packed(GRIDS, STILL))


def minimax_m3_vl() -> Family:
    text = {
        **TEXT, **EXPERTS, "dense_intermediate_size": 32, "shared_intermediate_size": 16, "num_local_experts": 4,
        "rotary_dim": 8, "index_n_heads": 2, "index_head_dim": 8, "index_block_size": 8, "index_topk_blocks": 8,
        "layer_types": ["full_attention", "minimax_m3_sparse"], "mlp_layer_types": ["dense", "sparse"],
    }  # fmt: skip
    model = build(
        "minimax_m3_vl", vision_config={**GRID_VISION, "num_attention_heads": 2}, text_config=text,
        image_token_index=IMAGE, video_token_index=VIDEO, projector_hidden_size=32, **WIDER,
    )  # fmt: skip
    return packed_family(model, timed(VIDEO))


def dots3_note() -> Family:
    sliding = {f"swa_{name}": value for name, value in LATENT.items()}
    text = {
        **TEXT, **EXPERTS, **LATENT, **sliding, "swa_head_dim": 8, "swa_num_attention_heads": 4, "n_routed_experts": 4,
        "shared_experts_intermediate_size": 16, "index_topk": 64, "index_head_dim": 8, "index_n_heads": 2,
        "layer_types": ["indexed_attention", "sliding_attention"],
    }  # fmt: skip
    vision = {
        **GRID_VISION, **EXPERTS, "mlp_layer_types": ["dense", "sparse"], "num_local_experts": 4,
        "adapter_in_dim": 32, "adapter_out_dim": 32,
    }  # fmt: skip
    audio = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "feature_size": 8, "downsample_hidden_size": 8, "adapter_input_size": 16, "adapter_out_dim": 32,
    }  # fmt: skip
    model = build(
        "dots3_note", vision_config=vision, audio_config=audio, text_config=text, audio_token_id=AUDIO_TOKEN, **PAIR
    )
    return packed_family(model, merged(CLIPS, VIDEO), STILL)


def kimi_k25() -> Family:
    text = {
        **TEXT, **EXPERTS, **LATENT, "model_type": "deepseek_v3", "head_dim": 4, "n_routed_experts": 4, "n_group": 1,
        "topk_group": 1, "first_k_dense_replace": 1,
    }  # fmt: skip
    vision = {**GRID_VISION, "pos_emb_height": 4, "pos_emb_width": 4}
    model = build("kimi_k25", vision_config=vision, text_config=text, projection_hidden_size=32, **SEEN)
    clips = [(2, 4, 4), (2, 4, 8)]  # averaged over time
    return Family(
        model,
        merged(GRIDS, IMAGE),
        packed(GRIDS, (3, 4, 4)),
        merged([(1, h, w) for _, h, w in clips], VIDEO),
        packed(clips, (3, 4, 4), "_videos", "video_grid_thw"),
        video_frames=lambda i: 1,
    )


def muse(model_type: str, **fields) -> Family:
    layers = ["window_attention", "full_attention"]
    vision = {
        **GRID_VISION,
        "pos_emb_height": 4,
        "pos_emb_width": 4,
        "max_position_embeddings": 16,
        "layer_types": layers,
    }
    text = {
        **TEXT, **EXPERTS, **MIXED, "num_local_experts": 4, "moe_hidden_size": 16,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    }  # fmt: skip
    sizes = {"out_hidden_size": 128, "projector_hidden_size": 32}

    def video_tokens(i: int) -> list[int]:
        time, height, width = CLIPS[i % len(CLIPS)]
        frames = [[30 + t, *[VIDEO] * (height * width // 4), COMMA] for t in range(time)]
        return [CLIP_START, *sum(frames, [])[:-1], CLIP_END]

    return packed_family(
        build(model_type, vision_config=vision, text_config=text, **sizes, **fields, **PAIR), video_tokens
    )


def muse_spark() -> Family:
    audio = {
        "patch_sizes": [4, 2], "hidden_sizes": [8, 16], "depths": [1, 1], "num_hidden_layers": 2,
        "out_hidden_size": 32,
    }  # fmt: skip
    return muse("muse_spark", audio_config=audio, audio_token_id=AUDIO_TOKEN)


def lfm3_vl() -> Family:
    model = build(
        "lfm3_vl", text_config={**TEXT, **CONVOLUTION}, projector_hidden_size=32, **SEEN,
        vision_config={**VISION, **CONVOLUTION, "num_key_value_heads": 4},
    )  # fmt: skip
    return packed_family(model, timed(VIDEO))


def hyperclovax_vision_v2() -> Family:
    model = build("hyperclovax_vision_v2", text_config=TEXT, vision_config=WINDOWS, **PAIR)
    return packed_family(model, merged(CLIPS, VIDEO))


def nemotron_h_omni() -> Family:
    text = {
        **TEXT, "layers_block_type": ["linear_attention", "full_attention", "moe"], "num_hidden_layers": 3,
        "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 1, "chunk_size": 16,
        "n_routed_experts": 4, "moe_intermediate_size": 16, "moe_shared_expert_intermediate_size": 16,
    }  # fmt: skip
    model = build(
        "nemotron_h_omni", text_config=text, vision_hidden_size=32, projector_hidden_size=32, **PAIR,
        vision_config={**VISION, "max_img_size": 64, "video_temporal_patch_size": 2},
    )  # fmt: skip

    def image_inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        layout = packed(GRIDS, STILL)(rows)
        return {"pixel_values": layout["pixel_values"], "image_grid_hw": layout["image_grid_thw"][:, 1:]}

    def frames(i: int) -> int:
        return 4 - 2 * (i % 2)  # a visual token sees two

    def video_tokens(i: int) -> list[int]:  # its processor marks videos like images
        return [token for t in range(frames(i) // 2) for token in (30 + t, START, *[IMAGE] * 4, END)]

    def video_inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        return {"pixel_values_videos": torch.cat([pixels(i, frames(i), 3, 16, 16) for i in flat(rows)])}

    return Family(model, merged(GRIDS, IMAGE), image_inputs, video_tokens, video_inputs)


def inkling_text(**fields) -> dict:
    return {
        **TEXT, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8, "d_rel": 4,
        "sliding_window_size": 16, "rel_extent": 32, "layer_types": ["hybrid_sliding", "hybrid"],
        "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        "unpadded_vocab_size": TEXT["vocab_size"], "initializer_range": 0.1,  # with 0.02 words hardly see pictures
        **fields,
    }  # fmt: skip


def inkling() -> Family:
    model = build(
        "inkling_mm_model", image_token_id=IMAGE, audio_token_id=94, image_bos_token_id=START, audio_bos_token_id=95,
        text_config=inkling_text(n_shared_experts=1, logits_mup_width_multiplier=1.0),
        vision_config={"patch_size": 2, "num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32},
        audio_config={"n_mel_bins": 4, "mel_vocab_size": 4},
    )  # fmt: skip

    def image_inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.cat([pixels(i, 6 + i % 3, 2, 2, 2, 3) for i in flat(rows)])}

    return Family(model, lambda i: [START, *[IMAGE] * (6 + i % 3)], image_inputs)


def inkling2() -> Family:
    grids = [(1, 2, 2), (1, 2, 4), (1, 3, 2)]
    model = build(
        "inkling2", image_token_id=IMAGE, text_config=inkling_text(n_layers_per_attn_res_block=2),
        vision_config={
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 2, "mlp_ratio": 1.0,
            "posemb_grid_size": 4, "projection_hidden_dim": 32, "text_hidden_size": 32,
        },
    )  # fmt: skip

    def image_inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        numbers = flat(rows)
        patches = [pixels(i, prod(grids[i % 3]), 4, 4, 3) for i in numbers]
        return {"pixel_values": torch.cat(patches), "image_grid_thw": torch.tensor([grids[i % 3] for i in numbers])}

    return Family(model, lambda i: [START, *[IMAGE] * prod(grids[i % 3])], image_inputs)


FAMILIES = {
    "cohere_compass": cohere_compass,
    "cosmos3_edge": cosmos3_edge,
    "cosmos3_omni": cosmos3_omni,
    "dots3_note": dots3_note,
    "ernie4_5_vl_moe": ernie4_5_vl_moe,
    "exaone4_5": exaone4_5,
    "glm46v": glm46v,
    "glm4v": partial(glm, "glm4v", MROPE_TEXT),
    "glm4v_moe": glm4v_moe,
    "glm5_next": glm5_next,
    "glm_ocr": partial(glm, "glm_ocr", MROPE_TEXT),
    "glmga": partial(glm46v, "glmga"),
    "hunyuan_vl": hunyuan_vl,
    "hyperclovax_vision_v2": hyperclovax_vision_v2,
    "inkling2": inkling2,
    "inkling_mm_model": inkling,
    "kimi_k25": kimi_k25,
    "lfm3_vl": lfm3_vl,
    "minimax_m3_vl": minimax_m3_vl,
    "muse_glimmer": partial(muse, "muse_glimmer"),
    "muse_spark": muse_spark,
    "nemotron_h_omni": nemotron_h_omni,
    "paddleocr_vl": paddleocr_vl,
    "qwen2_5_omni_thinker": partial(thinker, "qwen2_5_omni_thinker", WINDOWS, MROPE_TEXT),
    "qwen2_5_vl": qwen2_5_vl,
    "qwen2_vl": qwen2_vl,
    "qwen3_5": qwen3_5,
    "qwen3_5_moe": qwen3_5_moe,
    "qwen3_omni_moe_thinker": partial(
        thinker, "qwen3_omni_moe_thinker", DEEPSTACK, {**MROPE_TEXT, **EXPERTS, "num_experts": 4}
    ),
    "qwen3_vl": qwen3_vl,
    "qwen3_vl_moe": qwen3_vl_moe,
    "qwen4_exp": qwen4_exp,
    "video_llama_3": video_llama_3,
}
