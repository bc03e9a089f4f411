"""What a user's function computes, with the derivative that the user gives: both are regions.

It is what an `autograd.Function` or a hook becomes where everything is one graph, in loops, branches and `vmap`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graphc.ir.builder import Builder
from graphc.ir.families import FLOATS, Attrs, Composite, Sample, Types
from graphc.ir.graph import Graph, Value, clone_ops
from graphc.ir.types import DTYPES, TensorType

__all__ = ["CustomGradient"]


class CustomGradient(Composite):
    """The results of the first region, which takes the operands; they have the types in `outputs`.

    The second region is the derivative. It takes the first `arguments` operands, all results, a cotangent for each of
    the results in `roots`, then the other operands; it returns gradients of the operands in `wrt`. No other operand gets
    one. Raises RuntimeError where the regions do not fit.
    """

    name = "custom_gradient"
    operand_names = ("values",)
    variadic = True
    region_count = 2
    dtypes = FLOATS
    traits = frozenset({"own_derivative"})
    attributes = {"outputs": ..., "arguments": ..., "roots": ..., "wrt": ...}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        return tuple(attrs["outputs"])

    @classmethod
    def check_regions(cls, types: Types, attrs: Attrs, regions: Sequence[Graph]) -> None:
        forward, backward = regions
        n, outputs = attrs["arguments"], list(attrs["outputs"])
        taken = [*types[:n], *outputs, *(outputs[i] for i in attrs["roots"]), *types[n:]]
        for what, region, inputs, results in (
            ("its first region", forward, list(types), outputs),
            ("its second region", backward, taken, [types[i] for i in attrs["wrt"]]),
        ):
            found = [v.type for v in region.inputs], [v.type for v in region.outputs]
            if found != (inputs, results):
                raise RuntimeError(
                    f"{cls.name}: {what} takes and returns {found[0]} and {found[1]}, expected {inputs} and {results}"
                )

    def decompose(self, b: Any) -> Sequence[Value]:
        return _inlined(b, self.regions[0], self.operands)

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        n = self.attrs["arguments"]
        given = [
            b.zeros_like(self.results[i]) if cotangents[i] is None else cotangents[i]
            for i in self.attrs["roots"]
        ]
        found = _inlined(b, self.regions[1], [*self.operands[:n], *self.results, *given, *self.operands[n:]])
        gradients: list[Value | None] = [None] * len(self.operands)
        for i, gradient in zip(self.attrs["wrt"], found, strict=True):
            gradients[i] = gradient
        return gradients

    def batch(self, b: Any, operands: Sequence[Value], batched: Sequence[bool]) -> Sequence[Value]:
        values = [b.whole(v, on) for v, on in zip(operands, batched, strict=True)]
        regions = [b.region(r, [True] * len(r.inputs)) for r in self.regions]
        outputs = tuple(t.with_shape((b.instances, *t.shape)) for t in self.attrs["outputs"])
        return b.create(type(self), values, regions, **{**self.attrs, "outputs": outputs}).results  # type: ignore[no-any-return]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return tuple(np.asarray(a) for a in attrs["regions"][0](*arrays))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape in ((3, 5), (1,), (0, 4), ()):
                yield _sample(TensorType(DTYPES[name], shape))


def _inlined(b: Any, region: Graph, values: Sequence[Value]) -> list[Value]:
    """What a region returns of `values`, its ops put where `b` builds."""
    mapping = dict(zip(region.inputs, values, strict=True))
    if b.before is None:
        clone_ops(region.ops, b.graph, mapping)
        return [mapping[v] for v in region.outputs]
    for op in region.ops:
        operands = [mapping[v] for v in op.operands]
        clone = type(op)(operands, op.attrs, op.result_types, op.loc, [r.copy() for r in op.regions])
        clone.mark = op.mark
        b.graph.insert(clone, b.before)
        mapping.update(zip(op.results, clone.results, strict=True))
    return [mapping[v] for v in region.outputs]


def _sample(t: TensorType) -> Sample:
    """x · y and 2·y, with their derivatives."""
    forward, backward = Graph("forward"), Graph("backward")
    x, y = (forward.add_input(t, name=name) for name in "xy")
    b = Builder(forward)
    forward.outputs = [b.mul(x, y), b.add(y, y)]
    x, y, _, _, g, h = (backward.add_input(t, name=name) for name in ("x", "y", "product", "twice", "g", "h"))
    b = Builder(backward)
    backward.outputs = [b.mul(g, y), b.add(b.mul(g, x), b.add(h, h))]
    attrs = {"outputs": (t, t), "arguments": 2, "roots": (0, 1), "wrt": (0, 1)}
    return Sample((t, t), attrs, regions=(forward, backward))
