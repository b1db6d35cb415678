"""Families whose images are packed patches on grids of their own size (`image_grid_thw`)."""

from collections.abc import Callable
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from .family import END, IMAGE, START, TEXT, VIDEO, Family, build, pixels
from .family import VISION as SIZES


GRIDS = [(1, 4, 4), (1, 4, 8), (1, 12, 4)]  # time, height and width in patches of the images, by turns
CLIPS = [(3, 4, 4), (2, 4, 8)]
CLIP_START, CLIP_END = 94, 95  # around a video whose frames look like images
COMMA, NEWLINE, AUDIO_TOKEN = 24, 25, 96
MOMENTS = (3 * 2 * 4 * 4,)  # a patch of 4 x 4 pixels, two moments long
STILL = (3 * 4 * 4,)

ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
MROPE_TEXT = {**TEXT, "rope_parameters": ROPE}
VISION = {**SIZES, "depth": 2, "num_heads": 4, "out_hidden_size": 32, "num_position_embeddings": 16}
DEEPSTACK = {**VISION, "deepstack_visual_indexes": [0]}
WINDOWS = {**VISION, "fullatt_block_indexes": [1], "window_size": 16}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
PAIR = {"image_token_id": IMAGE, "video_token_id": VIDEO}
# Through the four maps of some projectors, the usual 0.02 leaves hardly anything of so few channels.
WIDE = 0.15
SEEN = {**PAIR, "vision_start_token_id": START, "vision_end_token_id": END}
GLM_SEEN = {
    **PAIR, "image_start_token_id": START, "image_end_token_id": END,
    "video_start_token_id": CLIP_START, "video_end_token_id": CLIP_END,
}  # fmt: skip


def packed(grids: list[tuple], shape: tuple[int, ...], suffix: str = "", grid_name: str = "image_grid_thw"):
    """Layout of Qwen2-VL: patches of all images after one another, `(patches, *shape)`, and their grids."""

    def inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        numbers = [i for row in rows for i in row]
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
    vision = {**VISION, "embed_dim": 32, "mlp_ratio": 1}
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
        "cosmos3_edge", vision_config={**VISION, "num_patches": 16}, text_config=MROPE_TEXT, projector_hidden_size=32,
        **SEEN,
    )  # fmt: skip
    return packed_family(model, timed(VIDEO), STILL)


def cohere_compass() -> Family:
    layers = ["sliding_attention", "full_attention"]
    text = {**TEXT, "layer_types": layers, "rope_parameters": dict.fromkeys(layers, ROPE)}
    return packed_family(build("cohere_compass", vision_config=DEEPSTACK, text_config=text, **SEEN), timed(VIDEO))


def qwen3_5_text(**fields) -> dict:
    return {
        **MROPE_TEXT, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "layer_types": ["linear_attention", "full_attention"],
        "rope_parameters": {**ROPE, "partial_rotary_factor": 1.0}, **fields,
    }  # fmt: skip


def qwen3_5() -> Family:
    return packed_family(build("qwen3_5", vision_config=VISION, text_config=qwen3_5_text(), **SEEN), timed(VIDEO))


def qwen3_5_moe() -> Family:
    text = qwen3_5_text(**EXPERTS, num_experts=4)
    return packed_family(build("qwen3_5_moe", vision_config=VISION, text_config=text, **SEEN), timed(VIDEO))


def qwen4_exp() -> Family:
    text = qwen3_5_text(
        **EXPERTS, num_experts=4, hc_count=2, hc_lowrank=8, ple_layer_ids=[1], ple_embed_dim=32,
        ngram_vocab_size_base=64, make_ngram_vocab_size_divisible_by=8, heads_per_ngram=2, split_ngram_parts=2,
        indexer_n_heads=2, indexer_kv_heads=1, indexer_head_dim=8, indexer_budget=64, indexer_compress_ratio=4,
    )  # fmt: skip
    return packed_family(build("qwen4_exp", vision_config=VISION, text_config=text, **SEEN), timed(VIDEO))


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
        return family.video_inputs(rows) | {"video_second_per_grid": torch.ones(sum(map(len, rows)))}

    return replace(family, video_inputs=video_inputs)


def qwen2_5_omni_thinker() -> Family:
    return thinker("qwen2_5_omni_thinker", WINDOWS, MROPE_TEXT)


def qwen3_omni_moe_thinker() -> Family:
    return thinker("qwen3_omni_moe_thinker", DEEPSTACK, {**MROPE_TEXT, **EXPERTS, "num_experts": 4})


