"""Families whose images all have one size and one number of visual tokens, and the kin of Gemma and of DeepSeek."""

from math import prod

import torch
from torch.nn.functional import pad

from .family import END, IMAGE, START, TEXT, VIDEO, VISION, Family, build, fixed, pixels, stacked


# SAM's encoder, as GOT-OCR2 and DeepSeek have it: 8 x 8 patches; its own initializer_range of 1e-10 makes it blind.
SAM = {
    "hidden_size": 32, "output_channels": 8, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
    "patch_size": 4, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 32, "initializer_range": 0.02,
}  # fmt: skip
MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
FRAMES = 3
MAX_PATCHES = 16
SHAPES = [(1, 4, 4), (1, 2, 8), (1, 4, 2)]  # frames, height and width in patches of Gemma 4's images, by turns
CLIPS = [(3, 4, 4), (2, 2, 4)]


def wrapped(length: int):
    return fixed(length, before=(START,), after=(END,))


def llava() -> Family:
    model = build("llava", vision_config=VISION, text_config=TEXT, image_token_index=IMAGE)
    return Family(model, fixed(16), stacked(16, 16))


def vipllava() -> Family:
    model = build(
        "vipllava", vision_config=VISION, text_config=TEXT, image_token_index=IMAGE, vision_feature_layer=[-1, -2]
    )
    return Family(model, fixed(16), stacked(16, 16))


def video_llava() -> Family:
    model = build(
        "video_llava", vision_config=VISION, text_config=TEXT, image_token_index=IMAGE, video_token_index=VIDEO
    )

    def video_inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        return {"pixel_values_videos": torch.stack([pixels(i, FRAMES, 3, 16, 16) for row in rows for i in row])}

    # The class token of the eye is left out of images, but kept in the frames of videos.
    return Family(
        model, fixed(16), stacked(16, 16), fixed(FRAMES * 17, VIDEO), video_inputs, video_frames=lambda i: FRAMES
    )


