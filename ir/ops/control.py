"""Control flow: loops over regions and branches between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graphc.ir.builder import Builder
from graphc.ir.control import FLAG, Branch, Loop, While
from graphc.ir.families import ALL_DTYPES, Attrs, Sample
from graphc.ir.graph import Graph, Value
from graphc.ir.types import DTYPES, DType, TensorType, bool_, int64

__all__ = ["Cond", "Scan", "WhileLoop"]


class Scan(Loop):
    """A loop of known length over slices, carrying values from step to step.

    Attributes and results are those of every `Loop`. Differentiable in reverse mode by a loop in the other
    direction over what the forward steps kept. Raises RuntimeError where a sliced operand's leading axis
    is not `length` or the region's types do not fit.
    """

    name = "scan"
    dtypes = ALL_DTYPES

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        """`attrs["regions"]` has the region as a function of arrays; see `graphc.backends.reference`."""
        n, m, length = attrs["carries"], attrs["slices"], attrs["length"]
        (step,) = attrs["regions"]
        carried, sliced, constants = list(arrays[:n]), arrays[n : n + m], arrays[n + m :]
        past = [[a] for a in carried]
        stacked: list[list[Any]] = [[] for _ in attrs["outputs"]]
        for i in range(length)[:: -1 if attrs["reverse"] else 1]:
            found = step(*carried, *(a[i] for a in sliced), *constants)
            carried = found[:n]
            for whole, part in zip((*past, *stacked), found, strict=True):
                whole.append(part)
        order = slice(None, None, -1 if attrs["reverse"] else 1)
        results = [
            np.stack(whole[order]) if i in attrs["history"] else whole[-1] for i, whole in enumerate(past)
        ]
        for whole, t in zip(stacked, attrs["outputs"], strict=True):
            results.append(np.stack(whole[order]) if whole else np.empty((0, *t.sizes), t.dtype.numpy))
        return tuple(results)

    def simplify(self, b: Any) -> Sequence[Value] | None:
        """Without steps there is nothing but the initial values."""
        if self.attrs["length"] != 0:
            return None
        values = [b.reshape_to(v, r.type.shape) for v, r in zip(self.initial, self.results, strict=False)]
        for r in self.results[self.carries :]:
            values.append(b.constant(np.empty(r.type.sizes, r.type.dtype.numpy)))
        return values

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            d = DTYPES[name]
            for length, shape in ((5, (3,)), (1, (1,)), (2, (0,)), (0, (3,)), (4, ())):
                for reverse, history in ((False, ()), (True, (0,))):
                    yield _sample(d, length, shape, reverse, history)


def _sample(d: DType, length: int, shape: tuple[int, ...], reverse: bool, history: tuple[int, ...]) -> Sample:
    """Carries a and b, reads x slice by slice and the constant k: a' = a·k + x, b' = a; puts out b·x."""
    t = TensorType(d, shape)
    body = Graph("body")
    first, second, x, k = (body.add_input(t, name=name) for name in ("a", "b", "x", "k"))
    b = Builder(body)
    if d.kind == "bool":
        after, put = b.bitwise_xor(b.bitwise_and(first, k), x), b.bitwise_and(second, x)
    else:
        after, put = b.add(b.mul(first, k), x), b.mul(second, x)
    body.outputs = [after, first, put]
    attrs = {
        "length": length,
        "carries": 2,
        "slices": 1,
        "outputs": (t,),
        "history": history,
        "reverse": reverse,
    }
    return Sample((t, t, TensorType(d, (length, *shape)), t), attrs, regions=(body,))


class Cond(Branch):
    """One of two regions, chosen when the program runs; the other is not run.

    Differentiable in reverse mode: a branch of the derivatives, by the same predicate. Raises RuntimeError where
    the predicate is no bool of rank 0 or the regions' types do not fit.
    """

    name = "cond"
    dtypes = ALL_DTYPES

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        chosen = attrs["regions"][0 if arrays[0] else 1]
        return tuple(chosen(*arrays[1:]))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape in ((3,), (1,), (0,), (), (4, 5)):
                yield _branch_sample(TensorType(DTYPES[name], shape))


def _branch_sample(t: TensorType) -> Sample:
    """a + b and a where the predicate is true, a and a · b where it is not (xor and and of bools)."""
    regions = []
    for first in (True, False):
        body = Graph("body")
        x, y = body.add_input(t, name="a"), body.add_input(t, name="b")
        b = Builder(body)
        if t.dtype.kind == "bool":
            body.outputs = [b.bitwise_xor(x, y), x] if first else [x, b.bitwise_and(x, y)]
        else:
            body.outputs = [b.add(x, y), x] if first else [x, b.mul(x, y)]
        regions.append(body)
    return Sample((FLAG, t, t), {"outputs": (t, t)}, ("bool",), regions=tuple(regions))


class WhileLoop(While):
    """A loop that goes on as long as its first region says so, at most `limit` steps.

    With a limit it is differentiable in reverse mode, as a `scan` of that length whose steps after the end do
    nothing; without one, differentiating it raises CompileError. Raises RuntimeError where the regions' types do
    not fit.
    """

    name = "while"
    dtypes = ALL_DTYPES

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        n, limit = attrs["carries"], attrs["limit"]
        test, step = attrs["regions"]
        carried, constants, count = list(arrays[:n]), arrays[n:], 0
        while (limit is None or count < limit) and test(*carried, *constants)[0]:
            carried = step(*carried, *constants)
            count += 1
        return tuple(carried)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            dtype = DTYPES[name]
            # Floats have a limit, for they are to be differentiated.
            bounds = (
                ((0, 2), (1, 3), (5, 3), (3, 3))
                if dtype.is_floating_point
                else ((4, None), (0, None), (5, 3))
            )
            for shape in ((3,), (1,), (0,), ()):
                for steps, limit in bounds:
                    yield _while_sample(TensorType(dtype, shape), steps, limit)


def _while_sample(t: TensorType, steps: int, limit: int | None) -> Sample:
    """Carries a, b and i, reads the constant k: a' = b, b' = a · k + b (xor of bools), while i < steps."""
    count = TensorType(int64, ())
    regions = []
    for stepping in (False, True):
        body = Graph("body")
        x, y, i, k = (body.add_input(u, name=n) for u, n in ((t, "a"), (t, "b"), (count, "i"), (t, "k")))
        b = Builder(body)
        if stepping:
            after = b.bitwise_xor(x, k) if t.dtype is bool_ else b.add(b.mul(x, k), y)
            body.outputs = [y, after, b.add(i, 1)]
        else:
            body.outputs = [b.lt(i, steps)]
        regions.append(body)
    attrs = {"carries": 3, "limit": limit}
    return Sample((t, t, count, t), attrs, ("normal", "normal", "index:1"), regions=tuple(regions))
