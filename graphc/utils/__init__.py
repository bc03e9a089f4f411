"""Utilities: data loading."""

from graphc.utils import data

__all__ = ["data"]