def paligemma() -> Family:
    model = build(
        "paligemma", vision_config={**VISION, "vision_use_head": False}, text_config=TEXT, image_token_index=IMAGE,
        projection_dim=32, hidden_size=32,
    )  # fmt: skip

    def no_suffix(input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Token type 1 is an answer to be learned, 0 everything before it, images too."""
        return {"token_type_ids": torch.zeros_like(input_ids)}

    return Family(model, fixed(16), stacked(16, 16), text_inputs=no_suffix)


def gemma3() -> Family:
    model = build(
        "gemma3", vision_config={**VISION, "vision_use_head": False}, text_config={**TEXT, **MIXED},
        mm_tokens_per_image=4, image_token_index=IMAGE, boi_token_index=START, eoi_token_index=END,
    )  # fmt: skip
    # transformers fills this matrix with zeros, for weights to be loaded over: nothing would be seen through it.
    model.model.multi_modal_projector.mm_input_projection_weight.data.normal_(std=0.1)
    return Family(model, wrapped(4), stacked(16, 16))


def positioned(shapes: list[tuple], channels: int, prefix: str, pixel_name: str):
    """Layout of Gemma 4: patches of each image or frame, padded to as many for all, and where in it each patch is."""

    def inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        values, positions, frames = [], [], []
        for number in (i for row in rows for i in row):
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


def got_ocr2(model_type: str = "got_ocr2") -> Family:
    model = build(model_type, vision_config=SAM, text_config=TEXT, image_token_index=IMAGE)
    return Family(model, wrapped(4), stacked(32, 32))


def pp_chart2table() -> Family:
    return got_ocr2("pp_chart2table")


def janus() -> Family:
    model = build(
        "janus", text_config=TEXT, image_token_id=IMAGE,
        vision_config={**VISION, "projection_dim": 32, "num_image_tokens": 16},
        vq_config={
            "num_embeddings": 8, "latent_channels": 8, "base_channels": 32, "channel_multiplier": [1, 1],
            "num_res_blocks": 1, "projection_dim": 8, "image_token_embed_dim": 32,
        },
    )  # fmt: skip
    return Family(model, wrapped(16), stacked(16, 16))


def deepseek_vl() -> Family:
    model = build("deepseek_vl", vision_config=VISION, text_config=TEXT, image_token_id=IMAGE)
    return Family(model, fixed(16), stacked(16, 16))


def deepseek_vl_hybrid() -> Family:
    model = build(
        "deepseek_vl_hybrid", vision_config=VISION, high_res_vision_config=SAM, text_config=TEXT, image_token_id=IMAGE
    )
    low, high = stacked(16, 16), stacked(32, 32, "high_res_pixel_values")
    return Family(model, fixed(16), lambda rows: {**low(rows), **high(rows)})


def fast_vlm() -> Family:
    # Its own eye, FastViT, is only in timm; another convolutional one has the same (images, channels, H, W) features.
    vision = {"model_type": "convnext", "hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "hidden_size": 32}
    model = build("fast_vlm", vision_config=vision, text_config=TEXT, image_token_index=IMAGE)
    return Family(model, fixed(16), stacked(32, 32))


def chameleon() -> Family:
    # An image's visual tokens are words of the vocabulary, looked up by what its quantizer makes of each patch.
    words = {f"IMGIMG{letter}Z": 30 + i for i, letter in enumerate("ABCDEFGH")}
    model = build(
        "chameleon", **TEXT, vocabulary_map={"<image>": IMAGE, **words},
        vq_config={
            "embed_dim": 8, "num_embeddings": 8, "latent_channels": 8, "resolution": 16, "base_channels": 32,
            "channel_multiplier": [1, 1, 1], "num_res_blocks": 1,
        },
    )  # fmt: skip
    return Family(model, wrapped(16), stacked(16, 16))


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
        numbers = [i for row in rows for i in row]
        shapes = torch.tensor([sizes[i % 3] for i in numbers])
        height, width = shapes.amax(0).tolist()
        images = [
            pad(pixels(i, 3, h, w), (0, width - w, 0, height - h))
            for i, (h, w) in zip(numbers, shapes.tolist(), strict=True)
        ]
        return {"pixel_values": torch.stack(images), "image_sizes": shapes}

    return Family(model, image_tokens, image_inputs)


def deepseek_ocr(model_type: str, tokens: tuple[int, int], **encoder) -> Family:
    """A small view of a whole page and, of some pages, two tiles; `tokens` visual ones for a page without and with."""
    config = {
        **TEXT, "num_key_value_heads": 4, "max_position_embeddings": 2048, "n_routed_experts": 4,
        "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 16,
        "mlp_layer_types": ["dense", "sparse"], "n_group": 1, "topk_group": 1,
    }  # fmt: skip
    model = build(
        model_type, text_config=config, image_token_id=IMAGE,
        vision_config={"sam_config": {**SAM, "downsample_channels": [8, 32]}, "encoder_config": encoder},
    )  # fmt: skip

    def image_inputs(rows: list[list[int]]) -> dict:
        numbers = [i for row in rows for i in row]
        tiled = [i for i in numbers if i % 3 == 1]
        counts = [2 if i in tiled else 0 for i in numbers]
        inputs = stacked(32, 32)(rows)
        if model_type == "unlimited_ocr":  # whose processor leaves these as lists
            inputs |= {"num_local_patches": counts, "patches_grid": [[max(1, count), 1] for count in counts]}
        else:
            inputs |= {"num_local_patches": torch.tensor(counts)}
        if tiled:
            inputs["pixel_values_local"] = torch.cat([pixels(20 + i, 2, 3, 32, 32) for i in tiled])
        return inputs

    return Family(model, lambda i: [IMAGE] * tokens[i % 3 == 1], image_inputs)


def deepseek_ocr2() -> Family:
    # Every view is 144 visual tokens, whatever its size.
    return deepseek_ocr(
        "deepseek_ocr2", (145, 433), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=512,
    )  # fmt: skip


def unlimited_ocr() -> Family:
    # 2 x 2 visual tokens a view, and a newline after every row of them.
    return deepseek_ocr("unlimited_ocr", (7, 17), **{**VISION, "image_size": 8})


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
        return {"pixel_values": torch.cat([pixels(i, 6 + i, 2, 2, 2, 3) for row in rows for i in row])}

    return Family(model, lambda i: [START, *[IMAGE] * (6 + i)], image_inputs)


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
        numbers = [i for row in rows for i in row]
        patches = [pixels(i, prod(grids[i % 3]), 4, 4, 3) for i in numbers]
        return {"pixel_values": torch.cat(patches), "image_grid_thw": torch.tensor([grids[i % 3] for i in numbers])}

    return Family(model, lambda i: [START, *[IMAGE] * prod(grids[i % 3])], image_inputs)


FAMILIES = {
    "paligemma": paligemma,
    "gemma3": gemma3,
    "gemma4": gemma4,
    "gemma4_unified": gemma4_unified,
    "llava": llava,
    "vipllava": vipllava,
    "video_llava": video_llava,
    "got_ocr2": got_ocr2,
    "pp_chart2table": pp_chart2table,
    "janus": janus,
    "deepseek_vl": deepseek_vl,
    "deepseek_vl_hybrid": deepseek_vl_hybrid,
    "fast_vlm": fast_vlm,
    "chameleon": chameleon,
    "emu3": emu3,
    "deepseek_ocr2": deepseek_ocr2,
    "unlimited_ocr": unlimited_ocr,
    "inkling_mm_model": inkling,
    "inkling2": inkling2,
}
KNOWN_FAILURES: dict[tuple[str, str], str] = {}
REFUSED = {
    "blip-2": "`generate` encodes the pixels itself and takes no encoded images",
    "instructblip": "`generate` encodes the pixels itself and takes no encoded images",
    "instructblipvideo": "videos only (no `get_image_features`), and `generate` encodes the pixels itself",
    "florence2": "encoder-decoder whose `forward` takes no encoded images",
    "t5gemma2": "encoder-decoder whose `forward` takes no encoded images",
    "gemma3n": "not tried: its image encoder comes from timm, which is not installed for the tests",
    "shieldgemma2": "a classifier; transformers itself renames its weights when it is saved as a language model",
    "fuyu": "no image encoder: `get_image_features` gives no `pooler_output` and does not tell images apart",
    "diffusion_gemma": "text diffusion model, whose base model has no `get_image_features`",
}
