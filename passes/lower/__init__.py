"""Lowering: a group of ops becomes an unscheduled kernel."""

from graphc.passes.lower.control import LoweredControl, LoweredRegion, kernels_of
from graphc.passes.lower.control import lower_any as lower
from graphc.passes.lower.group import Lowered

__all__ = ["Lowered", "LoweredControl", "LoweredRegion", "kernels_of", "lower"]
