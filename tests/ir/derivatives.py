"""Derivatives and batching of every op, checked in float64 on the samples of its class; `main` prints what was checked.

Nothing here names an op. An op is exempt where its class says why (`no_derivative`), an operand where the
class's `no_gradient` does; of an op with `zero_derivative` only the zero is checked. There is no other exemption: a check that finds no sample to look at fails.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from graphc.backends.reference import interpreter
from graphc.ir.batching import batch_graph
from graphc.ir.builder import Builder
from graphc.ir.families import REGISTRY, GraphOp, Sample
from graphc.ir.graph import Graph, Value
from graphc.passes.differentiate import differentiate
from tests.closeness import assert_within
from tests.ir.one_op import full, graph_of, results_of
from tests.sampling import draw_sample

__all__ = ["CHECKS", "DIFFERENTIABLE", "INSTANCES", "MAPPED", "check_op", "exemptions", "main"]

DIFFERENTIABLE = [name for name in sorted(REGISTRY) if not REGISTRY[name].no_derivative]
MAPPED = [
    name
    for name in sorted(REGISTRY)
    if "structural" not in REGISTRY[name].traits and REGISTRY[name].operand_names
]
INSTANCES = 3
STEP = 1e-6
"""Of difference quotients; their error is about its square and 1e-16 divided by it."""
_SMOOTH = {"any": "normal", "special": "normal"}


def operand_name(cls: type[GraphOp], index: int) -> str:
    """The name of operand `index`; the last name of a variadic op stands for all further ones."""
    return cls.operand_names[min(index, len(cls.operand_names) - 1)]


def smooth_samples(cls: type[GraphOp]) -> Iterator[tuple[int, Sample]]:
    """Samples whose floats are all float64, drawn where functions are smooth, with their seeds."""
    for number, sample in enumerate(cls.samples()):
        smooth = replace(sample, draw=tuple(_SMOOTH.get(d, d) for d in sample.draw))
        floats = {t.dtype.name for t in (*sample.operands, *cls.infer(sample.operands, full(cls, sample)))}
        if "f64" in floats and not {"f16", "bf16", "f32"} & floats:
            yield number, smooth


class _Case:
    """One op on one sample, with random cotangents: what all checks of derivatives start from."""

    def __init__(self, cls: type[GraphOp], sample: Sample, seed: int) -> None:
        self.cls, self.sample = cls, sample
        self.arrays, self.rng = draw_sample(sample, seed), np.random.default_rng(seed + 1)
        self.graph, op = graph_of(cls, sample)
        self.roots = [r for r in op.results if r.type.dtype.is_floating_point]
        self.cotangents = [self.graph.add_input(r.type) for r in self.roots]
        self.drawn = [self.rng.standard_normal(r.type.sizes) for r in self.roots]
        self.wrt = [
            v
            for i, v in enumerate(op.operands)
            if v.type.dtype.is_floating_point and operand_name(cls, i) not in cls.no_gradient and v.type.numel
        ]

    @property
    def finite(self) -> bool:
        return all(bool(np.isfinite(a).all()) for a in results_of(self.cls, self.sample, self.arrays))

    def weighted(self, arrays: Sequence[Any]) -> float:
        """⟨c, f(x)⟩ by the reference."""
        results = [a for a in results_of(self.cls, self.sample, arrays) if a.dtype.kind == "f"]
        return sum(float((c * r).sum()) for c, r in zip(self.drawn, results, strict=True))

    def same(self, got: float, expected: float, rtol: float, atol: float, what: str) -> None:
        label = f"{self.cls.name} {what} of {self.sample}"
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol, err_msg=label)


def _quotient(
    function: Callable[[list[Any]], float], arrays: Sequence[Any], directions: dict[int, Any]
) -> float:
    """The derivative of `function` along `directions` by a central difference quotient."""
    sides = [
        function([a + sign * STEP * directions[i] if i in directions else a for i, a in enumerate(arrays)])
        for sign in (1, -1)
    ]
    return (sides[0] - sides[1]) / (2 * STEP)


def _gradients(
    graph: Graph, roots: list[Value], cotangents: list[Value], wrt: list[Value], arrays: Sequence[Any]
) -> list[Any]:
    """Cotangents of `wrt` as arrays, zeros where there is none, by the interpreter."""
    values = differentiate(graph, roots, cotangents, wrt)
    graph.outputs = [v for v in values if v is not None]
    graph.verify()
    given = iter(interpreter.run(graph, *arrays))
    return [np.zeros(w.type.sizes) if v is None else next(given) for v, w in zip(values, wrt, strict=True)]


def _all_zero(case: _Case) -> int:
    """Where the VJP gives symbolic zeros, which `check_gradient` holds against quotients, their derivatives are zeros."""
    return len(case.wrt) if case.cls.zero_derivative else 0


def check_gradient(cls: type[GraphOp], sample: Sample, seed: int) -> int:
    """⟨vjp(c), v⟩ is d⟨c, f(x + εv)⟩/dε for random c and v. The number of operands tried."""
    case = _Case(cls, sample, seed)
    if not case.finite:
        return 0
    found = _gradients(case.graph, case.roots, case.cotangents, case.wrt, [*case.arrays, *case.drawn])
    for value, gradient in zip(case.wrt, found, strict=True):
        direction = case.rng.standard_normal(value.type.sizes)
        expected = _quotient(case.weighted, case.arrays, {value.index: direction})
        case.same(
            float((gradient * direction).sum()), expected, 2e-5, 2e-6, f"gradient by operand {value.index}"
        )
    return len(case.wrt)


def check_second_gradient(cls: type[GraphOp], sample: Sample, seed: int) -> int:
    """The gradient of h = ⟨vjp(c), v⟩, by operands and by cotangents, is h's difference quotient.

    The number of values differentiated by.
    """
    case = _Case(cls, sample, seed)
    if not case.finite:
        return 0
    graph, given = case.graph, [*case.arrays, *case.drawn]
    b, total = Builder(graph), None
    for gradient in differentiate(graph, case.roots, case.cotangents, case.wrt):
        if gradient is not None:
            weight = b.constant(case.rng.standard_normal(gradient.type.sizes))
            term = b.sum(b.mul(gradient, weight), axes=tuple(range(gradient.type.rank)))
            total = term if total is None else b.add(total, term)
    if total is None:
        return _all_zero(case)
    graph.outputs = [total]
    first = graph.copy()

    def h(arrays: Sequence[Any]) -> float:
        return float(interpreter.run(first, *arrays)[0])

    if not np.isfinite(h(given)):
        return 0
    inputs = [*case.wrt, *(c for c in case.cotangents if c.type.numel)]
    one = b.full((), 1.0, total.type.dtype)
    found = _gradients(graph, [total], [one], inputs, given)
    for value, gradient in zip(inputs, found, strict=True):
        i = graph.inputs.index(value)
        direction = case.rng.standard_normal(given[i].shape)
        got = float((gradient * direction).sum())
        case.same(got, _quotient(h, given, {i: direction}), 1e-4, 1e-5, f"second gradient by input {i}")
    return len(inputs)


def check_forward(cls: type[GraphOp], sample: Sample, seed: int) -> int:
    """⟨Jv, u⟩ is ⟨v, Jᵀu⟩ and what difference quotients say. The number of operands with a tangent.

    The product with the Jacobian is the gradient by the cotangent of what the VJP gives, which is linear in it.
    """
    case = _Case(cls, sample, seed)
    if not case.finite:
        return 0
    graph, roots = case.graph, case.roots
    pulled = differentiate(graph, roots, case.cotangents, case.wrt)
    pairs = [(v, g) for v, g in zip(case.wrt, pulled, strict=True) if g is not None]
    if not pairs:
        return _all_zero(case)
    tangents = [graph.add_input(v.type) for v, _ in pairs]
    pushed = differentiate(graph, [g for _, g in pairs], tangents, case.cotangents)
    graph.outputs = [g for _, g in pairs] + [p for p in pushed if p is not None]
    graph.verify()
    v = [case.rng.standard_normal(t.type.sizes) for t in tangents]
    found = interpreter.run(graph, *case.arrays, *case.drawn, *v)
    backward = sum(float((g * t).sum()) for g, t in zip(found[: len(pairs)], v, strict=True))
    ahead = iter(found[len(pairs) :])
    forward = sum(
        float((next(ahead) * c).sum()) for c, p in zip(case.drawn, pushed, strict=True) if p is not None
    )
    case.same(forward, backward, 1e-9, 1e-9, "jvp against vjp")
    moved = {value.index: t for (value, _), t in zip(pairs, v, strict=True)}
    quotient = _quotient(case.weighted, case.arrays, moved)
    case.same(forward, quotient, 2e-5, 2e-6 * max(1, len(v)), "jvp against a difference quotient")
    return len(pairs)


def mapped_samples(cls: type[GraphOp]) -> list[tuple[int, Sample]]:
    """Samples of one dtype: what a float64 is to an op, a batch of it is too."""
    wanted = "f64" if "f64" in cls.dtypes else cls.dtypes[0]
    found = [
        (i, s)
        for i, s in enumerate(cls.samples())
        if wanted in {t.dtype.name for t in (*s.operands, *cls.infer(s.operands, full(cls, s)))}
    ]
    return found[:: max(1, len(found) // 8)]


def check_mapped(cls: type[GraphOp], sample: Sample, seed: int) -> int:
    """The graph for many instances gives for each what the reference gives. The number of ways to batch operands."""
    count = len(sample.operands)
    ways = [c for c in itertools.product((True, False), repeat=count) if any(c)] if count <= 3 else []
    ways = ways or [(True,) * count, (True, *(False,) * (count - 1)), (*(False,) * (count - 1), True)]
    if sample.make is not None:
        ways = [(True,) * count]  # the operands depend on one another
    if count > 1:
        # A random state of each instance's own is what `vmap(randomness="different")` makes by itself.
        ways = [w for w in ways if not any(operand_name(cls, i) == "state" and on for i, on in enumerate(w))]
    for batched in ways:
        _check_batched(cls, sample, seed, batched)
    return len(ways)


def _check_batched(cls: type[GraphOp], sample: Sample, seed: int, batched: Sequence[bool]) -> None:
    graph, _ = graph_of(cls, sample)
    drawn = [draw_sample(sample, seed + k) for k in range(INSTANCES)]
    fixed = drawn[0]
    given = [np.stack([d[i] for d in drawn]) if on else fixed[i] for i, on in enumerate(batched)]
    whole, have = batch_graph(graph, batched, INSTANCES)
    whole.verify()
    assert all(have)
    got = interpreter.run(whole, *given)
    for k in range(INSTANCES):
        own = [drawn[k][i] if on else fixed[i] for i, on in enumerate(batched)]
        with np.errstate(all="ignore"):
            magnitude = cls.magnitude(full(cls, sample), *own)
        magnitudes = magnitude if isinstance(magnitude, tuple) else (magnitude,) + (None,) * (len(got) - 1)
        for a, expected, m in zip(got, results_of(cls, sample, own), magnitudes, strict=True):
            label = f"{cls.name} {sample.operands} {sample.attrs} {list(batched)}"
            assert a[k].dtype == expected.dtype and a[k].shape == expected.shape, label
            assert_within(cls.ulp, a[k], expected, m, label)


Check = Callable[[type[GraphOp], Sample, int], int]
CHECKS: dict[str, tuple[Check, list[str]]] = {
    "gradient": (check_gradient, DIFFERENTIABLE),
    "double backward": (check_second_gradient, DIFFERENTIABLE),
    "jvp": (check_forward, DIFFERENTIABLE),
    "vmap": (check_mapped, MAPPED),
}
"""What is checked, and of which ops: `check_op(what, name)`."""


def check_op(what: str, name: str) -> int:
    """Runs one check on all samples of an op; gives how many things it looked at, at least one."""
    cls, (check, _) = REGISTRY[name], CHECKS[what]
    samples = mapped_samples(cls) if check is check_mapped else list(smooth_samples(cls))
    count = sum(check(cls, sample, number) for number, sample in samples)
    assert count, f"{name}: no sample to check {what} with; if there can be none, its class is to say why"
    return count


def exemptions() -> dict[str, str]:
    """Ops without derivative, and `op.operand` without one, with the reasons that their classes state."""
    found = {name: cls.no_derivative for name, cls in sorted(REGISTRY.items()) if cls.no_derivative}
    for name, cls in sorted(REGISTRY.items()):
        found |= {f"{name}.{operand}": reason for operand, reason in cls.no_gradient.items()}
    return found


def main() -> None:
    """Runs every check and prints how many ops pass it, then what is exempt and why."""
    print(f"{len(REGISTRY)} ops")
    for what, (_, names) in CHECKS.items():
        counts = [check_op(what, name) for name in names]
        print(f"{what}: {len(names)} ops checked, {sum(counts)} checks, at least {min(counts)} an op")
    for name, cls in sorted(REGISTRY.items()):
        if cls.zero_derivative:
            print(f"  {name}: the gradient is zero, and so is what follows from it: {cls.zero_derivative}")
    print("exempt from gradient, double backward and jvp:")
    for name, reason in exemptions().items():
        print(f"  {name}: {reason}")
    rest = [name for name in sorted(REGISTRY) if name not in MAPPED]
    print(f"exempt from vmap, having no operands or being expanded before: {', '.join(rest)}")


if __name__ == "__main__":
    main()
