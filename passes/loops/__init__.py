"""Ops with regions: their derivatives, and what makes them small."""

from graphc.passes.loops.branches import BranchDerivative, SimplifyBranches
from graphc.passes.loops.hoist import HoistInvariants
from graphc.passes.loops.layout import LoopLayouts
from graphc.passes.loops.reverse import LoopDerivative
from graphc.passes.loops.simplify import SimplifyLoops
from graphc.passes.loops.whiles import WhileDerivative

__all__ = [
    "BranchDerivative",
    "HoistInvariants",
    "LoopDerivative",
    "LoopLayouts",
    "SimplifyBranches",
    "SimplifyLoops",
    "WhileDerivative",
]
