"""Linear maps, embeddings, similarity and attention."""

from __future__ import annotations

import math
from typing import Any

from graphc.core import TensorBase
from graphc.functions import linear_algebra, pointwise, reduction
from graphc.functions.promotion import as_operand, expanded
from graphc.functions.recording import record
from graphc.functions.shape import as_view
from graphc.ir.types import int64 as _int64
from graphc.nn.functional.dropouts import dropout
from graphc.tensor_class import Tensor

__all__ = ["cosine_similarity", "embedding", "linear", "normalize", "scaled_dot_product_attention"]


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias; weight is [out, in]."""
    if not isinstance(input, TensorBase):
        input = as_operand(input, "linear")
    if len(weight.tensor_type.shape) == 1:
        result = linear_algebra.matmul(input, weight)
        return result if bias is None else pointwise.add(result, bias)
    return record("linear", input, weight) if bias is None else record("linear", input, weight, bias)


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Rows of `weight` at integer positions; row `padding_idx` gets no gradient."""
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise NotImplementedError("embedding: max_norm, scale_grad_by_freq and sparse are not supported")
    if padding_idx is not None:
        rows: Any = weight.tensor_type.shape[0]
        if not -rows <= padding_idx < rows:
            raise AssertionError("Padding_idx must be within num_embeddings")
        padding_idx = padding_idx % rows
    return record("embedding", weight, as_operand(input, "embedding", "indices"), padding_idx=padding_idx)


def normalize(input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None) -> Tensor:
    """x over the larger of its p-norm along `dim` and eps."""
    size = pointwise.clamp(reduction.norm(input, p, dim, keepdim=True), min=eps)
    return pointwise.div(input, size)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x1 · x2 over the product of their norms along `dim`, each norm at least eps."""
    norms = [pointwise.clamp(reduction.norm(x, 2, dim, keepdim=True), min=eps) for x in (x1, x2)]
    return reduction.sum(pointwise.mul(pointwise.div(x1, norms[0]), pointwise.div(x2, norms[1])), dim)


def _repeated_heads(query: Tensor, x: Tensor) -> Tensor:
    """`x` with each head repeated, so that it has as many as `query`."""
    wanted, have = query.tensor_type.shape[-3], x.tensor_type.shape[-3]
    if not (isinstance(wanted, int) and isinstance(have, int)) or not have or wanted % have:
        raise RuntimeError(
            "scaled_dot_product_attention: expected the number of heads in query to be a multiple of that in "
            f"key and value, but got {wanted} and {have}"
        )
    if wanted == have:
        return x
    lead, rest = x.tensor_type.shape[:-2], x.tensor_type.shape[-2:]
    spread = expanded(as_view(x, (*lead, 1, *rest)), (*lead, wanted // have, *rest))
    return record("reshape", spread, shape=(*lead[:-1], wanted, *rest))


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(query @ keyᵀ · scale + mask) @ value over the last two dimensions.

    With `is_causal` position i sees positions 0 … i alone: keys and values after it are not looked at.

    With `enable_gqa` the heads (dimension -3) of key and value are repeated to the query's number.
    """
    if enable_gqa:
        key, value = (_repeated_heads(query, t) for t in (key, value))
    width: Any = query.tensor_type.shape[-1]
    factor = 1.0 / math.sqrt(width) if scale is None else scale
    scores = pointwise.mul(linear_algebra.product_of_rows(query, key, is_causal), factor)
    if is_causal:
        if attn_mask is not None:
            raise RuntimeError(
                "scaled_dot_product_attention: Explicit attn_mask should not be set when is_causal=True"
            )
        grid = scores.tensor_type.shape[-2:]
        i, j = (record("iota", shape=grid, axis=k, dtype=_int64) for k in (0, 1))
        attn_mask = record("ge", i, j)
    if attn_mask is not None:
        if attn_mask.tensor_type.dtype.name == "bool":
            scores = pointwise.chosen(attn_mask, scores, -math.inf)
        else:
            scores = pointwise.add(scores, attn_mask)
    weights = dropout(reduction.softmax(scores, -1), dropout_p)
    if is_causal:
        return linear_algebra.product_with_earlier(weights, value)
    return linear_algebra.matmul(weights, value)
