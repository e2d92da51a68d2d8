"""The demo model's network for training: Qwen3's architecture with transformers' weight names.

Transformers' own class would read a jump in the positions as the border of a packed sequence,
and ``train`` teaches long counts through such jumps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

_ROPE_THETA: Final = 1_000_000.0
_NORM_EPS: Final = 1e-6

_BLOCK: Final = 256
"""Queries that attend at once. On a CPU torch's fused attention has a far slower backward."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the network. The head size is one that every attention backend of vLLM takes."""

    vocabulary: int
    max_length: int
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 4
    head_size: int = 64
    feed_forward: int = 384

    def to_config(self, *, eos_token_id: int, pad_token_id: int) -> dict[str, Any]:
        """The contents of config.json."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.feed_forward,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_size,
            "hidden_act": "silu",
            "rms_norm_eps": _NORM_EPS,
            "rope_theta": _ROPE_THETA,
            "max_position_embeddings": self.max_length,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "tie_word_embeddings": True,
            "use_cache": True,
            "eos_token_id": eos_token_id,
            "pad_token_id": pad_token_id,
            "dtype": "bfloat16",
        }


class _Norm(nn.Module):  # type: ignore[misc]
    def __init__(self, size: int, start: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), start))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), _NORM_EPS)


class _Attention(nn.Module):  # type: ignore[misc]
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        size = shape.head_size
        self.q_proj = nn.Linear(shape.hidden, shape.heads * size, bias=False)
        self.k_proj = nn.Linear(shape.hidden, shape.kv_heads * size, bias=False)
        self.v_proj = nn.Linear(shape.hidden, shape.kv_heads * size, bias=False)
        self.o_proj = nn.Linear(shape.heads * size, shape.hidden, bias=False)
        # Attention that starts a little sharp finds its first patterns sooner.
        self.q_norm = _Norm(size, start=1.5)
        self.k_norm = _Norm(size, start=1.5)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        size = self.shape.head_size
        q = self.q_norm(self.q_proj(x).view(batch, length, -1, size)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(batch, length, -1, size)).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, -1, size).transpose(1, 2)
        groups = self.shape.heads // self.shape.kv_heads
        k = _rotate(k, cos, sin).repeat_interleave(groups, dim=1)
        v = v.repeat_interleave(groups, dim=1)
        y = _attend(_rotate(q, cos, sin), k, v)
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))
        return out


class _FeedForward(nn.Module):  # type: ignore[misc]
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.feed_forward, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.feed_forward, bias=False)
        self.down_proj = nn.Linear(shape.feed_forward, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class _Layer(nn.Module):  # type: ignore[misc]
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = _Norm(shape.hidden)
        self.self_attn = _Attention(shape)
        self.post_attention_layernorm = _Norm(shape.hidden)
        self.mlp = _FeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class _Trunk(nn.Module):  # type: ignore[misc]
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))
        self.norm = _Norm(shape.hidden)


class Network(nn.Module):  # type: ignore[misc]
    """A causal language model with tied embeddings.

    Args:
        shape: Sizes of the network.
        features: For each token id its features, as of ``tokenizer.shared_features``.
    """

    def __init__(self, shape: Shape, features: Sequence[list[int]]) -> None:
        super().__init__()
        self.model = _Trunk(shape)
        # Without these, each of the thousand numbers would have to learn alone which one follows
        # it and which one equals it, and each word twice what it means.
        count = 1 + max(feature for token in features for feature in token)
        self.shared = nn.Parameter(torch.empty(count, shape.hidden))
        width = max(len(token) for token in features)
        # One row more, of zeros, fills up the tokens that have fewer features.
        rows = [token + [count] * (width - len(token)) for token in features]
        self.register_buffer("features", torch.tensor(rows), persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                # Layers that write to the residual stream start smaller, as in GPT-2.
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                scale = 1.0 / (2 * shape.layers) ** 0.5 if writes else 1.0
                fan_in = 2500 if "embed" in name else weight.shape[1]
                nn.init.normal_(weight, std=scale * fan_in**-0.5)
        nn.init.normal_(self.shared, std=0.02)
        power = torch.arange(0, shape.head_size, 2).float() / shape.head_size
        angle = torch.arange(shape.max_length).float()[:, None] * _ROPE_THETA**-power
        self.register_buffer("cos", torch.cat((angle, angle), -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angle, angle), -1).sin(), persistent=False)

    def embedding(self) -> Tensor:
        """The embedding of every token, ``(vocabulary, hidden)``, shared features included."""
        shared = torch.cat((self.shared, self.shared.new_zeros(1, self.shared.shape[1])))
        table: Tensor = self.model.embed_tokens.weight + functional.embedding(self.get_buffer("features"), shared).sum(
            1
        )
        return table

    def exported(self) -> dict[str, Tensor]:
        """The weights as Qwen3ForCausalLM names them, in bfloat16."""
        weights = {name: weight for name, weight in self.state_dict().items() if name != "shared"}
        weights["model.embed_tokens.weight"] = self.embedding()
        return {name: weight.detach().bfloat16().contiguous() for name, weight in weights.items()}

    def forward(self, tokens: Tensor, positions: Tensor, wanted: Tensor) -> Tensor:
        """Logits where they are wanted.

        Args:
            tokens: Token ids, ``(batch, length)``, padded on the right.
            positions: Position of each token, ``(batch, length)``; may jump.
            wanted: Boolean mask, ``(batch, length)``, of the tokens whose successor matters.

        Returns:
            Logits in float32, ``(wanted.sum(), vocabulary)``.
        """
        cos = self.get_buffer("cos")[positions][:, None]
        sin = self.get_buffer("sin")[positions][:, None]
        if torch.is_autocast_enabled("cpu"):
            cos, sin = cos.bfloat16(), sin.bfloat16()
        embedding = self.embedding()
        x = functional.embedding(tokens, embedding)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        x = self.model.norm(x[wanted])
        return functional.linear(x, embedding).float()


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    length, scale = q.shape[2], q.shape[3] ** -0.5
    blocks = []
    for start in range(0, length, _BLOCK):
        end = min(start + _BLOCK, length)
        scores = (q[:, :, start:end] @ k[:, :, :end].transpose(2, 3)) * scale
        future = torch.ones(end - start, end, dtype=torch.bool).triu(start + 1)
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        blocks.append(weights.to(v.dtype) @ v[:, :, :end])
    return torch.cat(blocks, dim=2)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
