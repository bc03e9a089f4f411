"""Multi-head attention."""

from __future__ import annotations

import math
from typing import Any

from graphc.devices import check_device
from graphc.functions import creation, linear_algebra, pointwise, reduction, shape
from graphc.ir.types import DType
from graphc.nn import functional as F
from graphc.nn import init
from graphc.nn.modules.linear import Linear
from graphc.nn.modules.module import Module
from graphc.nn.parameter import Parameter
from graphc.tensor_class import Tensor

__all__ = ["MultiheadAttention"]


class NonDynamicallyQuantizableLinear(Linear):
    """The output projection: an ordinary `Linear` under the name that PyTorch prints."""


class MultiheadAttention(Module):
    """Attention of `num_heads` heads over projections of query, key and value, and a projection of the result.

    Sequences are [length, batch, features], or [batch, length, features] with `batch_first`, or without
    a batch. `kdim` and `vdim` are the features of key and value where they are not `embed_dim`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(
                f"embed_dim and num_heads must be greater than 0, got embed_dim={embed_dim} and "
                f"num_heads={num_heads} instead"
            )
        if add_bias_kv or add_zero_attn:
            raise NotImplementedError("MultiheadAttention: add_bias_kv and add_zero_attn are not supported")
        check_device(device)
        super().__init__()
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.batch_first = batch_first
        self.head_dim = embed_dim // num_heads
        if self.head_dim * num_heads != embed_dim:
            raise AssertionError("embed_dim must be divisible by num_heads")
        joint = self.kdim == embed_dim and self.vdim == embed_dim
        widths = {"q_proj_weight": embed_dim, "k_proj_weight": self.kdim, "v_proj_weight": self.vdim}
        for name, width in widths.items():
            made = None if joint else Parameter(creation.empty(embed_dim, width, dtype=dtype))
            self.register_parameter(name, made)
        self.register_parameter(
            "in_proj_weight",
            Parameter(creation.empty(3 * embed_dim, embed_dim, dtype=dtype)) if joint else None,
        )
        self.register_parameter(
            "in_proj_bias", Parameter(creation.empty(3 * embed_dim, dtype=dtype)) if bias else None
        )
        self.out_proj = NonDynamicallyQuantizableLinear(embed_dim, embed_dim, bias=bias, dtype=dtype)
        self.bias_k = self.bias_v = None
        self.add_zero_attn = add_zero_attn
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """Draws the input projections again; biases become 0."""
        for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            weight = getattr(self, name)
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The result and, with `need_weights`, the attention weights, averaged over heads on request.

        Where a mask is bool, True means that a position is not attended to; other masks are added. `is_causal`
        says that `attn_mask` is causal, and needs it.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        batched = query.dim() == 3
        if not batched:
            query, key, value = (shape.unsqueeze(t, 0) for t in (query, key, value))
        elif not self.batch_first:
            query, key, value = (shape.transpose(t, 0, 1) for t in (query, key, value))
        q, k, v = (self._heads(t, n) for n, t in enumerate((query, key, value)))
        mask = self._mask(q, k, attn_mask, key_padding_mask)
        share = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            scores = linear_algebra.product_of_rows(pointwise.mul(q, 1.0 / math.sqrt(self.head_dim)), k)
            scores = scores if mask is None else pointwise.add(scores, mask)
            each = F.dropout(reduction.softmax(scores, -1), share)
            heads = linear_algebra.matmul(each, v)
            weights = reduction.mean(each, 1) if average_attn_weights else each
        else:
            heads = F.scaled_dot_product_attention(q, k, v, mask, share)
        batch, _, length, _ = heads.tensor_type.shape
        joined = shape.reshape(shape.transpose(heads, 1, 2), (batch, length, self.embed_dim))
        result = self.out_proj(joined)
        if not batched:
            return shape.squeeze(result, 0), None if weights is None else shape.squeeze(weights, 0)
        return result if self.batch_first else shape.transpose(result, 0, 1), weights

    def _heads(self, x: Tensor, number: int) -> Tensor:
        """Query (0), key (1) or value (2), projected, as [batch, head, length, features of a head]."""
        part = slice(number * self.embed_dim, (number + 1) * self.embed_dim)
        if self.in_proj_weight is not None:
            weight = self.in_proj_weight[part]
        else:
            weight = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)[number]
        bias = None if self.in_proj_bias is None else self.in_proj_bias[part]
        y = F.linear(x, weight, bias)
        batch, length, _ = y.tensor_type.shape
        return shape.transpose(shape.reshape(y, (batch, length, self.num_heads, self.head_dim)), 1, 2)

    def _mask(self, q: Tensor, k: Tensor, attn_mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
        """Both masks as one that is added to the scores [batch, head, target, source]."""
        batch, heads, target, _ = q.tensor_type.shape
        source = k.tensor_type.shape[2]
        found: Tensor | None = None
        if attn_mask is not None:
            found = _additive(attn_mask, q)
            if attn_mask.dim() == 3:
                found = shape.reshape(found, (batch, heads, target, source))
        if padding is not None:
            row = shape.reshape(_additive(padding, q), (batch, 1, 1, source))
            found = row if found is None else pointwise.add(found, row)
        return found


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """A bool mask as 0 and -inf; others as they are."""
    if mask.tensor_type.dtype.name != "bool":
        return mask
    return pointwise.masked_fill(creation.zeros(mask.tensor_type.shape, dtype=like.dtype), mask, -math.inf)
