"""Loops: their derivative, and what makes them small."""

from graphc.passes.loops.reverse import LoopDerivative

__all__ = ["LoopDerivative"]
