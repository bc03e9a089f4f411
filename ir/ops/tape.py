"""Ops that matter to differentiation only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from graphc.ir.families import ALL_DTYPES, Attrs, Elementwise, GraphOp, Sample, Types
from graphc.ir.graph import Value
from graphc.ir.scalar import ScalarBuilder
from graphc.ir.types import DTYPES, TensorType

__all__ = ["Detach", "Gradient"]


class Detach(Elementwise):
    """The operand's value with no gradient flowing back. Any shape and dtype; raises nothing.

    Optimisation removes it: derivatives are taken before any pass that simplifies.
    """

    name = "detach"
    operand_names = ("x",)
    dtypes = ALL_DTYPES
    traits = frozenset({"cheap", "idempotent"})
    no_derivative = "it is there to end gradients"

    @classmethod
    def body(cls, s: ScalarBuilder[Any], attrs: Attrs, *x: Any) -> Any:
        return x[0]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return arrays[0]

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape in ((3, 5), (1,), (0, 4), ()):
                yield Sample((TensorType(DTYPES[name], shape),), draw=("any",))

    def simplify(self, b: Any) -> Value | None:
        return self.operands[0]


class Gradient(GraphOp):
    """Gradients of roots: what `backward` records.

    Operands are the roots, one cotangent each (of the root's type), then the values to
    differentiate by; there is one result of the type of each of these. `create_graph` says whether
    the gradients can be differentiated again. With `instances` the cotangents have a leading axis of so many,
    and so have the results. With `check_nan` the call fails where a step of the way back makes NaN. The `expand_gradients` pass replaces it by VJPs
    before anything else looks at the graph, so it has no other hook. Raises RuntimeError where
    a cotangent's type is not its root's.
    """

    name = "gradient"
    operand_names = ("values",)
    variadic = True
    attributes = {"roots": ..., "create_graph": False, "instances": None, "check_nan": False}
    traits = frozenset({"structural"})
    no_derivative = "it stands for derivatives, and is expanded before any are taken"

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        n = attrs["roots"]
        lead = () if attrs["instances"] is None else (attrs["instances"],)
        expected = [t.with_shape((*lead, *t.shape)) for t in types[:n]]
        if expected != list(types[n : 2 * n]):
            raise RuntimeError(
                f"gradient: cotangents must have the roots' types {expected}, got {list(types[n : 2 * n])}"
            )
        return tuple([t.with_shape((*lead, *t.shape)) for t in types[2 * n :]])
