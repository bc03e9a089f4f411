"""Plans of contraction kernels chosen by measurement: `graphc.compile(..., tune=True)`."""

from graphc.backends.llvm.tuning.backend import TuningBackend

__all__ = ["TuningBackend"]
