"""Utilities: data loading, checkpoints."""

from graphc.utils import checkpoint, data

__all__ = ["checkpoint", "data"]
