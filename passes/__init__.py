"""Graph transformations. Importing this package registers the passes over graphs by name."""

from graphc.passes import (
    canonicalise,
    cse,
    dce,
    decompose,
    differentiate,
    drop_checks,
    fold,
    gradients,
    loops,
)
from graphc.passes.base import PASSES, Pass
from graphc.passes.context import CompileContext
from graphc.passes.manager import PassManager, run_pipeline
from graphc.passes.pipeline import OPTIMISE, Pipeline, parse_pipeline

__all__ = [
    "OPTIMISE",
    "PASSES",
    "CompileContext",
    "Pass",
    "PassManager",
    "Pipeline",
    "canonicalise",
    "cse",
    "dce",
    "decompose",
    "differentiate",
    "drop_checks",
    "fold",
    "gradients",
    "loops",
    "parse_pipeline",
    "run_pipeline",
]
