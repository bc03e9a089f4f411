"""Fusion: cuts a graph into groups, one kernel each."""

from graphc.passes.fuse.apply import fuse
from graphc.passes.fuse.groups import Fused, Group

__all__ = ["Fused", "Group", "fuse"]
