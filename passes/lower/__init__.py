"""Lowering: a group of ops becomes an unscheduled kernel."""

from graphc.passes.lower.group import Lowered
from graphc.passes.lower.loops import LoweredLoop, kernels_of
from graphc.passes.lower.loops import lower_loop as lower

__all__ = ["Lowered", "LoweredLoop", "kernels_of", "lower"]
