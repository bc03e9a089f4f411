"""The ops, one class each, by family. Importing this package fills `graphc.ir.families.REGISTRY`."""

from graphc.ir.ops import arithmetic, contraction, creation, reduce, view

__all__ = ["arithmetic", "contraction", "creation", "reduce", "view"]
