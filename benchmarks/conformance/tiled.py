"""Families whose processors cut images into tiles, nest images by row, or pad them and give their sizes."""

from collections.abc import Callable

import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from . import free_size
from .family import END, IMAGE, PAD, START, TEXT, VIDEO, VISION, VOCABULARY, Family, build, fixed, pixels


# By turns: rows and columns of tiles that an image is cut into, height and width of an image that is not cut.
GRIDS = [(1, 2), (1, 1), (2, 2)]
SIZES = [(8, 16), (16, 16), (16, 8)]
# LLaVA-NeXT: the size of an image, its tiles with the thumbnail, and the grid of visual tokens without padding.
ANYRES = [((16, 32), 3, (4, 8)), ((32, 8), 3, (8, 2)), ((32, 32), 5, (8, 8))]
PINPOINTS = [[16, 32], [32, 16], [32, 32]]
FRAMES = 3
TILE = [IMAGE] * 16  # placeholders of a tile, where 2 x 2 patches become one
SEPARATORS = (94, 95, 96, 97)  # what may stand between tiles
EYE = {**VISION, "image_size": 32}  # sees a tile of 8 x 8 patches
SIGLIP = {**VISION, "vision_use_head": False}
PIXTRAL = {**VISION, "head_dim": 8}
# The usual 0.02 suits thousands of channels; with 32, little is left of a picture behind some connectors.
WIDE = {"initializer_range": 0.1}
CONVOLUTION = {"layer_types": ["conv", "full_attention"]}


def grid(i: int) -> tuple[int, int]:
    return GRIDS[i % len(GRIDS)]


def cuts(i: int) -> int:
    """The number of tiles, none of an image that is whole."""
    rows, columns = grid(i)
    return rows * columns if rows * columns > 1 else 0


def tiles(i: int) -> torch.Tensor:
    """The tiles of an image and the thumbnail, `(tiles, 3, H, W)`."""
    return pixels(i, cuts(i) + 1, 3, 32, 32)


def padded(i: int) -> torch.Tensor:
    """An image of another size, `(1, 3, H, W)`, with zeros on the right and below."""
    height, width = SIZES[i % len(SIZES)]
    return pad(pixels(i, 1, 3, height, width), (0, 16 - width, 0, 16 - height))


