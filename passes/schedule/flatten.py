"""Rewrites kernels without changing what they compute: flat buffers, joined axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from graphc.ir.dims import Dim, Expr, Symbol, split_linear, substitute
from graphc.ir.kernel import Instruction, Kernel, KernelBuffer, new_axis, replace_symbols, size_of
from graphc.ir.types import TensorType, symbolic_strides

__all__ = ["expressions", "flatten", "join_outer_axes", "map_bodies"]


def map_bodies(kernel: Kernel, change: Callable[[Instruction], Instruction]) -> Kernel:
    """The kernel with every instruction of its stage bodies changed."""
    stages = tuple(dataclasses.replace(s, body=tuple(change(i) for i in s.body)) for s in kernel.stages)
    return dataclasses.replace(kernel, stages=stages)


def flatten(kernel: Kernel) -> Kernel:
    """Every buffer as one line: an index becomes the linear offset, in which reshapes cancel."""

    def change(i: Instruction) -> Instruction:
        if i.opcode not in ("load", "store"):
            return i
        offset: Dim = 0
        strides = symbolic_strides(kernel.buffers[i.buffer].type.shape)
        for x, stride in zip(i.index, strides, strict=True):
            offset = offset + x * stride
        return dataclasses.replace(i, index=(offset,))

    buffers = tuple(KernelBuffer(_flat(b.type), b.access) for b in kernel.buffers)
    return dataclasses.replace(map_bodies(kernel, change), buffers=buffers)


def _flat(type_: TensorType) -> TensorType:
    return TensorType(type_.dtype, (type_.count,))


def expressions(kernel: Kernel) -> list[Dim]:
    """Every distinct index and guard expression with a symbol in it."""
    found: dict[Dim, None] = {}
    for i in kernel.instructions():
        for x in (*i.index, *(e for g in i.guards for e in g)):
            if isinstance(x, Expr):
                found.setdefault(x)
    return list(found)


def join_outer_axes(kernel: Kernel) -> Kernel:
    """Neighbouring outer axes that every expression steps through as one become one axis."""
    if len(kernel.axes) < 2:
        return kernel
    current = expressions(kernel)
    joined: list[Symbol] = []
    values: dict[Symbol, Dim] = {}
    for axis in kernel.axes:
        while joined and all(_as_one(x, joined[-1], axis) for x in current):
            outer = joined.pop()
            joint = new_axis(outer.name, size_of(outer) * size_of(axis))
            # The pair (outer, axis) is met as outer*extent + axis only, so this stands for both.
            step: dict[Symbol, Dim] = {outer: 0, axis: joint.expr}
            current = [substitute(x, step) for x in current]
            values = {s: substitute(x, step) for s, x in values.items()} | step
            axis = joint
        joined.append(axis)
    if not values:
        return kernel
    renamed: list[Symbol] = []
    for k, axis in enumerate(joined):
        name = Symbol(f"o{k}", 0, axis.hi, axis.size)
        values = {s: substitute(x, {axis: name.expr}) for s, x in values.items()}
        values.setdefault(axis, name.expr)
        renamed.append(name)
    changed = map_bodies(kernel, lambda i: replace_symbols(i, values))
    return dataclasses.replace(changed, axes=tuple(renamed))


def _as_one(x: Dim, outer: Symbol, inner: Symbol) -> bool:
    if inner.size is not None and isinstance(x, Expr):
        # The outer axis's stride is symbolic: the place is the same if the inner one counts all points alone.
        return x == substitute(x, {outer: 0, inner: outer.expr * inner.size + inner.expr})
    by_outer, by_inner = split_linear(x, outer), split_linear(x, inner)
    return by_outer is not None and by_inner is not None and by_outer[0] == by_inner[0] * size_of(inner)
