"""Families whose images all have one size, `(images, 3, H, W)`, and one number of visual tokens."""

from functools import partial

import torch

from .family import (
    END,
    FRAMES,
    IMAGE,
    MIXED,
    PAIR,
    SAM,
    SIGLIP,
    START,
    TEXT,
    VIDEO,
    VISION,
    Family,
    build,
    clips,
    fixed,
    stacked,
    wrapped,
)


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

    # The class token of the eye is left out of images, but kept in the frames of videos.
    videos = fixed(FRAMES * 17, VIDEO)
    return Family(model, fixed(16), stacked(16, 16), videos, clips, video_frames=lambda i: FRAMES)


def paligemma() -> Family:
    model = build(
        "paligemma", vision_config=SIGLIP, text_config=TEXT, image_token_index=IMAGE,
        projection_dim=32, hidden_size=32,
    )  # fmt: skip

    def no_suffix(input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Token type 1 is an answer to be learned, 0 everything before it, images too."""
        return {"token_type_ids": torch.zeros_like(input_ids)}

    return Family(model, fixed(16), stacked(16, 16), text_inputs=no_suffix)


def gemma3() -> Family:
    model = build(
        "gemma3", vision_config=SIGLIP, text_config={**TEXT, **MIXED},
        mm_tokens_per_image=4, image_token_index=IMAGE, boi_token_index=START, eoi_token_index=END,
    )  # fmt: skip
    # transformers fills this matrix with zeros, for weights to be loaded over: nothing would be seen through it.
    model.model.multi_modal_projector.mm_input_projection_weight.data.normal_(std=0.1)
    return Family(model, wrapped(4), stacked(16, 16))


def got_ocr2(model_type: str = "got_ocr2") -> Family:
    model = build(model_type, vision_config=SAM, text_config=TEXT, image_token_index=IMAGE)
    return Family(model, wrapped(4), stacked(32, 32))


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


def perception_lm() -> Family:
    # Its Perception Encoder comes from timm, which need not be installed; CLIP's stands in for it.
    vision = {"model_type": "clip_vision_model", **VISION, "model_args": {"embed_dim": 32}}
    model = build("perception_lm", text_config=TEXT, vision_config=vision, **PAIR)

    def image_inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        return {"pixel_values": clips(rows)["pixel_values_videos"]}  # as many tiles for every image of a batch

    return Family(model, fixed(FRAMES * 16), image_inputs, fixed(FRAMES * 16, VIDEO), clips)


FAMILIES = {
    "chameleon": chameleon,
    "deepseek_vl": deepseek_vl,
    "deepseek_vl_hybrid": deepseek_vl_hybrid,
    "fast_vlm": fast_vlm,
    "gemma3": gemma3,
    "got_ocr2": got_ocr2,
    "janus": janus,
    "llava": llava,
    "paligemma": paligemma,
    "perception_lm": perception_lm,
    "pp_chart2table": partial(got_ocr2, "pp_chart2table"),
    "video_llava": video_llava,
    "vipllava": vipllava,
}
