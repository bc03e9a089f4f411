"""Loops: their derivative, and what makes them small."""

from graphc.passes.loops.hoist import HoistInvariants
from graphc.passes.loops.layout import LoopLayouts
from graphc.passes.loops.reverse import LoopDerivative
from graphc.passes.loops.simplify import SimplifyLoops

__all__ = ["HoistInvariants", "LoopDerivative", "LoopLayouts", "SimplifyLoops"]
