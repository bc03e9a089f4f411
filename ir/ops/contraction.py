"""Matrix products and convolutions: sums of products of two operands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graphc.ir.dims import Dim
from graphc.ir.families import Access, Attrs, Contraction, Index, Sample, Types
from graphc.ir.graph import Value
from graphc.ir.scalar import Guard
from graphc.ir.types import DTYPES, TensorType

__all__ = ["Dot"]


class Dot(Contraction):
    """General product: result axes are batch axes, then free axes of lhs, then free axes of rhs.

    `contract` and `batch` are pairs of axis lists (lhs axes, rhs axes) of equal length and sizes.
    A matrix product x @ w.T is contract=[[1], [1]]. Accumulates in float32 for 16-bit floats.

    `ordered` is () or two axes that are no batch axes, each as (operand number, axis): only terms whose
    position along the first is at most that along the second are there. Others are not zero but absent:
    what they would be made of is never looked at, and the sum of no terms is +0.
    """

    name = "dot"
    attributes = {"contract": ..., "batch": ((), ()), "ordered": ()}
    ulp = {"f16": 1, "bf16": 1, "f32": 16, "f64": 16}

    @classmethod
    def free(cls, types: Types, attrs: Attrs) -> tuple[list[int], list[int]]:
        """Free axes of lhs and of rhs."""
        (lc, rc), (lb, rb) = attrs["contract"], attrs["batch"]
        return (
            [i for i in range(types[0].rank) if i not in lc and i not in lb],
            [i for i in range(types[1].rank) if i not in rc and i not in rb],
        )

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        lhs, rhs = types
        if lhs.dtype is not rhs.dtype:
            raise RuntimeError(
                f"dot: expected both operands to have the same dtype, but got {lhs.dtype} and {rhs.dtype}"
            )
        if lhs.dtype.name not in cls.dtypes:
            raise NotImplementedError(f'"dot" not implemented for {lhs.dtype}')
        for pair in (attrs["contract"], attrs["batch"]):
            for i, j in zip(*pair, strict=True):
                if lhs.shape[i] != rhs.shape[j]:
                    raise RuntimeError(
                        f"dot: shapes {list(lhs.shape)} and {list(rhs.shape)} do not agree: "
                        f"axis {i} of the first has size {lhs.shape[i]}, axis {j} of the second {rhs.shape[j]}"
                    )
        for side, axis in attrs["ordered"]:
            if axis in attrs["batch"][side] or not 0 <= axis < types[side].rank:
                raise RuntimeError(f"dot: expected ordered axes to be no batch axes, got {attrs['ordered']}")
        lf, rf = cls.free(types, attrs)
        shape: tuple[Dim, ...] = tuple(lhs.shape[i] for i in attrs["batch"][0])
        shape += tuple(lhs.shape[i] for i in lf) + tuple(rhs.shape[i] for i in rf)
        return (TensorType(lhs.dtype, shape),)

    @classmethod
    def domain(cls, attrs: Attrs, types: Types, result: TensorType) -> tuple[Dim, ...]:
        return tuple(types[0].shape[i] for i in attrs["contract"][0])

    @classmethod
    def accesses(
        cls, attrs: Attrs, types: Types, result: TensorType, index: Index, reduced: Index
    ) -> Sequence[Access]:
        lf, rf = cls.free(types, attrs)
        batches = len(attrs["batch"][0])
        found: list[dict[int, Dim]] = []
        for side, free, start in ((0, lf, batches), (1, rf, batches + len(lf))):
            at: dict[int, Dim] = dict(zip(attrs["contract"][side], reduced, strict=True))
            at.update(zip(attrs["batch"][side], index[:batches], strict=True))
            at.update(zip(free, index[start : start + len(free)], strict=True))
            found.append(at)
        guards: tuple[Guard, ...] = ()
        if attrs["ordered"]:
            (i, a), (j, c) = attrs["ordered"]
            # Operands that are both zero where a term is absent add +0.
            guards = ((found[j][c] - found[i][a], 0, types[j].shape[c]),)
        return [
            Access(tuple(at[i] for i in range(t.rank)), guards) for at, t in zip(found, types, strict=True)
        ]

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        g = cotangents[0]
        return [self._side(b, g, 0), self._side(b, g, 1)]

    def _side(self, b: Any, g: Any, side: int) -> Value:
        """Cotangent of one operand: g contracted with the other over the other's free axes.

        Its operands stand in the order that gives the axes as they are wanted, where one does.
        """
        contract, batch = self.attrs["contract"], self.attrs["batch"]
        free = self.free(self.operand_types, self.attrs)
        other, n, left = self.operands[1 - side], len(batch[0]), len(free[0])
        summed = range(n + left, n + left + len(free[1])) if side == 0 else range(n, n + left)
        pairs = (tuple(summed), tuple(free[1 - side]))
        batches = (tuple(range(n)), batch[1 - side])
        # Axes of each product as axes of this operand: g's free axes, and the other's contracted ones.
        kept = sorted(range(len(contract[1 - side])), key=lambda i: contract[1 - side][i])
        contracted = [contract[side][i] for i in kept]
        orders = [*batch[side], *free[side], *contracted], [*batch[side], *contracted, *free[side]]
        g_first = orders[0] == sorted(orders[0]) or (side == 0 and orders[1] != sorted(orders[1]))
        ordered = tuple(self._among(at, side, g_first) for at in self.attrs["ordered"])
        if g_first:
            out = b.dot(g, other, contract=pairs, batch=batches, ordered=ordered)
        else:
            out = b.dot(other, g, contract=pairs[::-1], batch=batches[::-1], ordered=ordered)
        order = orders[0] if g_first else orders[1]
        axes = tuple(order.index(i) for i in range(len(order)))
        return out if order == sorted(order) else b.permute(out, axes=axes)  # type: ignore[no-any-return]

    def _among(self, at: tuple[int, int], side: int, g_first: bool) -> tuple[int, int]:
        """An axis as one of the product of the cotangent g with the operand that is not `side`."""
        number, axis = at
        contract = self.attrs["contract"]
        if axis in contract[number]:
            return int(g_first), contract[1 - side][contract[number].index(axis)]
        free = self.free(self.operand_types, self.attrs)
        place = len(self.attrs["batch"][0]) + number * len(free[0]) + free[number].index(axis)
        return int(not g_first), place

    def over_steps(self, b: Any, operands: Sequence[Any], stepped: Sequence[bool]) -> Any:
        if not all(stepped):
            summed = [b.sum(v, axes=(0,)) if on else v for v, on in zip(operands, stepped, strict=True)]
            return b.dot(*summed, **self.attrs)
        contract, batch = (
            tuple(tuple(i + 1 for i in side) for side in self.attrs[key]) for key in ("contract", "batch")
        )
        ordered = tuple((n, i + 1) for n, i in self.attrs["ordered"])
        return b.dot(*operands, contract=((0, *contract[0]), (0, *contract[1])), batch=batch, ordered=ordered)

    def all_steps(self, b: Any, operands: Sequence[Any], stepped: Sequence[bool]) -> Any:
        contract, batch = (
            [tuple(i + on for i in side) for side, on in zip(self.attrs[key], stepped, strict=True)]
            for key in ("contract", "batch")
        )
        ordered = tuple((n, i + stepped[n]) for n, i in self.attrs["ordered"])
        if all(stepped):
            joint = ((0, *batch[0]), (0, *batch[1]))
            return b.dot(*operands, contract=tuple(contract), batch=joint, ordered=ordered)
        out = b.dot(*operands, contract=tuple(contract), batch=tuple(batch), ordered=ordered)
        # The steps are the first free axis of the one operand that has them.
        at = len(batch[0])
        if stepped[1]:
            at += operands[0].type.rank - len(contract[0]) - len(batch[0])
        order = (at, *(i for i in range(out.type.rank) if i != at))
        return out if at == 0 else b.permute(out, axes=order)

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        letters = iter("abcdefghijklmnopqrstuvwxyz")
        names: list[dict[int, str]] = [{}, {}]
        for pair in (attrs["batch"], attrs["contract"]):
            for i, j in zip(*pair, strict=True):
                names[0][i] = names[1][j] = next(letters)
        for side in (0, 1):
            for i in range(arrays[side].ndim):
                names[side].setdefault(i, "")
                names[side][i] = names[side][i] or next(letters)
        batch = "".join(names[0][i] for i in attrs["batch"][0])
        used = {*attrs["contract"][0], *attrs["batch"][0]}, {*attrs["contract"][1], *attrs["batch"][1]}
        free = "".join(names[k][i] for k in (0, 1) for i in range(arrays[k].ndim) if i not in used[k])
        spec = ",".join("".join(names[k][i] for i in range(arrays[k].ndim)) for k in (0, 1))
        wide = arrays[0].dtype if arrays[0].dtype.kind in "iu" else np.float64
        if attrs["ordered"]:
            low, high = (names[n][i] for n, i in attrs["ordered"])
            out = _of_terms(spec, batch + free, low, high, *(a.astype(wide) for a in arrays))
        else:
            out = np.einsum(f"{spec}->{batch}{free}", arrays[0].astype(wide), arrays[1].astype(wide))
        return np.asarray(out).astype(arrays[0].dtype)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield from cls._ordered_samples()
        cases: tuple[tuple[tuple[int, ...], tuple[int, ...], Any, Any], ...] = (
            ((3, 5), (4, 5), ((1,), (1,)), ((), ())),
            ((3, 5), (5, 4), ((1,), (0,)), ((), ())),
            ((5, 3), (5, 4), ((0,), (0,)), ((), ())),
            ((2, 3, 5), (2, 5, 4), ((2,), (1,)), ((0,), (0,))),
            ((5,), (5,), ((0,), (0,)), ((), ())),
            ((2, 3, 5), (5, 4), ((2,), (0,)), ((), ())),
            ((3, 0), (4, 0), ((1,), (1,)), ((), ())),
            ((0, 5), (4, 5), ((1,), (1,)), ((), ())),
            ((1, 1), (1, 1), ((1,), (1,)), ((), ())),
            ((3, 4, 5), (5, 4, 2), ((1, 2), (1, 0)), ((), ())),
        )
        for name in cls.dtypes:
            for a, c, contract, batch in cases:
                d = DTYPES[name]
                yield Sample((TensorType(d, a), TensorType(d, c)), {"contract": contract, "batch": batch})

    @classmethod
    def _ordered_samples(cls) -> Iterator[Sample]:
        """Scores of positions up to each one's own, what is made of them, and the gradients of both."""
        for name in cls.dtypes:
            for m, n, k in ((17, 19, 5), (19, 17, 5), (3, 3, 40), (1, 6, 4), (6, 1, 4)):
                a, c = (TensorType(DTYPES[name], (2, *shape)) for shape in ((m, k), (n, k)))
                scores = {"contract": ((2,), (2,)), "batch": ((0,), (0,))}
                yield Sample((a, c), {**scores, "ordered": ((1, 1), (0, 1))})
                yield Sample((a, c), {**scores, "ordered": ((0, 1), (1, 1))})
            for m, k, n in ((17, 40, 5), (40, 17, 20), (40, 40, 1), (1, 40, 3)):
                a, c, d = (TensorType(DTYPES[name], (2, *shape)) for shape in ((m, k), (k, n), (k, m)))
                mixed = {"contract": ((2,), (1,)), "batch": ((0,), (0,))}
                yield Sample((a, c), {**mixed, "ordered": ((0, 2), (0, 1))})
                turned = {"contract": ((1,), (1,)), "batch": ((0,), (0,))}
                yield Sample((d, c), {**turned, "ordered": ((0, 2), (1, 1))})


def _of_terms(spec: str, result: str, low: str, high: str, a: Any, c: Any) -> Any:
    """`einsum` of the terms whose position along `low` is at most that along `high`."""
    letters = result + "".join(x for x in spec.split(",")[0] if x not in result)
    spread = [
        np.einsum(f"{names}->{''.join(x for x in letters if x in names)}", array).reshape(
            [array.shape[names.index(x)] if x in names else 1 for x in letters]
        )
        for names, array in zip(spec.split(","), (a, c), strict=True)
    ]
    with np.errstate(all="ignore"):
        terms = spread[0] * spread[1]
    positions = [
        np.arange(terms.shape[letters.index(x)]).reshape([-1 if y == x else 1 for y in letters])
        for x in (low, high)
    ]
    there = np.broadcast_to(positions[0] <= positions[1], terms.shape)
    return np.where(there, terms, 0).sum(tuple(range(len(result), len(letters))))
