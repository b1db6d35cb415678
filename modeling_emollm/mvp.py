"""Multi-perspective Visual Projection (MVP): visual tokens refined by what four perspectives see in them.

The name is the paper's (arXiv 2406.16442); the design is ours, since the paper's text gives no equations.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_emollm import EmoLLMConfig


NUM_SLOTS = 8
NUM_NEIGHBOURS = 3


class MVPReadBack(nn.Module):
    """Cross-attention by which every visual token reads one perspective. No biases: an empty memory reads as zero."""

    def __init__(self, size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(size, size, bias=False)
        self.key_value = nn.Linear(size, 2 * size, bias=False)
        self.out = nn.Linear(size, size, bias=False)

    def forward(self, tokens: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """`tokens` of shape `(I, N, D)` and `memory` of shape `(I, M, D)` to `(I, N, D)`."""
        query = self.query(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (I, heads, N, D / heads)
        key_value = self.key_value(memory).unflatten(-1, (2, self.num_heads, -1))
        key, value = key_value.permute(2, 0, 3, 1, 4)  # each (I, heads, M, D / heads)
        read = F.scaled_dot_product_attention(query, key, value)
        return self.out(read.transpose(1, 2).flatten(2))


class MVPHolistic(nn.Module):
    """The mood of a whole picture: attention pooling beside the channels' mean and standard deviation, which carry
    light, colour and texture (as style statistics do in adaptive instance normalisation, arXiv 1703.06868)."""

    def __init__(self, size: int):
        super().__init__()
        self.score = nn.Linear(size, 1)
        self.mix = nn.Linear(size, size)

    def forward(self, tokens: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`tokens` `(I, N, D)` and `valid` `(I, N)` to the memory `(I, 3, D)` and the pooling weights `(I, N)`."""
        weights = self.score(tokens).squeeze(-1).masked_fill(~valid, float("-inf")).softmax(-1)
        share = valid.to(tokens.dtype) / valid.sum(-1, keepdim=True)
        mean = torch.einsum("in,ind->id", share, tokens)
        variance = torch.einsum("in,ind->id", share, (tokens - mean[:, None]).square())
        pooled = torch.einsum("in,ind->id", weights, tokens)
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
        scores = torch.einsum("kd,ind->ikn", self.slots, self.key(tokens)) * tokens.shape[-1] ** -0.5
        # Softmax over the slots, not over the tokens: what one slot takes, the others do not have.
        attention = scores.softmax(1) * valid[:, None]
        attention = attention / (attention.sum(-1, keepdim=True) + 1e-6)
        slots = self.norm(torch.einsum("ikn,ind->ikd", attention, self.value(tokens)) + self.slots)
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
        return self.mix(torch.einsum("ikl,ikld->ikd", edges, messages)), edges


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


class MultiPerspectiveVisualProjection(nn.Module):
    """
    Refines the projected visual features of a foundation model. All perspectives work in a bottleneck of `mvp_size`
    channels; each visual token reads every perspective back, and what it read is added to it with a gate `tanh(α)` a
    perspective, α = 0 at the start: an upgraded model begins as its foundation, bit for bit.
    """

    def __init__(self, config: EmoLLMConfig):
        super().__init__()
        size, hidden_size = config.mvp_size, config.get_text_config().hidden_size
        self.perspectives = list(config.perspectives)
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
        num_heads = max(1, size // 64)
        self.read_back = nn.ModuleDict({name: MVPReadBack(size, num_heads) for name in self.perspectives})
        self.gates = nn.Parameter(torch.empty(len(self.perspectives)))
        self.up = nn.Linear(size, hidden_size, bias=False)

    def forward(
        self, features: torch.Tensor, valid: torch.Tensor, sample: torch.Tensor, position: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """
        Args:
            features (`torch.Tensor` of shape `(I, N, hidden_size)`): projected features of all images, padded.
            valid (`torch.BoolTensor` of shape `(I, N)`): which of them are no padding.
            sample (`torch.LongTensor` of shape `(I,)`): the row of the batch that an image belongs to.
            position (`torch.LongTensor` of shape `(I,)`): its place among the images of that row.

        Returns:
            The refined features `(I, N, hidden_size)`, and what the perspectives looked at: `holistic` `(I, N)`,
            `content` `(I, K, N)`, `relation` `(I, K, K)`, `temporal` `(I, K, I)` and `gates` `(P,)`.
        """
        tokens = self.down(self.norm(features))
        memories, seen = {}, {}
        if hasattr(self, "holistic"):
            memories["holistic"], seen["holistic"] = self.holistic(tokens, valid)
        if hasattr(self, "content"):
            memories["content"], seen["content"] = self.content(tokens, valid)
        if hasattr(self, "relation"):
            memories["relation"], seen["relation"] = self.relation(memories["content"])
        if hasattr(self, "temporal"):
            memories["temporal"], seen["temporal"] = self.temporal(memories["content"], sample, position)
        seen["gates"] = self.gates.tanh()
        gated = zip(seen["gates"], self.perspectives, strict=True)
        read = sum(gate * self.read_back[name](tokens, memories[name]) for gate, name in gated)
        return features + self.up(read), seen


def init_mvp_weights(module: nn.Module) -> None:
    """Initialises one module of MVP; linear maps keep the scale of what they read (LeCun), gates are closed."""
    if isinstance(module, nn.Linear):
        init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        init.ones_(module.weight)
        init.zeros_(module.bias)
    elif isinstance(module, MVPContent):
        init.normal_(module.slots)
    elif isinstance(module, MultiPerspectiveVisualProjection):
        init.zeros_(module.gates)


__all__ = ["MultiPerspectiveVisualProjection", "init_mvp_weights"]