def tiled(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """Layout of InternVL: the tiles of all images after one another, `(tiles, 3, H, W)`."""
    return {"pixel_values": torch.cat([tiles(i) for row in rows for i in row])}


def nested(rows: list[list[int]], image: Callable[[int], torch.Tensor] = tiles) -> dict[str, torch.Tensor]:
    """Layout of Idefics: `(rows, tiles, 3, H, W)`, zeros where a row has fewer tiles, and a mask of the pixels."""
    empty = image(0)[:0]
    samples = [torch.cat([empty, *map(image, row)]) for row in rows]
    values = pad_sequence(samples, batch_first=True)
    return {"pixel_values": values, "pixel_attention_mask": (values != 0).any(2)}


def sized(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """Layout of Pixtral: `(images, 3, H, W)`, padded to the largest, and their sizes."""
    sizes = [SIZES[i % len(SIZES)] for row in rows for i in row]
    return {
        "pixel_values": torch.cat([padded(i) for row in rows for i in row]),
        "image_sizes": torch.tensor(sizes),
    }


def anyres(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """Layout of LLaVA-NeXT: `(images, tiles, 3, H, W)`, zeros where an image has fewer tiles, and their sizes."""
    images = [(i, *ANYRES[i % len(ANYRES)]) for row in rows for i in row]
    values = [pixels(i, number, 3, 16, 16) for i, _, number, _ in images]
    return {
        "pixel_values": pad_sequence(values, batch_first=True),
        "image_sizes": torch.tensor([size for _, size, _, _ in images]),
    }


def clips(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """Layout of LLaVA-NeXT-Video: `(videos, frames, 3, H, W)`."""
    return {"pixel_values_videos": torch.stack([pixels(i, FRAMES, 3, 16, 16) for row in rows for i in row])}


def anyres_tokens(i: int) -> list[int]:
    """LLaVA-NeXT: a thumbnail, then the tiles put together, with a newline after every row of them."""
    height, width = ANYRES[i % len(ANYRES)][2]
    return [IMAGE] * (16 + height * (width + 1))


def split_tokens(i: int) -> list[int]:
    """Idefics3: tiles behind their place in the grid, a row a line, then the thumbnail."""
    around, place, newline, thumbnail = SEPARATORS
    rows, columns = grid(i)
    lines = [*[around, place, *TILE] * columns, newline] * rows + [newline] if cuts(i) else []
    return [*lines, around, thumbnail, *TILE, around]


def pixtral_tokens(i: int) -> list[int]:
    """Pixtral: a break after every row of 2 x 2 patches, an end after the last."""
    height, width = SIZES[i % len(SIZES)]
    return [*[*[IMAGE] * (width // 8), SEPARATORS[0]] * (height // 8)][:-1] + [END]


def llava_next() -> Family:
    model = build(
        "llava_next", text_config=TEXT, vision_config=VISION, image_token_id=IMAGE, image_grid_pinpoints=PINPOINTS
    )
    return Family(model, anyres_tokens, anyres)


def llava_next_video() -> Family:
    model = build(
        "llava_next_video", text_config=TEXT, vision_config=VISION, image_grid_pinpoints=PINPOINTS, **free_size.PAIR
    )
    return Family(model, anyres_tokens, anyres, fixed(FRAMES * 4, VIDEO), clips, video_frames=lambda i: FRAMES)


def llava_onevision() -> Family:
    # Without `batch_num_images`, so that what stands for an image does not depend on how many are in its row.
    model = build(
        "llava_onevision", text_config=TEXT, vision_config=SIGLIP, image_grid_pinpoints=PINPOINTS, **free_size.PAIR
    )
    return Family(model, anyres_tokens, anyres, fixed(FRAMES * 4 + 1, VIDEO), clips, video_frames=lambda i: FRAMES)


def internvl(model_type: str = "internvl") -> Family:
    model = build(model_type, text_config=TEXT, vision_config=EYE, image_token_id=IMAGE)
    return Family(model, lambda i: [START, *TILE * len(tiles(i)), END], tiled)


def qianfan_ocr() -> Family:
    return internvl("qianfan_ocr")


def idefics3(model_type: str = "idefics3") -> Family:
    model = build(model_type, text_config=TEXT, vision_config=EYE, image_token_id=IMAGE, pad_token_id=PAD)
    return Family(model, split_tokens, nested)


def smolvlm() -> Family:
    return idefics3("smolvlm")  # its processor makes images of the frames of a video


def idefics2() -> Family:
    resampler = {
        "hidden_size": 32, "resampler_n_latents": 9, "resampler_depth": 1, "resampler_n_heads": 4,
        "resampler_head_dim": 8, "num_key_value_heads": 2, **WIDE,
    }  # fmt: skip
    vision = {**VISION, **WIDE}
    model = build("idefics2", text_config=TEXT, vision_config=vision, perceiver_config=resampler, image_token_id=IMAGE)
    # transformers fills these with ones, for weights to be loaded over: all visual tokens of an image would be equal.
    model.model.connector.perceiver_resampler.latents.data.normal_()
    return Family(model, fixed(9, before=(START,), after=(START,)), lambda rows: nested(rows, padded))


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


def aya_vision() -> Family:
    model = build("aya_vision", text_config=TEXT, vision_config={**SIGLIP, **EYE}, image_token_id=IMAGE)
    place, thumbnail, *_ = SEPARATORS
    return Family(model, lambda i: [START, *[place, *TILE] * cuts(i), thumbnail, *TILE, END], tiled)


def cohere2_vision() -> Family:
    fields = {"alignment_intermediate_size": 32, "image_token_id": IMAGE}
    model = build("cohere2_vision", text_config=TEXT, vision_config={**SIGLIP, **EYE}, **fields)
    return Family(model, lambda i: [START, *[*TILE, SEPARATORS[0]] * len(tiles(i)), END], tiled)


def perception_lm() -> Family:
    # Its Perception Encoder comes from timm, which need not be installed; CLIP's stands in for it.
    vision = {"model_type": "clip_vision_model", **VISION, "model_args": {"embed_dim": 32}}
    model = build("perception_lm", text_config=TEXT, vision_config=vision, **free_size.PAIR)

    def inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        return {"pixel_values": clips(rows)["pixel_values_videos"]}  # as many tiles for every image of a batch

    return Family(model, fixed(FRAMES * 16), inputs, fixed(FRAMES * 16, VIDEO), clips)


def ovis2() -> Family:
    row_end, column_end, thumbnail_end, _ = SEPARATORS
    model = build(
        "ovis2", text_config=TEXT, vision_config={**EYE, "vocab_size": 37, "hidden_stride": 2},
        vocab_size=VOCABULARY, hidden_size=32, image_token_id=IMAGE,
        visual_indicator_token_ids=[START, END, row_end, column_end, thumbnail_end],
    )  # fmt: skip

    def tokens(i: int) -> list[int]:
        rows, columns = grid(i)
        line = [*TILE, column_end] * columns
        lines = [*line[:-1], row_end] * rows
        return [START, *TILE, thumbnail_end, *(lines[:-1] if cuts(i) else []), END]

    return Family(model, tokens, tiled)


def lfm2_vl() -> Family:
    thumbnails = [(2, 6), (4, 4), (4, 2)]  # height and width in patches: the thumbnail keeps the picture's shape
    place, behind, *_ = SEPARATORS
    model = build(
        "lfm2_vl", text_config={**TEXT, **CONVOLUTION}, vision_config={**SIGLIP, "num_patches": 16},
        projector_hidden_size=32, image_token_id=IMAGE,
    )  # fmt: skip

    def tokens(i: int) -> list[int]:
        height, width = thumbnails[i % len(thumbnails)]
        lines = [*[place, *[IMAGE] * 4] * cuts(i), behind] if cuts(i) else []
        return [START, *lines, *[IMAGE] * (height * width // 4), END]

    def inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        images = [i for row in rows for i in row]
        shapes = [shape for i in images for shape in [*[(4, 4)] * cuts(i), thumbnails[i % len(thumbnails)]]]
        spatial_shapes = torch.tensor(shapes)
        mask = torch.arange(16) < spatial_shapes.prod(-1, keepdim=True)
        values = torch.cat([pixels(i, cuts(i) + 1, 16, 48) for i in images]) * mask[..., None]
        return {"pixel_values": values, "pixel_attention_mask": mask.long(), "spatial_shapes": spatial_shapes}

    return Family(model, tokens, inputs)


def lfm3_vl() -> Family:
    model = build(
        "lfm3_vl", text_config={**TEXT, **CONVOLUTION}, projector_hidden_size=32, **free_size.SEEN,
        vision_config={**VISION, **CONVOLUTION, "num_key_value_heads": 4},
    )  # fmt: skip
    return free_size.packed_family(model, free_size.timed(VIDEO))


def aria() -> Family:
    model = build(
        "aria", text_config={**TEXT, "moe_num_experts": 4}, vision_config={**VISION, "model_type": "idefics3_vision"},
        image_token_id=IMAGE, projector_patch_to_query_dict={16: 9},
    )  # fmt: skip

    def inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        values = torch.cat([padded(i) for row in rows for i in row])
        return {"pixel_values": values, "pixel_mask": (values != 0).any(1)}

    return Family(model, fixed(9), inputs)


def granite_docling() -> Family:
    model = build(
        "granite_docling", image_token_id=IMAGE, pad_token_id=PAD,
        text_config={**TEXT, "embedding_multiplier": 1.0, "residual_multiplier": 1.0, "logits_scaling": 1.0},
        vision_config={**EYE, "out_hidden_size": 32, "scale_factor": 2, "deepstack_visual_indexes": [0]},
    )  # fmt: skip
    around, place, newline, _ = SEPARATORS

    def tokens(i: int) -> list[int]:
        return split_tokens(i) if cuts(i) else [around, place, *TILE, newline]

    def inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        layout = nested(rows)
        return layout | {"pixel_attention_mask": layout["pixel_attention_mask"].any((-1, -2))}  # a mask of the tiles

    return Family(model, tokens, inputs)


def windows(rows: int, columns: int) -> torch.Tensor:
    """Molmo2: patches of a grid of crops by windows of 2 x 2, `(windows, 4)`."""
    patches = torch.arange(16 * rows * columns).view(rows, columns, 4, 4).transpose(1, 2)
    return patches.reshape(2 * rows, 2, 2 * columns, 2).transpose(1, 2).reshape(-1, 4)


def molmo2() -> Family:
    small, line_end, frame_start, frame_end = SEPARATORS
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8}
    adapter = {**heads, **WIDE, "vision_feature_layer": [1, 0], "hidden_size": 32, "intermediate_size": 32}
    model = build(
        "molmo2", vision_config={**VISION, **heads, **WIDE, "image_size": [16, 16]},
        adapter_config={**adapter, "text_hidden_size": 32}, text_config={**TEXT, "additional_vocab_size": 0},
        image_token_id=IMAGE, image_start_token_id=START, image_end_token_id=END, low_res_image_start_token_id=small,
        frame_start_token_id=frame_start, frame_end_token_id=frame_end,
    )  # fmt: skip

    def tokens(i: int) -> list[int]:
        rows, columns = grid(i)
        crops = [*[IMAGE] * 2 * columns, line_end] * 2 * rows
        return [small, *[IMAGE, IMAGE, line_end] * 2, END, START, *crops, END]

    def inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        images = [i for row in rows for i in row]
        crops = [1 + grid(i)[0] * grid(i)[1] for i in images]  # the whole image comes first
        first = [16 * sum(crops[:n]) for n in range(len(crops))]
        pooling = [torch.cat([windows(1, 1), windows(*grid(i)) + 16]) + n for i, n in zip(images, first, strict=True)]
        return {
            "pixel_values": torch.cat([pixels(i, number, 16, 48) for i, number in zip(images, crops, strict=True)]),
            "image_token_pooling": torch.cat(pooling),
            "image_grids": torch.tensor([(2, 2, 2 * grid(i)[0], 2 * grid(i)[1]) for i in images]),
            "image_num_crops": torch.tensor(crops),
        }

    def frames(i: int) -> int:
        return FRAMES - i % 2

    def video_tokens(i: int) -> list[int]:
        return [token for t in range(frames(i)) for token in (30 + t, frame_start, *[IMAGE] * 4, frame_end)]

    def video_inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        videos = [i for row in rows for i in row]
        return {
            "pixel_values_videos": torch.cat([pixels(i, frames(i), 16, 48) for i in videos]),
            "video_token_pooling": windows(sum(map(frames, videos)), 1),
            "video_grids": torch.tensor([(frames(i), 2, 2) for i in videos]),
        }

    def types(input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mm_token_type_ids": torch.isin(input_ids, torch.tensor([IMAGE, START, END, *SEPARATORS])).long()}

    return Family(model, tokens, inputs, video_tokens, video_inputs, types)


def step3p7() -> Family:
    text = {
        **TEXT, "mlp_layer_types": ["dense", "sparse"], "n_routed_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 16, "share_expert_dim": 16, "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 16,
    }  # fmt: skip
    vision = {**VISION, "image_size": 32, "mlp_ratio": 1.0}
    model = build("step3p7", text_config=text, vision_config=vision, image_token_id=IMAGE)
    place, place_end, newline, _ = SEPARATORS

    def tokens(i: int) -> list[int]:
        rows, columns = grid(i)
        lines = [*[place, IMAGE, place_end] * columns, newline] * rows if cuts(i) else []
        return [*lines, START, *[IMAGE] * 4, END]

    def inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        images = [i for row in rows for i in row]
        layout = {
            "pixel_values": torch.stack([pixels(i, 3, 32, 32) for i in images]),
            "num_local_patches": torch.tensor([cuts(i) for i in images]),
        }
        local = torch.cat([pixels(i, cuts(i), 3, 16, 16) for i in images])
        return layout | ({"pixel_values_local": local} if len(local) else {})

    return Family(model, tokens, inputs)


def hyperclovax_vision_v2() -> Family:
    model = build("hyperclovax_vision_v2", text_config=TEXT, vision_config=free_size.WINDOWS, **free_size.PAIR)
    return free_size.packed_family(model, free_size.merged(free_size.CLIPS, VIDEO))


def nemotron_h_omni() -> Family:
    text = {
        **TEXT, "layers_block_type": ["linear_attention", "full_attention", "moe"], "num_hidden_layers": 3,
        "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 1, "chunk_size": 16,
        "n_routed_experts": 4, "moe_intermediate_size": 16, "moe_shared_expert_intermediate_size": 16,
    }  # fmt: skip
    model = build(
        "nemotron_h_omni", text_config=text, vision_hidden_size=32, projector_hidden_size=32, **free_size.PAIR,
        vision_config={**VISION, "max_img_size": 64, "video_temporal_patch_size": 2},
    )  # fmt: skip

    def inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        layout = free_size.packed(free_size.GRIDS, free_size.STILL)(rows)
        return {"pixel_values": layout["pixel_values"], "image_grid_hw": layout["image_grid_thw"][:, 1:]}

    def frames(i: int) -> int:
        return 4 - 2 * (i % 2)  # a visual token sees two

    def video_tokens(i: int) -> list[int]:  # its processor marks videos like images
        return [token for t in range(frames(i) // 2) for token in (30 + t, START, *[IMAGE] * 4, END)]

    def video_inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        return {"pixel_values_videos": torch.cat([pixels(i, frames(i), 3, 16, 16) for row in rows for i in row])}

    return Family(model, free_size.merged(free_size.GRIDS, IMAGE), inputs, video_tokens, video_inputs)


KNOWN_FAILURES = {
    ("nemotron_h_omni", "video"): "transformers' own `forward` fails on its videos (`torch.cat` of a tensor)",
    ("perception_lm", "video"): "it has no `get_video_features`; its videos are encoded as before, unseen by MVP",
}
REFUSED = {
    "granite4_vision": "its visual features go into several layers of the language model, none into `pooler_output`",
    "llama4": "its `get_image_features` stops before the projector, which runs inside `forward`",
}
FAMILIES = {
    "aria": aria,
    "aya_vision": aya_vision,
    "cohere2_vision": cohere2_vision,
    "granite_docling": granite_docling,
    "hyperclovax_vision_v2": hyperclovax_vision_v2,
    "idefics2": idefics2,
    "idefics3": idefics3,
    "internvl": internvl,
    "lfm2_vl": lfm2_vl,
    "lfm3_vl": lfm3_vl,
    "lighton_ocr": lighton_ocr,
    "llava_next": llava_next,
    "llava_next_video": llava_next_video,
    "llava_onevision": llava_onevision,
    "mistral3": mistral3,
    "mistral_large4": mistral_large4,
    "molmo2": molmo2,
    "nemotron_h_omni": nemotron_h_omni,
    "ovis2": ovis2,
    "perception_lm": perception_lm,
    "qianfan_ocr": qianfan_ocr,
    "smolvlm": smolvlm,
    "step3p7": step3p7,
}