def glm(name: str, text: dict, **vision) -> Family:
    """Frames of GLM-V's videos have the placeholders of images: only the tokens around a video tell them apart."""
    model = build(name, vision_config={**VISION, "initializer_range": WIDE, **vision}, text_config=text, **GLM_SEEN)

    def text_inputs(input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        inside = (input_ids == CLIP_START).cumsum(1) > (input_ids == CLIP_END).cumsum(1)
        return {"mm_token_type_ids": (input_ids == IMAGE) * (1 + inside.long())}

    return packed_family(model, timed(IMAGE, (CLIP_START,), (CLIP_END,)), text_inputs=text_inputs)


def glm4v() -> Family:
    return glm("glm4v", MROPE_TEXT)


def glm46v(name: str = "glm46v") -> Family:
    return glm(name, {**MROPE_TEXT, "model_type": "glm4v_text"}, model_type="glm4v_vision")


def glmga() -> Family:
    return glm46v("glmga")


def glm4v_moe() -> Family:
    # Rotary embeddings turn half of each head, so it is twice as wide.
    return glm("glm4v_moe", {**MROPE_TEXT, **EXPERTS, "head_dim": 16, "n_routed_experts": 4})


def glm_ocr() -> Family:
    return glm("glm_ocr", MROPE_TEXT)


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
    model = build("video_llama_3", vision_config=VISION, text_config={**TEXT, "model_type": "qwen2"}, **PAIR)

    def image_tokens(i: int) -> list[int]:
        _, height, width = grids[i % len(grids)]
        return [IMAGE] * (height * width)

    def image_inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        return packed(grids, STILL)(rows) | {"image_merge_sizes": torch.ones(sum(map(len, rows)), dtype=torch.long)}

    def kept(i: int) -> torch.Tensor:
        """Which tokens of each frame are kept: all of the first, ever fewer of the next."""
        time, height, width = CLIPS[i % len(CLIPS)]
        return torch.arange(time)[:, None] + torch.arange(height * width // 4) < height * width // 4

    def video_tokens(i: int) -> list[int]:
        return sum([[30 + t, *[VIDEO] * int(frame.sum()), COMMA] for t, frame in enumerate(kept(i))], [])[:-1]

    def video_inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        inputs = packed(CLIPS, STILL, "_videos", "video_grid_thw")(rows)
        inputs["video_merge_sizes"] = torch.full((sum(map(len, rows)),), 2)
        return inputs | {"video_compression_mask": torch.cat([kept(i).flatten() for row in rows for i in row])}

    return Family(model, image_tokens, image_inputs, video_tokens, video_inputs)


def ernie4_5_vl_moe() -> Family:
    clips = [(6, 4, 4), (4, 4, 8)]  # two moments share their tokens
    halved = [(t // 2, h, w) for t, h, w in clips]
    text = {**MROPE_TEXT, "moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1}
    model = build(
        "ernie4_5_vl_moe", vision_config=VISION, text_config={**text, "moe_intermediate_size": [16, 8]}, **GLM_SEEN
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
    model = build("paddleocr_vl", vision_config=VISION, text_config=MROPE_TEXT, **SEEN)
    return packed_family(model, None, (3, 4, 4))


def exaone4_5() -> Family:
    text = {**TEXT, "model_type": "exaone4", "layer_types": ["sliding_attention", "full_attention"]}
    model = build("exaone4_5", vision_config={**WINDOWS, "num_key_value_heads": 2}, text_config=text, **PAIR)
    return packed_family(model, merged(CLIPS, VIDEO))


def hunyuan_vl() -> Family:
    model = build(
        "hunyuan_vl", vision_config={**VISION, "max_image_size": 16, "min_image_size": 8},
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
        "minimax_m3_vl", vision_config={**VISION, "num_attention_heads": 2}, text_config=text,
        image_token_index=IMAGE, video_token_index=VIDEO, projector_hidden_size=32, initializer_range=WIDE,
    )  # fmt: skip
    return packed_family(model, timed(VIDEO))


LATENT = {
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 8,
    "num_key_value_heads": 4,
}  # fmt: skip


def dots3_note() -> Family:
    sliding = {f"swa_{name}": value for name, value in LATENT.items()}
    text = {
        **TEXT, **EXPERTS, **LATENT, **sliding, "swa_head_dim": 8, "swa_num_attention_heads": 4, "n_routed_experts": 4,
        "shared_experts_intermediate_size": 16, "index_topk": 64, "index_head_dim": 8, "index_n_heads": 2,
        "layer_types": ["indexed_attention", "sliding_attention"],
    }  # fmt: skip
    vision = {
        **VISION, **EXPERTS, "mlp_layer_types": ["dense", "sparse"], "num_local_experts": 4,
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
    vision = {**VISION, "pos_emb_height": 4, "pos_emb_width": 4}
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
    vision = {**VISION, "pos_emb_height": 4, "pos_emb_width": 4, "max_position_embeddings": 16, "layer_types": layers}
    text = {
        **TEXT, **EXPERTS, "num_local_experts": 4, "moe_hidden_size": 16,
        "layer_types": ["sliding_attention", "full_attention"],
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


def muse_glimmer() -> Family:
    return muse("muse_glimmer")


def muse_spark() -> Family:
    audio = {
        "patch_sizes": [4, 2], "hidden_sizes": [8, 16], "depths": [1, 1], "num_hidden_layers": 2,
        "out_hidden_size": 32,
    }  # fmt: skip
    return muse("muse_spark", audio_config=audio, audio_token_id=AUDIO_TOKEN)


NAVIT = [[(4, 8)], [(8, 8), (8, 4), (8, 4)], [(12, 4)]]  # heights and widths in patches of an image and its slices
NAVIT_CLIPS = [[(4, 8)] * 3, [(8, 8)] * 2]  # ... and of the frames of a video


def navit(sizes: list[list[tuple]], suffix: str = ""):
    """Layout of MiniCPM-V: patches side by side in one strip, slices behind their images."""

    def inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        numbers = [i for row in rows for i in row]
        targets = [size for i in numbers for size in sizes[i % len(sizes)]]
        strips = [pixels(i, 3, 4, 4 * sum(h * w for h, w in sizes[i % len(sizes)])) for i in numbers]
        return {f"pixel_values{suffix}": torch.cat(strips, -1)[None], f"target_sizes{suffix}": torch.tensor(targets)}

    return inputs


def minicpm(model_type: str, downsample_mode: str = "16x") -> Family:
    area, slice_start, slice_end = int(downsample_mode[:-1]), 94, 95
    model = build(
        model_type, vision_config=SIZES, text_config={**qwen3_5_text(), "model_type": "qwen3_5_text"},
        insert_layer_id=0, image_size=16, downsample_mode=downsample_mode, image_start_id=START, image_end_id=END,
        slice_start_id=slice_start, slice_end_id=slice_end, newline_id=NEWLINE, **PAIR,
    )  # fmt: skip

    def image_tokens(i: int) -> list[int]:
        (height, width), *slices = NAVIT[i % len(NAVIT)]
        rows = [[slice_start, *[IMAGE] * (h * w // area), slice_end, NEWLINE] for h, w in slices]
        return [START, *[IMAGE] * (height * width // area), END, *sum(rows, [])[:-1]]

    def video_tokens(i: int) -> list[int]:
        return sum([[START, *[VIDEO] * (h * w // area), END] for h, w in NAVIT_CLIPS[i % len(NAVIT_CLIPS)]], [])

    return Family(model, image_tokens, navit(NAVIT), video_tokens, navit(NAVIT_CLIPS, "_videos"))


def minicpmv4_6() -> Family:
    return minicpm("minicpmv4_6")


def minicpmv4_7() -> Family:
    return minicpm("minicpmv4_7")


def minicpm_ocr() -> Family:
    return minicpm("minicpm_ocr", "4x")


KNOWN_FAILURES = {
    ("hunyuan_vl", "neighbours"): "transformers numbers the images of all rows in one go in its position ids, so that "
    "an answer depends on the other rows",
    ("kimi_k25", "video"): "transformers itself fails on clips of more than one frame (`get_video_features` averages "
    "over time, then splits as if it had not)",
}
REFUSED = {
    "glm_image": "it draws pictures; `AutoModelForImageTextToText` does not load it, and its language model sees code "
    "book entries instead of visual features",
}
FAMILIES = {
    "cohere_compass": cohere_compass,
    "cosmos3_edge": cosmos3_edge,
    "cosmos3_omni": cosmos3_omni,
    "dots3_note": dots3_note,
    "ernie4_5_vl_moe": ernie4_5_vl_moe,
    "exaone4_5": exaone4_5,
    "glm46v": glm46v,
    "glmga": glmga,
    "glm4v": glm4v,
    "glm4v_moe": glm4v_moe,
    "glm5_next": glm5_next,
    "glm_ocr": glm_ocr,
    "hunyuan_vl": hunyuan_vl,
    "kimi_k25": kimi_k25,
    "minicpm_ocr": minicpm_ocr,
    "minicpmv4_6": minicpmv4_6,
    "minicpmv4_7": minicpmv4_7,
    "minimax_m3_vl": minimax_m3_vl,
    "muse_glimmer": muse_glimmer,
    "muse_spark": muse_spark,
    "paddleocr_vl": paddleocr_vl,
    "qwen2_5_omni_thinker": qwen2_5_omni_thinker,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen2_vl": qwen2_vl,
    "qwen3_5": qwen3_5,
    "qwen3_5_moe": qwen3_5_moe,
    "qwen3_omni_moe_thinker": qwen3_omni_moe_thinker,
    "qwen3_vl": qwen3_vl,
    "qwen3_vl_moe": qwen3_vl_moe,
    "qwen4_exp": qwen4_exp,
    "video_llama_3": video_llama_3,
}
