"""Whether links may end at each row's own position, where the products around them leave out what comes after it.

The scores of a causal attention are -inf there. A maximum does not see them and a sum adds +0 for each, so reductions
that end early have the same bits, and what maps would make of them is read by no product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.backends.llvm.contraction.order import Order
from graphc.backends.llvm.contraction.problem import Problem, readings
from graphc.ir.dims import Dim
from graphc.ir.kernel import Instruction, Kernel, Link, Stage
from graphc.ir.target import Target

__all__ = ["numbers_of", "quantum_of"]

_PARTIALS = 4
"""Vectors of partial results that a long row is reduced to."""


def numbers_of(kernel: Kernel, *accesses: str) -> list[int]:
    """The parameters of these accesses."""
    return [n for n, b in enumerate(kernel.parameters) if b.access in accesses]


def quantum_of(
    kernel: Kernel, inner: Sequence[int], products: Sequence[Problem | None], length: int, target: Target
) -> int:
    """What the ends of rows are rounded up to; 0 where links go through whole rows.

    `inner` are the buffers that links make and read, `products` has the problem of each link that is one.
    """
    quantum = _PARTIALS * target.width(32)
    if length % quantum:
        return 0
    absent: dict[int, str] = {}
    for link, product in zip(kernel.links, products, strict=True):
        if product is not None and any(
            link.buffers[n] in inner for n in numbers_of(link.kernel, "in", "inout")
        ):
            if product.order != Order("steps", "rows"):
                return 0
        elif product is not None:
            if product.order != Order("columns", "rows"):
                return 0
            absent |= _absent_results(link)
        else:
            found = _absent_of_rows(link, absent)
            if found is None:
                return 0
            absent |= found
    # What somebody else reads must be there.
    needed = any(kernel.buffers[n].access != "local" and n not in kernel.partial for n in inner)
    return 0 if needed else quantum


def _absent_results(link: Link) -> dict[int, str]:
    """What a product stores where it has no terms, by the chain's buffers: "zero", "low" (-inf) or "any"."""
    (low, high), known = _ends(link.kernel), {link.kernel.stages[0].results[0]: "zero"}
    found = {}
    index: dict[int, Dim] = {}
    for stage in link.kernel.stages[1:]:
        for i in stage.body:
            if i.opcode == "index":
                index[i.id] = i.index[0]
            if i.opcode == "store":
                found[link.buffers[i.buffer]] = known.get(i.operands[0], "any")
            elif i.opcode == "ge" and [index.get(o) for o in i.operands] == [high, low]:
                known[i.id] = "false"
            else:
                known[i.id] = _absent_value(i, known)
    return found


def _ends(kernel: Kernel) -> tuple[Dim, Dim]:
    """The axes of an ordered product of which the one must not come after the other."""
    problem = next(p for p in readings(kernel, False) if p.order == Order("columns", "rows"))
    _, rows, columns = problem.sides
    return columns[0].expr, rows[0].expr


def _absent_of_rows(link: Link, absent: Mapping[int, str]) -> dict[int, str] | None:
    """The same of a kernel of loops; None where a reduction needs what comes after a row's position.

    Scalars of a row are finite, or some term before that position makes them what they are, as position 0 is always there:
    a maximum of -inf or NaN makes every exponential of the row NaN, and a sum of exponentials is at least 1.
    """
    stored: dict[int, str] = {}
    known: dict[int, str] = {}
    for stage in link.kernel.stages:
        for i in stage.body:
            match i.opcode:
                case "load" if i.guards:
                    known[i.id] = "any"
                case "load":
                    number = link.buffers[i.buffer] if i.buffer < len(link.buffers) else ~i.buffer
                    known[i.id] = {**absent, **stored}.get(number, "any")
                case "store":
                    number = link.buffers[i.buffer] if i.buffer < len(link.buffers) else ~i.buffer
                    stored[number] = known.get(i.operands[0], "any")
                case "yield":
                    pass
                case _:
                    known[i.id] = _absent_value(i, known)
        if stage.kind == "reduce" and not _is_neutral(stage, known):
            return None
        known |= dict.fromkeys(stage.results, "row")
        if not stage.axes:
            known |= {i.id: "row" for i in stage.body if i.id >= 0}
        elif len(stage.axes) != 1:
            return None
    return stored


def _is_neutral(stage: Stage, known: Mapping[int, str]) -> bool:
    """True where absent elements change nothing of a reduction."""
    if stage.combine is None or len(stage.init) != 1 or not stage.axes:
        return False
    (value,) = (known.get(o, "any") for o in stage.body[-1].operands)
    return (stage.combine.opcode, value) in (("max", "low"), ("add", "zero"))


def _absent_value(i: Instruction, known: Mapping[int, str]) -> str:
    """What an instruction makes of what there is at an absent element."""
    given = [known.get(o, "any") for o in i.operands]
    match i.opcode, given:
        case "const", _:
            return "low" if i.value == float("-inf") else "zero" if i.value == 0 else "row"
        case "select", ["false", _, other]:
            return other
        case "cast", [value]:
            return value
        case ("mul", ["zero", "zero" | "row"] | ["row", "zero"]) | ("sub", ["zero", "zero"]):
            return "zero"
        case "sub", ["low", "row"]:
            return "low"
        case "exp", ["low"]:
            return "zero"
    return "row" if given and all(g == "row" for g in given) else "any"
