"""Chains: a product, what is made of its rows, and the products of that become one kernel.

Attention is of this kind: the scores and their softmax need never be in memory as a whole. Each kernel of a chain stays
what it is, so no bit changes; they are run a block of rows at a time, and what only they read is private to them.
Invariant: what a chain reads from outside depends on nothing that it makes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from graphc.ir.dims import symbols
from graphc.ir.graph import Value
from graphc.ir.kernel import Kernel, KernelBuffer, Link, extent, kernel_sizes
from graphc.ir.kernel_verifier import verify_kernel
from graphc.passes.context import CompileContext
from graphc.passes.fuse import Fused
from graphc.passes.lower import Lowered, LoweredControl
from graphc.passes.plan.in_place import can_share, share

__all__ = ["chained", "may_be_chained"]

_LEAST_ENTRIES = 2

Call = Lowered | LoweredControl


def may_be_chained(low: Call) -> bool:
    """True of a product of which both factors follow one outer axis: one for each of several entries."""
    if not isinstance(low, Lowered) or not low.contraction or kernel_sizes(low.kernel):
        return False
    kernel = low.kernel
    if kernel.schedule is None or kernel.schedule.engine != "contraction":
        return False
    loads = [i for i in kernel.stages[0].body if i.opcode == "load"]
    if len(loads) != 2 or len(kernel.axes) < 3:
        return False
    used = [set().union(*(symbols(x) for x in i.index)) for i in loads]
    shared = [a for a in kernel.axes if all(a in u for u in used) and extent(a) >= _LEAST_ENTRIES]
    return bool(shared) and all(b.type.is_static for b in kernel.buffers)


def chained(fused: Fused, calls: Sequence[Call], context: CompileContext) -> list[Call]:
    """The scheduled kernels of a graph, with those joined to chains that the backend can run so."""
    found = list(calls)
    products = [c for c in calls if isinstance(c, Lowered) and may_be_chained(c)]
    if len(products) < 2:
        return found
    returned = set(fused.graph.outputs)
    for middle in calls:
        if isinstance(middle, Lowered) and not middle.contraction:
            before = _before(middle, products, found)
            if before:
                found = _with_chain(before, middle, found, returned, context)
                left = set(map(id, found))
                products = [c for c in products if id(c) in left]
    return found


def _with_chain(
    before: Sequence[Lowered],
    middle: Lowered,
    calls: list[Call],
    returned: set[Value],
    context: CompileContext,
) -> list[Call]:
    """The calls with a chain through `middle`, where there is one."""
    first = [*before, middle]
    after = [c for c in _after(first, calls) if _chain([*first, c], calls, returned, context) is not None]
    members = [*first, *after]
    chain = _chain(members, calls, returned, context) if after else None
    if chain is None:
        return calls
    # In the place of its last member; what reads earlier ones comes after it.
    end = max(n for n, c in enumerate(calls) if any(c is m for m in members))
    earlier: list[Call] = []
    later: list[Call] = []
    depends = _makes(chain)
    for c in calls[:end]:
        if any(c is m for m in members):
            continue
        if _reads(c) & depends:
            later.append(c)
            depends |= _makes(c)
        else:
            earlier.append(c)
    return [*earlier, chain, *later, *calls[end + 1 :]]


def _reads(low: Call) -> set[Value]:
    if isinstance(low, LoweredControl):
        return {o.value for o in low.operands}
    return {v for v, b in zip(low.values, low.kernel.parameters, strict=True) if b.access != "out"}


def _makes(low: Call) -> set[Value]:
    if isinstance(low, LoweredControl):
        return set(low.op.results)
    return {v for v, b in zip(low.values, low.kernel.parameters, strict=True) if b.access != "in"}


def _before(middle: Lowered, products: Sequence[Lowered], calls: Sequence[Call]) -> list[Lowered]:
    """Those of `products` that nobody reads but `middle`."""
    needed = _reads(middle)
    return [
        c
        for c in products
        if _makes(c) <= needed
        and not any(_makes(c) & _reads(other) for other in calls if other is not middle)
    ]


def _after(members: Sequence[Lowered], calls: Sequence[Call]) -> list[Lowered]:
    """Products of one value that the last member makes with something that depends on nothing that comes of them."""
    made = _makes(members[-1])
    depends = set().union(*map(_makes, members))
    found = []
    for c in calls:
        own = _reads(c) & depends
        if own and not any(c is m for m in members):
            if isinstance(c, Lowered) and may_be_chained(c) and own <= made and len(own) == 1:
                found.append(c)
            depends |= _makes(c)
    return found


def _chain(
    members: Sequence[Lowered], calls: Sequence[Call], returned: set[Value], context: CompileContext
) -> Lowered | None:
    others = [c for c in calls if not any(c is m for m in members)]
    seen = set(returned).union(*map(_reads, others))
    made = set().union(*map(_makes, members))
    private = made - seen
    given = list(dict.fromkeys(v for m in members for v in m.values if v not in private))
    over: dict[Value, Value] = {}
    kernels = []
    for m in members:
        kernel, values = m.kernel, m.values
        if not m.contraction:
            kernel, values = _over_itself(m, private, over)
        kernels.append((kernel, values))
    local = [v for v in dict.fromkeys(v for m in members for v in m.values if v in private) if v not in over]
    number = {v: n for n, v in enumerate([*given, *local])}
    buffers = [
        *(KernelBuffer(v.type, "out" if v in made else "in") for v in given),
        *(KernelBuffer(v.type, "local") for v in local),
    ]
    links = tuple(Link(k, tuple(number[over.get(v, v)] for v in values)) for k, values in kernels)
    partial = tuple(
        number[v] for v in given if v in made and v not in returned and _is_seen_in_part(v, others)
    )
    kernel = Kernel(tuple(buffers), (), (), 0, None, links, partial)
    found = context.backend.chain_schedule(kernel, context.target)
    if found is None:
        return None
    kernel = dataclasses.replace(kernel, schedule=found)
    if context.options.verify:
        verify_kernel(kernel)
    return Lowered(kernel, tuple(given))


def _over_itself(
    middle: Lowered, private: set[Value], over: dict[Value, Value]
) -> tuple[Kernel, tuple[Value, ...]]:
    """The kernel between the products, which stores over what it alone reads; `over` says in whose buffer values are."""
    kernel, values = middle.kernel, middle.values
    written = [v for v, b in zip(values, kernel.parameters, strict=True) if b.access == "out"]
    for w in written:
        for r in values:
            free = r in private and r not in written and r not in over and r not in over.values()
            if free and _can_store_over(kernel, values.index(r), values.index(w)):
                kernel = share(kernel, values.index(r), values.index(w))
                values = tuple(v for v in values if v is not w)
                if w in private:
                    over[w] = r
                else:
                    over[r] = w
                break
    return kernel, values


def _is_seen_in_part(value: Value, calls: Sequence[Call]) -> bool:
    """True where every load of a value by other calls is guarded so that it sees row r up to position r alone."""
    for c in calls:
        if value not in _reads(c):
            continue
        if isinstance(c, LoweredControl) or c.kernel.links:
            return False
        number = c.values.index(value)
        for i in c.kernel.instructions():
            if i.opcode == "load" and i.buffer == number:
                if len(i.index) < 2:
                    return False
                wanted = i.index[-2] - i.index[-1]
                if not any(x == wanted and low == 0 for x, low, _ in i.guards):
                    return False
    return True


def _can_store_over(kernel: Kernel, read: int, written: int) -> bool:
    """True where each row of `written` may be stored over that of `read`, given that each outer point has a row of its own."""
    a, b = kernel.buffers[read], kernel.buffers[written]
    if (a.access, b.access) != ("in", "out") or a.type != b.type:
        return False
    if can_share(kernel, read, written):
        return True
    loads = [
        n for n, s in enumerate(kernel.stages) for i in s.body if i.opcode == "load" and i.buffer == read
    ]
    stores = [
        n for n, s in enumerate(kernel.stages) for i in s.body if i.opcode == "store" and i.buffer == written
    ]
    again = [
        n for n, s in enumerate(kernel.stages) for i in s.body if i.opcode == "load" and i.buffer == written
    ]
    if not loads or not stores or any(n <= max(stores) for n in again):
        return False
    return max(loads) < min(stores)
