"""Ops that are small graphs of others: a decomposition, and a VJP of their own where that is better."""

from graphc.ir.ops.composite import (
    class_loss,
    custom,
    layer,
    loss,
    normalisation,
    products,
    softmax,
    statistics,
)

__all__ = ["class_loss", "custom", "layer", "loss", "normalisation", "products", "softmax", "statistics"]
