"""Rematerialisation: values of the forward part are computed again in the backward part, so that they need not be kept.

Every op is pure and its bits depend on its operands alone, so nothing that a program returns changes.
"""

from graphc.passes.remat.apply import ATTEMPTS, THOROUGH, Attempt, rematerialise
from graphc.passes.remat.order import frugal_copy, likely_peak
from graphc.passes.remat.parts import part_of

__all__ = ["ATTEMPTS", "THOROUGH", "Attempt", "frugal_copy", "likely_peak", "part_of", "rematerialise"]
