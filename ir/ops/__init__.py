"""The ops, one class each, by family. Importing this package fills `graphc.ir.families.REGISTRY`."""

from graphc.ir.ops import (
    activation,
    arg_reduce,
    arithmetic,
    comparison,
    composite,
    contraction,
    creation,
    indexing,
    logical,
    reduce,
    rounding,
    tape,
    transcendental,
    view,
)

__all__ = [
    "activation",
    "arg_reduce",
    "arithmetic",
    "comparison",
    "composite",
    "contraction",
    "creation",
    "indexing",
    "logical",
    "reduce",
    "rounding",
    "tape",
    "transcendental",
    "view",
]
