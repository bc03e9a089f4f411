"""Indexing: `x[...]`, `x[...] = v`, gathers and scatters."""

from graphc.functions.indexing.gathering import (
    argwhere,
    gather,
    index_add,
    index_copy,
    index_fill,
    index_select,
    nonzero,
    one_hot,
    scatter,
    scatter_add,
    take,
    take_along_dim,
)
from graphc.functions.indexing.subscript import (
    fitted,
    getitem,
    index_put,
    masked_select,
    setitem,
)

__all__ = [
    "argwhere",
    "fitted",
    "gather",
    "getitem",
    "index_add",
    "index_copy",
    "index_fill",
    "index_put",
    "index_select",
    "masked_select",
    "nonzero",
    "one_hot",
    "scatter",
    "scatter_add",
    "setitem",
    "take",
    "take_along_dim",
]
