"""Attention against PyTorch: masks, weights of several heads, and what a causal one does not look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import graphc

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("kind", ["bool", "float", "a head each"])
def test_masks_of_multi_head_attention(kind: str, need_weights: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 8)).astype(np.float32)
    shape = (4, 5, 5) if kind == "a head each" else (5, 5)
    mask = rng.standard_normal(shape).astype(np.float32)
    given = np.triu(np.ones((5, 5), bool), 1) if kind == "bool" else mask
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    ours = graphc.nn.MultiheadAttention(8, 2, batch_first=True)
    ours.load_state_dict({k: graphc.tensor(v.numpy()) for k, v in theirs.state_dict().items()})
    found = []
    for t, module in ((torch, theirs), (graphc, ours)):
        y, m = t.tensor(x), t.tensor(given)
        out, weights = module(y, y, y, attn_mask=m, need_weights=need_weights, average_attn_weights=False)
        found.append([v.detach().numpy() for v in (out, weights) if v is not None])
    assert len(found[0]) == len(found[1]) == 1 + need_weights
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1.3e-6, atol=1e-5)


def attention(
    t: Any, arrays: Sequence[np.ndarray], given: np.ndarray | None, causal: bool
) -> list[np.ndarray]:
    """The result and the gradients of its weighted sum in a package."""
    q, k, v = (t.tensor(x, requires_grad=True) for x in arrays[:3])
    mask = None if given is None else t.tensor(given)
    out = t.nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
    out.backward(t.tensor(arrays[3]))
    return [x.detach().numpy() for x in (out, q.grad, k.grad, v.grad)]


def operands(rows: int, columns: int, width: int, values: int) -> list[np.ndarray]:
    rng = np.random.default_rng(rows)
    shapes = (rows, width), (columns, width), (columns, values), (rows, values)
    return [rng.standard_normal((2, 3, *shape)).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("kind", ["none", "causal", "bool", "float"])
@pytest.mark.parametrize(
    "sizes",
    [
        (3, 3, 4, 4),
        (17, 17, 8, 1),
        (40, 23, 5, 7),
        (23, 40, 33, 20),
        (1, 5, 4, 4),
        (5, 1, 4, 4),
        (330, 300, 16, 64),
    ],
    ids=str,
)
def test_attention_of_ragged_sizes(sizes: tuple[int, int, int, int], kind: str) -> None:
    arrays = operands(*sizes)
    mask = np.random.default_rng(1).standard_normal(sizes[:2]).astype(np.float32)
    given = {"bool": mask > -1, "float": mask}.get(kind)
    if given is not None and kind == "bool":
        given[:, 0] = True
    expected, got = (attention(t, arrays, given, kind == "causal") for t in (torch, graphc))
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=2e-5)


def test_rows_that_see_nothing() -> None:
    arrays = operands(4, 6, 5, 3)
    given = np.ones((4, 6), bool)
    given[2] = False
    got = attention(graphc, arrays, given, False)[0]
    assert np.isnan(got[..., 2, :]).all() and np.isfinite(got[..., [0, 1, 3], :]).all()


def test_causal_attention_never_looks_ahead() -> None:
    arrays = operands(70, 70, 16, 16)
    changed = [x.copy() for x in arrays]
    for x in changed[1:3]:
        x[..., 50:, :] = np.nan
    got = attention(graphc, arrays, None, True)[0], attention(graphc, changed, None, True)[0]
    np.testing.assert_array_equal(got[1][..., :50, :], got[0][..., :50, :])
    assert np.isnan(got[1][..., 50:, :]).all()


def test_scaled_operands_of_causal_attention() -> None:
    """What could be computed inside of a product is not, where the product leaves terms out."""
    arrays = operands(40, 40, 8, 8)
    f = graphc.nn.functional.scaled_dot_product_attention

    def doubled(q: Any, k: Any, v: Any) -> Any:
        return f(q + 1, k * 2, v - 3, is_causal=True)

    got = graphc.compile(doubled)(*map(graphc.tensor, arrays[:3])).numpy()
    q, k, v = (torch.tensor(x) for x in arrays[:3])
    expected = torch.nn.functional.scaled_dot_product_attention(q + 1, k * 2, v - 3, is_causal=True)
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=2e-5)
