"""Reference backend: the NumPy interpreter of graphs, the oracle that compiled code is held to."""

from graphc.backends.reference.interpreter import run

__all__ = ["run"]
