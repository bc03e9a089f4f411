"""How reductions are folded: from the op's own shape and axes alone, never from what it is fused with.

Fusion and scheduling both ask here, so that a sum has the same bits in every kernel.
"""

from __future__ import annotations

from graphc.ir.dims import Symbol, product, symbols
from graphc.ir.families import Access, Contraction, Reduce, axes_of
from graphc.ir.graph import Op
from graphc.ir.kernel import size_of

__all__ = ["chunk_count", "folds_along_last_axis", "is_vector_product", "op_chunks", "product_chunks"]

CHUNK_ELEMENTS = 64 * 1024
"""Elements that are worth a partition of their own."""
MOST_CHUNKS = 16
COLUMN_BLOCK = 64
"""Results of a fold over leading axes that one partition makes."""
FEW_CHANNELS = MOST_CHUNKS // 2
"""Results below which a reduction over images does without being one kernel with what reads its result."""
FEW_RESULTS = 1 << 16
"""Results of a contraction up to which it is cut: what chunks make costs little beside their sums."""
CHUNK_TERMS = 512
"""Terms of each sum in a chunk of a contraction."""
WORTH_CUTTING = 1 << 21
"""Multiply-adds from which on a contraction is worth several threads."""


def folds_along_last_axis(op: Op) -> bool:
    """True where the last reduced axis is the operand's last: such a fold runs in lanes."""
    return isinstance(op, Reduce) and op.operands[0].type.rank - 1 in op.attrs["axes"]


def is_vector_product(op: Op) -> bool:
    """True of a contraction one of whose operands has a single point besides shared and summed axes."""
    if not isinstance(op, Contraction):
        return False
    types, result = op.operand_types, op.results[0].type
    outer = axes_of("o", result.shape)
    inner = axes_of("i", op.domain(op.attrs, types, result))
    at = [tuple(a.expr for a in group) for group in (outer, inner)]
    left, right = map(_used, op.accesses(op.attrs, types, result, *at))
    return any(
        product([size_of(a) for a in outer if a in mine - other]) == 1
        for mine, other in ((left, right), (right, left))
    )


def product_chunks(op: Op) -> int:
    """Into how many chunks of its outermost summed axis a product with windows is cut; 1 is not.

    Weight gradients are cut: they have few results, and both operands have the images that they sum over
    outermost, so a thread reads only those that it has made.
    """
    if not isinstance(op, Contraction) or is_vector_product(op):
        return 1
    types, result = op.operand_types, op.results[0].type
    if not all(t.is_static for t in (*types, result)):
        return 1
    inner = axes_of("i", op.domain(op.attrs, types, result))
    terms = product([size_of(a) for a in inner])
    assert isinstance(terms, int)
    if len(inner) < 2 or result.numel > FEW_RESULTS or result.numel * terms < WORTH_CUTTING:
        return 1
    at = [tuple(a.expr for a in group) for group in (axes_of("o", result.shape), inner)]
    images, accesses = inner[0], op.accesses(op.attrs, types, result, *at)
    if not any(len(symbols(x)) > 1 for access in accesses for x in access.index):
        return 1
    for access in accesses:
        others = (*access.index[1:], *(g[0] for g in access.guards))
        if access.index[0] != images.expr or any(images in symbols(x) for x in others):
            return 1
    count, most = int(size_of(images)), min(MOST_CHUNKS, terms // CHUNK_TERMS)
    fitting = [n for n in range(2, most + 1) if count % n == 0]
    return max(fitting, key=lambda n: (n % 2 == 0, n), default=1)


def _used(access: Access) -> frozenset[Symbol]:
    return frozenset().union(*(symbols(x) for x in access.index), *(symbols(g[0]) for g in access.guards))


def chunk_count(results: int, reduced: int, along: bool, images: bool = False) -> int:
    """Into how many chunks a reduction to `results` elements of `reduced` elements each is cut; 1 is not.

    One over `images` sums the first axis, the last one, and not all between: each thread is to read images of its own.
    """
    wanted = min(MOST_CHUNKS, results * reduced // CHUNK_ELEMENTS)
    if images and 1 < results < FEW_CHANNELS:
        return max(1, min(wanted, reduced))
    items = results if along else -(-results // COLUMN_BLOCK)
    if items >= wanted or items == 0:
        return 1
    return min(-(-wanted // items), reduced)


def op_chunks(op: Op) -> int:
    """`chunk_count` of an op; 1 of what is not a reduction over whole axes, or has a symbolic size."""
    if not isinstance(op, Reduce) or not op.operands[0].type.is_static:
        return 1
    results = op.results[0].type.numel
    reduced = op.operands[0].type.numel // results if results else 0
    along = folds_along_last_axis(op)
    return chunk_count(results, reduced, along, along and 0 in op.attrs["axes"])
