"""Lowering: a group of ops becomes an unscheduled kernel."""

from graphc.passes.lower.group import Lowered, lower

__all__ = ["Lowered", "lower"]
