"""Sums over 3×3 windows through transformed tiles: F(2×2, 3×3), four multiplications an output instead of nine."""

from __future__ import annotations

from graphc.backends.llvm.contraction.winograd.emit import emit_windows
from graphc.backends.llvm.contraction.winograd.plan import Plan, describe, make_plan

__all__ = ["Plan", "describe", "emit_windows", "make_plan"]
