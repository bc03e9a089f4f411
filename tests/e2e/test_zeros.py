"""Kernels that differ in the sign of a zero are two kernels."""

from __future__ import annotations

import numpy as np

import graphc

ZEROS = """graph @zeros() -> (f32[5], f32[5]) {
  %0: f32[] = constant {value=dense(f32[], "00000080")}
  %1: f32[5] = expand %0 {shape=[5]}
  %2: f32[] = constant {value=dense(f32[], "00000000")}
  %3: f32[5] = expand %2 {shape=[5]}
  return %1, %3
}"""


def test_zeros_of_both_signs() -> None:
    minus, plus = graphc.run_graph(graphc.ir.parse(ZEROS))
    assert np.signbit(minus).all()
    assert not np.signbit(plus).any()
