"""Micro rows of the benchmark: single operations at many sizes, forward and gradients."""

from __future__ import annotations

from tests.benchmarks.workloads import Workload

__all__ = ["MICRO"]

MICRO: tuple[Workload, ...] = ()
