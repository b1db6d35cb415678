"""
Families whose processors cut large images into tiles, mostly beside a thumbnail of the whole: one after another
(InternVL), by image (LLaVA-NeXT), by row (Idefics3), apart from the thumbnails (Step 3, DeepSeek-OCR), as patches
(LFM2-VL, Molmo2), or side by side in one strip (MiniCPM-V).
"""

from functools import partial

import torch
from torch.nn.utils.rnn import pad_sequence

from .family import (
    CONVOLUTION,
    END,
    FRAMES,
    IMAGE,
    MIXED,
    PAD,
    PAIR,
    QWEN3_5_TEXT,
    SAM,
    SEPARATORS,
    SIGLIP,
    START,
    TEXT,
    VIDEO,
    VISION,
    VOCABULARY,
    WIDE,
    Family,
    build,
    clips,
    fixed,
    flat,
    nested,
    pixels,
    stacked,
)


# By turns: rows and columns of tiles that an image is cut into, height and width of an image that is not cut.
GRIDS = [(1, 2), (1, 1), (2, 2)]
# LLaVA-NeXT: the size of an image, its tiles with the thumbnail, and the grid of visual tokens without padding.
ANYRES = [((16, 32), 3, (4, 8)), ((32, 8), 3, (8, 2)), ((32, 32), 5, (8, 8))]
PINPOINTS = [[16, 32], [32, 16], [32, 32]]
TILE = [IMAGE] * 16  # placeholders of a tile, where 2 x 2 patches become one
EYE = {**VISION, "image_size": 32}  # sees a tile of 8 x 8 patches
NAVIT = [[(4, 8)], [(8, 8), (8, 4), (8, 4)], [(12, 4)]]  # heights and widths in patches of an image and its slices
NAVIT_CLIPS = [[(4, 8)] * 3, [(8, 8)] * 2]  # ... and of the frames of a video


def grid(i: int) -> tuple[int, int]:
    return GRIDS[i % len(GRIDS)]


def cuts(i: int) -> int:
    """The number of tiles, none of an image that is whole."""
    rows, columns = grid(i)
    return rows * columns if rows * columns > 1 else 0


def tiles(i: int) -> torch.Tensor:
    """The tiles of an image and the thumbnail, `(tiles, 3, H, W)`."""
    return pixels(i, cuts(i) + 1, 3, 32, 32)


