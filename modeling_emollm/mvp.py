"""Multi-perspective Visual Projection (MVP): visual tokens refined by what four perspectives see in them.

The name is the paper's (arXiv 2406.16442); the design is ours, since the paper's text gives no equations.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_emollm import EmoLLMConfig


NUM_SLOTS = 8
NUM_NEIGHBOURS = 3


class MVPHolistic(nn.Module):
    """The mood of a whole picture: attention pooling beside the channels' mean and standard deviation, which carry
    light, colour and texture (as style statistics do in adaptive instance normalisation, arXiv 1703.06868)."""

    def __init__(self, size: int):
        super().__init__()
        self.score = nn.Linear(size, 1, bias=False)  # softmax knows no common bias
        self.mix = nn.Linear(size, size)

    def forward(self, tokens: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`tokens` `(I, N, D)` and `valid` `(I, N)` to the memory `(I, 3, D)` and the pooling weights `(I, N)`."""
        weights = self.score(tokens).squeeze(-1).masked_fill(~valid, float("-inf")).softmax(-1)
        share = valid.to(tokens.dtype) / valid.sum(-1, keepdim=True)
        mean, pooled = (torch.stack([share, weights], dim=1) @ tokens).unbind(1)
        variance = (share[:, None] @ (tokens - mean[:, None]).square()).squeeze(1)
        # The square root has no finite slope at zero, which a picture of one token reaches.
        memory = torch.stack([pooled, mean, (variance + 1e-6).sqrt()], dim=1)
        return memory + self.mix(F.gelu(memory)), weights


