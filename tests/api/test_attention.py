"""Masks and weights of multi-head attention, against PyTorch."""

from __future__ import annotations

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