def tiled(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """Layout of InternVL: the tiles of all images after one another, `(tiles, 3, H, W)`."""
    return {"pixel_values": torch.cat([tiles(i) for i in flat(rows)])}


def anyres(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """Layout of LLaVA-NeXT: `(images, tiles, 3, H, W)`, zeros where an image has fewer tiles, and their sizes."""
    images = [(i, *ANYRES[i % len(ANYRES)]) for i in flat(rows)]
    values = [pixels(i, number, 3, 16, 16) for i, _, number, _ in images]
    return {
        "pixel_values": pad_sequence(values, batch_first=True),
        "image_sizes": torch.tensor([size for _, size, _, _ in images]),
    }


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


def llava_next() -> Family:
    model = build(
        "llava_next", text_config=TEXT, vision_config=VISION, image_token_id=IMAGE, image_grid_pinpoints=PINPOINTS
    )
    return Family(model, anyres_tokens, anyres)


def llava_next_video() -> Family:
    model = build("llava_next_video", text_config=TEXT, vision_config=VISION, image_grid_pinpoints=PINPOINTS, **PAIR)
    return Family(model, anyres_tokens, anyres, fixed(FRAMES * 4, VIDEO), clips, video_frames=lambda i: FRAMES)


def llava_onevision() -> Family:
    # Without `batch_num_images`, so that what stands for an image does not depend on how many are in its row.
    model = build("llava_onevision", text_config=TEXT, vision_config=SIGLIP, image_grid_pinpoints=PINPOINTS, **PAIR)
    return Family(model, anyres_tokens, anyres, fixed(FRAMES * 4 + 1, VIDEO), clips, video_frames=lambda i: FRAMES)


def internvl(model_type: str = "internvl") -> Family:
    model = build(model_type, text_config=TEXT, vision_config=EYE, image_token_id=IMAGE)
    return Family(model, lambda i: [START, *TILE * len(tiles(i)), END], tiled)


def idefics3(model_type: str = "idefics3") -> Family:
    model = build(model_type, text_config=TEXT, vision_config=EYE, image_token_id=IMAGE, pad_token_id=PAD)
    return Family(model, split_tokens, partial(nested, image=tiles))


def aya_vision() -> Family:
    model = build("aya_vision", text_config=TEXT, vision_config={**SIGLIP, **EYE}, image_token_id=IMAGE)
    place, thumbnail, *_ = SEPARATORS
    return Family(model, lambda i: [START, *[place, *TILE] * cuts(i), thumbnail, *TILE, END], tiled)


def cohere2_vision() -> Family:
    fields = {"alignment_intermediate_size": 32, "image_token_id": IMAGE}
    model = build("cohere2_vision", text_config=TEXT, vision_config={**SIGLIP, **EYE}, **fields)
    return Family(model, lambda i: [START, *[*TILE, SEPARATORS[0]] * len(tiles(i)), END], tiled)


def ovis2() -> Family:
    row_end, column_end, thumbnail_end, _ = SEPARATORS
    model = build(
        "ovis2", text_config=TEXT, vision_config={**EYE, "vocab_size": 37, "hidden_stride": 2},
        vocab_size=VOCABULARY, hidden_size=32, image_token_id=IMAGE,
        visual_indicator_token_ids=[START, END, row_end, column_end, thumbnail_end],
    )  # fmt: skip

    def image_tokens(i: int) -> list[int]:
        rows, columns = grid(i)
        line = [*TILE, column_end] * columns
        lines = [*line[:-1], row_end] * rows
        return [START, *TILE, thumbnail_end, *(lines[:-1] if cuts(i) else []), END]

    return Family(model, image_tokens, tiled)


def lfm2_vl() -> Family:
    thumbnails = [(2, 6), (4, 4), (4, 2)]  # height and width in patches: the thumbnail keeps the picture's shape
    place, behind, *_ = SEPARATORS
    model = build(
        "lfm2_vl", text_config={**TEXT, **CONVOLUTION}, vision_config={**SIGLIP, "num_patches": 16},
        projector_hidden_size=32, image_token_id=IMAGE,
    )  # fmt: skip

    def image_tokens(i: int) -> list[int]:
        height, width = thumbnails[i % len(thumbnails)]
        lines = [*[place, *[IMAGE] * 4] * cuts(i), behind] if cuts(i) else []
        return [START, *lines, *[IMAGE] * (height * width // 4), END]

    def image_inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        images = flat(rows)
        shapes = [shape for i in images for shape in [*[(4, 4)] * cuts(i), thumbnails[i % len(thumbnails)]]]
        spatial_shapes = torch.tensor(shapes)
        mask = torch.arange(16) < spatial_shapes.prod(-1, keepdim=True)
        values = torch.cat([pixels(i, cuts(i) + 1, 16, 48) for i in images]) * mask[..., None]
        return {"pixel_values": values, "pixel_attention_mask": mask.long(), "spatial_shapes": spatial_shapes}

    return Family(model, image_tokens, image_inputs)


def granite_docling() -> Family:
    model = build(
        "granite_docling", image_token_id=IMAGE, pad_token_id=PAD,
        text_config={**TEXT, "embedding_multiplier": 1.0, "residual_multiplier": 1.0, "logits_scaling": 1.0},
        vision_config={**EYE, "out_hidden_size": 32, "scale_factor": 2, "deepstack_visual_indexes": [0]},
    )  # fmt: skip
    around, place, newline, _ = SEPARATORS

    def image_tokens(i: int) -> list[int]:
        return split_tokens(i) if cuts(i) else [around, place, *TILE, newline]

    def image_inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        layout = nested(rows, tiles)
        return layout | {"pixel_attention_mask": layout["pixel_attention_mask"].any((-1, -2))}  # a mask of the tiles

    return Family(model, image_tokens, image_inputs)


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

    def image_tokens(i: int) -> list[int]:
        rows, columns = grid(i)
        crops = [*[IMAGE] * 2 * columns, line_end] * 2 * rows
        return [small, *[IMAGE, IMAGE, line_end] * 2, END, START, *crops, END]

    def image_inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        images = flat(rows)
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
        videos = flat(rows)
        return {
            "pixel_values_videos": torch.cat([pixels(i, frames(i), 16, 48) for i in videos]),
            "video_token_pooling": windows(sum(map(frames, videos)), 1),
            "video_grids": torch.tensor([(frames(i), 2, 2) for i in videos]),
        }

    def types(input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mm_token_type_ids": torch.isin(input_ids, torch.tensor([IMAGE, START, END, *SEPARATORS])).long()}

    return Family(model, image_tokens, image_inputs, video_tokens, video_inputs, types)


def step3p7() -> Family:
    text = {
        **TEXT, **MIXED, "mlp_layer_types": ["dense", "sparse"], "n_routed_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 16, "share_expert_dim": 16,
    }  # fmt: skip
    vision = {**EYE, "mlp_ratio": 1.0}
    model = build("step3p7", text_config=text, vision_config=vision, image_token_id=IMAGE)
    place, place_end, newline, _ = SEPARATORS

    def image_tokens(i: int) -> list[int]:
        rows, columns = grid(i)
        lines = [*[place, IMAGE, place_end] * columns, newline] * rows if cuts(i) else []
        return [*lines, START, *[IMAGE] * 4, END]

    def image_inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        images = flat(rows)
        layout = {
            "pixel_values": torch.stack([pixels(i, 3, 32, 32) for i in images]),
            "num_local_patches": torch.tensor([cuts(i) for i in images]),
        }
        local = torch.cat([pixels(i, cuts(i), 3, 16, 16) for i in images])
        return layout | ({"pixel_values_local": local} if len(local) else {})

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
        numbers = flat(rows)
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


def navit(sizes: list[list[tuple]], suffix: str = ""):
    """Layout of MiniCPM-V: patches side by side in one strip, slices behind their images."""

    def inputs(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        numbers = flat(rows)
        targets = [size for i in numbers for size in sizes[i % len(sizes)]]
        strips = [pixels(i, 3, 4, 4 * sum(h * w for h, w in sizes[i % len(sizes)])) for i in numbers]
        return {f"pixel_values{suffix}": torch.cat(strips, -1)[None], f"target_sizes{suffix}": torch.tensor(targets)}

    return inputs


def minicpm(model_type: str, downsample_mode: str = "16x") -> Family:
    area, (slice_start, slice_end, newline, _) = int(downsample_mode[:-1]), SEPARATORS
    model = build(
        model_type, vision_config=VISION, text_config={**QWEN3_5_TEXT, "model_type": "qwen3_5_text"},
        insert_layer_id=0, image_size=16, downsample_mode=downsample_mode, image_start_id=START, image_end_id=END,
        slice_start_id=slice_start, slice_end_id=slice_end, newline_id=newline, **PAIR,
    )  # fmt: skip

    def image_tokens(i: int) -> list[int]:
        (height, width), *slices = NAVIT[i % len(NAVIT)]
        rows = [[slice_start, *[IMAGE] * (h * w // area), slice_end, newline] for h, w in slices]
        return [START, *[IMAGE] * (height * width // area), END, *sum(rows, [])[:-1]]

    def video_tokens(i: int) -> list[int]:
        return sum([[START, *[VIDEO] * (h * w // area), END] for h, w in NAVIT_CLIPS[i % len(NAVIT_CLIPS)]], [])

    return Family(model, image_tokens, navit(NAVIT), video_tokens, navit(NAVIT_CLIPS, "_videos"))


FAMILIES = {
    "aya_vision": aya_vision,
    "cohere2_vision": cohere2_vision,
    "deepseek_ocr2": deepseek_ocr2,
    "granite_docling": granite_docling,
    "idefics3": idefics3,
    "internvl": internvl,
    "lfm2_vl": lfm2_vl,
    "llava_next": llava_next,
    "llava_next_video": llava_next_video,
    "llava_onevision": llava_onevision,
    "minicpm_ocr": partial(minicpm, "minicpm_ocr", "4x"),
    "minicpmv4_6": partial(minicpm, "minicpmv4_6"),
    "minicpmv4_7": partial(minicpm, "minicpmv4_7"),
    "molmo2": molmo2,
    "ovis2": ovis2,
    "qianfan_ocr": partial(internvl, "qianfan_ocr"),
    "smolvlm": partial(idefics3, "smolvlm"),  # its processor makes images of the frames of a video,
    "step3p7": step3p7,
    "unlimited_ocr": unlimited_ocr,
}
