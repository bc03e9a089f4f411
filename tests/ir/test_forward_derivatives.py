"""Forward derivatives of every op: the product with the Jacobian that is made of the VJP, in float64.

It is the gradient by the cotangent of what the VJP gives, which is linear in it. ⟨Jv, u⟩ must be ⟨v, Jᵀu⟩, and what
difference quotients say. Nothing here names an op.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphc.backends.reference import interpreter
from graphc.ir.families import REGISTRY, GraphOp, Sample
from graphc.passes.differentiate import differentiate
from tests.ir.test_conformance import DIFFERENTIABLE, SMOOTH, full, graph_of, operand_name, results_of
from tests.sampling import draw_sample


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_against_the_vjp(name: str) -> None:
    cls = REGISTRY[name]
    checked = 0
    for number, sample in enumerate(cls.samples()):
        floats = {t.dtype.name for t in (*sample.operands, *cls.infer(sample.operands, full(cls, sample)))}
        if "f64" in floats and not {"f16", "bf16", "f32"} & floats:
            checked += check(cls, replace(sample, draw=tuple(SMOOTH.get(d, d) for d in sample.draw)), number)
    assert checked, f"{name} has no float64 sample with a derivative"


def check(cls: type[GraphOp], sample: Sample, seed: int) -> bool:
    arrays, rng = draw_sample(sample, seed), np.random.default_rng(seed + 1)
    if not all(np.isfinite(a).all() for a in results_of(cls, sample, arrays)):
        return False
    graph, op = graph_of(cls, sample)
    roots = [r for r in op.results if r.type.dtype.is_floating_point]
    cotangents = [graph.add_input(r.type) for r in roots]
    wrt = [
        v
        for i, v in enumerate(op.operands)
        if v.type.dtype.is_floating_point and operand_name(cls, i) not in cls.no_gradient and v.type.numel
    ]
    pulled = differentiate(graph, roots, cotangents, wrt)
    pairs = [(v, g) for v, g in zip(wrt, pulled, strict=True) if g is not None]
    tangents = [graph.add_input(v.type) for v, _ in pairs]
    pushed = differentiate(graph, [g for _, g in pairs], tangents, cotangents)
    graph.outputs = [g for _, g in pairs] + [p for p in pushed if p is not None]
    graph.verify()
    u = [rng.standard_normal(r.type.sizes) for r in roots]
    v = [rng.standard_normal(t.type.sizes) for t in tangents]
    found = interpreter.run(graph, *arrays, *u, *v)
    backward = sum(float((g * t).sum()) for g, t in zip(found[: len(pairs)], v, strict=True))
    ahead = iter(found[len(pairs) :])
    forward = sum(float((next(ahead) * c).sum()) for c, p in zip(u, pushed, strict=True) if p is not None)
    np.testing.assert_allclose(forward, backward, rtol=1e-9, atol=1e-9, err_msg=f"{cls.name} {sample}")
    moved = {value.index: t for (value, _), t in zip(pairs, v, strict=True)}
    sides = []
    for sign in (1, -1):
        there = [a + sign * 1e-6 * moved[i] if i in moved else a for i, a in enumerate(arrays)]
        results = [a for a in results_of(cls, sample, there) if a.dtype.kind == "f"]
        sides.append(sum(float((c * r).sum()) for c, r in zip(u, results, strict=True)))
    quotient = (sides[0] - sides[1]) / 2e-6
    np.testing.assert_allclose(
        forward, quotient, rtol=2e-5, atol=2e-6 * max(1, len(v)), err_msg=f"{cls.name} {sample}"
    )
    return True