class MVPContent(nn.Module):
    """Who and what is in a picture: learned queries (slots) that compete for its visual tokens, as in slot attention
    (arXiv 2006.15055), with a single round."""

    def __init__(self, size: int):
        super().__init__()
        self.slots = nn.Parameter(torch.empty(NUM_SLOTS, size))
        self.key = nn.Linear(size, size, bias=False)
        self.value = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size)
        self.mix = nn.Linear(size, size)

    def forward(self, tokens: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`tokens` `(I, N, D)` and `valid` `(I, N)` to the slots `(I, K, D)` and their attention `(I, K, N)`."""
        scores = self.slots * tokens.shape[-1] ** -0.5 @ self.key(tokens).transpose(1, 2)
        # Softmax over the slots, not over the tokens: what one slot takes, the others do not have.
        attention = scores.softmax(1) * valid[:, None]
        attention = attention / (attention.sum(-1, keepdim=True) + 1e-6)
        slots = self.norm(attention @ self.value(tokens) + self.slots)
        return slots + self.mix(F.gelu(slots)), attention


class MVPRelation(nn.Module):
    """How the contents relate: message passing over a sparse graph, each slot listening to its top few others."""

    def __init__(self, size: int):
        super().__init__()
        self.query_key = nn.Linear(size, 2 * size, bias=False)
        self.receiver = nn.Linear(size, size)
        self.sender = nn.Linear(size, size, bias=False)
        self.mix = nn.Linear(size, size)

    def forward(self, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`slots` `(I, K, D)` to the memory `(I, K, D)` and the edges' weights `(I, K, K)`, receiver first."""
        query, key = self.query_key(slots).chunk(2, dim=-1)
        scores = query @ key.transpose(1, 2) * slots.shape[-1] ** -0.5
        itself = torch.eye(slots.shape[1], dtype=torch.bool, device=slots.device)
        scores = scores.masked_fill(itself, float("-inf"))
        threshold = scores.topk(NUM_NEIGHBOURS, dim=-1).values[..., -1:]
        edges = scores.masked_fill(scores < threshold, float("-inf")).softmax(-1)
        messages = F.gelu(self.receiver(slots)[:, :, None] + self.sender(slots)[:, None])  # (I, K, K, D)
        return self.mix((edges[:, :, None] @ messages).squeeze(2)), edges


class MVPTemporal(nn.Module):
    """How it unfolds: every slot looks at itself in the other images of its sample and keeps the difference, so that
    one image alone, or images that are all alike, give exactly nothing."""

    def __init__(self, size: int):
        super().__init__()
        self.query_key = nn.Linear(size, 2 * size, bias=False)
        self.value = nn.Linear(size, size, bias=False)

    def forward(self, slots: torch.Tensor, sample: torch.Tensor, position: torch.Tensor):
        """
        `slots` `(I, K, D)`, `sample` `(I,)` the sample that an image belongs to, and `position` `(I,)` its place in
        it, to the memory `(I, K, D)` and the attention `(I, K, I)` over all images (zero outside the sample).
        """
        timed = slots + _sinusoids(position, slots.shape[-1]).to(slots.dtype)[:, None]
        query, key = self.query_key(timed).transpose(0, 1).chunk(2, dim=-1)  # (K, I, D)
        scores = query @ key.transpose(1, 2) * slots.shape[-1] ** -0.5
        scores = scores.masked_fill(sample[:, None] != sample[None, :], float("-inf"))
        attention = scores.softmax(-1)  # (K, I, I)
        value = self.value(slots).transpose(0, 1)
        return (attention @ value - value).transpose(0, 1), attention.transpose(0, 1)


def _sinusoids(position: torch.Tensor, size: int) -> torch.Tensor:
    """Positions `(I,)` to sinusoids `(I, D)` (arXiv 1706.03762, section 3.5)."""
    frequency = torch.exp(-torch.arange(0, size, 2, device=position.device) * (9.21 / size))  # 9.21 = ln 10000
    angle = position[:, None].float() * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class MVPReadBack(nn.Module):
    """Cross-attention by which every visual token reads the perspectives, one memory each, side by side in one call
    of scaled dot-product attention. No biases: an empty memory reads as zero."""

    def __init__(self, size: int, num_perspectives: int):
        super().__init__()
        self.num_heads = size // math.gcd(size, 64)  # of 64 channels, or of fewer where 64 does not divide the size
        self.query = nn.Linear(size, num_perspectives * size, bias=False)
        self.key_value = nn.Parameter(torch.empty(num_perspectives, size, 2 * size))
        self.out = nn.Linear(num_perspectives * size, size, bias=False)

    def forward(self, tokens: torch.Tensor, memories: list[torch.Tensor], gates: torch.Tensor) -> torch.Tensor:
        """
        `tokens` `(I, N, D)`, P `memories` `(I, M, D)`, of at most `NUM_SLOTS` entries each, and `gates` `(P,)`, to
        what was read `(I, N, D)`.
        """
        lengths = [memory.shape[1] for memory in memories]
        memory = torch.stack([F.pad(m, (0, 0, 0, NUM_SLOTS - n)) for m, n in zip(memories, lengths, strict=True)], 1)
        key_value = memory @ self.key_value  # (I, P, M, 2 D)
        key_value = key_value.unflatten(-1, (2, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        key, value = key_value.flatten(2, 3)  # each (I, P * heads, M, D / heads)
        query = self.query(tokens).unflatten(-1, (len(memories) * self.num_heads, -1)).transpose(1, 2)
        filled = torch.ones(len(memories), self.num_heads, 1, NUM_SLOTS, dtype=torch.bool, device=tokens.device)
        for i, length in enumerate(lengths):
            filled[i, ..., length:] = False
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=filled.flatten(0, 1))
        read = read.transpose(1, 2).unflatten(2, (len(memories), -1)) * gates[:, None, None]
        return self.out(read.flatten(2))


class MultiPerspectiveVisualProjection(GradientCheckpointingLayer):
    """
    Refines the projected visual features of a foundation model. All perspectives work in a bottleneck of `mvp_size`
    channels; each visual token reads every perspective back, weighed by a gate `tanh(α)` a perspective, sees what it
    read beside itself through a GELU, and the result is added to it by `up`. That starts at zero: an upgraded model
    begins as its foundation, bit for bit. (Closed gates would do so as well, but then no other weight has a slope
    until they open, which they hardly do: benchmarks/RESULTS.md.) Without perspectives it is a plain bottleneck
    adapter (arXiv 1902.00751), with which MVP is compared.

    With `visual_tokens_per_image=K` the perspectives see all visual tokens of an image, but only the K averages on a
    square grid over it read them back and go on to the language model.
    """

    def __init__(self, config: EmoLLMConfig):
        super().__init__()
        size, hidden_size = config.mvp_size, config.get_text_config().hidden_size
        self.perspectives = list(config.perspectives)
        self.visual_tokens_per_image = config.visual_tokens_per_image
        self.norm = nn.LayerNorm(hidden_size)
        self.down = nn.Linear(hidden_size, size)
        if "holistic" in self.perspectives:
            self.holistic = MVPHolistic(size)
        # Relations and change are seen between contents, so the slots exist for any of the three.
        if {"content", "relation", "temporal"} & set(self.perspectives):
            self.content = MVPContent(size)
        if "relation" in self.perspectives:
            self.relation = MVPRelation(size)
        if "temporal" in self.perspectives:
            self.temporal = MVPTemporal(size)
        if self.perspectives:
            self.read_back = MVPReadBack(size, len(self.perspectives))
        self.gates = nn.Parameter(torch.empty(len(self.perspectives)))
        self.up = nn.Linear(size, hidden_size, bias=False)

    def forward(
        self,
        features: torch.Tensor,
        index: torch.Tensor,
        valid: torch.Tensor,
        sample: torch.Tensor,
        position: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """
        Args:
            features (`torch.Tensor` of shape `(V, hidden_size)`): projected features of all images, one after another.
            index (`torch.LongTensor` of shape `(V,)`): where each stands in `valid`, flattened.
            valid (`torch.BoolTensor` of shape `(I, N)`): which places of I padded images are no padding.
            sample (`torch.LongTensor` of shape `(I,)`): the row of the batch that an image belongs to.
            position (`torch.LongTensor` of shape `(I,)`): its place among the images of that row.

        Returns:
            The refined features, `(V, hidden_size)` or `(I * visual_tokens_per_image, hidden_size)`, and what the
            perspectives looked at: `holistic` `(I, N)`, `content` `(I, K, N)`, `relation` `(I, K, K)`, `temporal`
            `(I, K, I)` and `gates` `(P,)`.
        """
        packed = self._down(features)
        tokens = packed.new_zeros(valid.numel(), packed.shape[-1]).index_copy(0, index, packed).view(*valid.shape, -1)
        memories, seen = {}, {}
        if "holistic" in self.perspectives:
            memories["holistic"], seen["holistic"] = self.holistic(tokens, valid)
        if {"content", "relation", "temporal"} & set(self.perspectives):
            memories["content"], seen["content"] = self.content(tokens, valid)
        if "relation" in self.perspectives:
            memories["relation"], seen["relation"] = self.relation(memories["content"])
        if "temporal" in self.perspectives:
            memories["temporal"], seen["temporal"] = self.temporal(memories["content"], sample, position)
        if self.visual_tokens_per_image is not None:
            features = _pool(features.view(*valid.shape, -1), self.visual_tokens_per_image).flatten(0, 1)
            tokens = self._down(features).view(len(valid), self.visual_tokens_per_image, -1)
        seen["gates"] = self.gates.tanh()
        if self.perspectives:
            tokens = tokens + self.read_back(tokens, [memories[name] for name in self.perspectives], seen["gates"])
        tokens = tokens.flatten(0, 1)
        if self.visual_tokens_per_image is None:
            tokens = tokens[index]
        return features + self.up(F.gelu(tokens)).to(features.dtype), seen

    def _down(self, features: torch.Tensor) -> torch.Tensor:
        # MVP may be trained in a wider type than a foundation of low precision has.
        return self.down(self.norm(features.to(self.norm.weight.dtype)))


def _pool(features: torch.Tensor, number: int) -> torch.Tensor:
    """`(I, N, H)` on a square grid to `(I, number, H)`, averages on a coarser square grid."""
    side = round(features.shape[1] ** 0.5)  # math.isqrt would break the graph of torch.compile
    grid = features.transpose(1, 2).unflatten(-1, (side, side))
    return F.adaptive_avg_pool2d(grid, math.isqrt(number)).flatten(2).transpose(1, 2)


def init_mvp_weights(module: nn.Module) -> None:
    """Initialises one module of MVP; linear maps keep the scale of what they read (LeCun), but for `up`, which is
    zero; gates are open."""
    if isinstance(module, nn.Linear):
        init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        init.ones_(module.weight)
        init.zeros_(module.bias)
    elif isinstance(module, MVPContent):
        init.normal_(module.slots)
    elif isinstance(module, MVPReadBack):
        init.normal_(module.key_value, std=module.key_value.shape[1] ** -0.5)
    elif isinstance(module, MultiPerspectiveVisualProjection):
        init.ones_(module.gates)
        init.zeros_(module.up.weight)


__all__ = ["MultiPerspectiveVisualProjection", "init_mvp_weights"]
