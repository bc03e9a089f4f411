"""Kernel text round-trips, and the verifier names what is wrong."""

from __future__ import annotations

import pytest

from graphc.ir import VerifyError, parse_kernel, verify_kernel

SOFTMAX = """
kernel (b0: f32[64, 1000] in, b1: f32[64, 1000] out) axes (i < 64) checks 0 {
  reduce (r < 1000) init (f32 -inf) {
    %0: f32 = load b0[i, r]
    yield %0
  } combine (%1) (%2) {
    %3: f32 = max %1, %2
    yield %3
  } -> (%4)
  reduce (s < 1000) init (f32 0.0) {
    %5: f32 = load b0[i, s]
    %6: f32 = sub %5, %4
    %7: f32 = exp %6
    yield %7
  } combine (%8) (%9) {
    %10: f32 = add %8, %9
    yield %10
  } -> (%11)
  map (t < 1000) {
    %12: f32 = load b0[i, t]
    %13: f32 = sub %12, %4
    %14: f32 = exp %13
    %15: f32 = div %14, %11
    store b1[i, t] = %15 as f32
  }
  schedule loops parts 4 {
    loops i parallel
    stage r vector 8
    stage s unroll 2, s vector 16
    stage t vector 8
  }
}"""

EVERYTHING = """
kernel (b0: f16[7, 9] in, b1: i64[5] in, b2: f16[5, 9] inout, b3: bool[4] out, b4: f32[9] local) axes () checks 2 {
  scatter (a < 5, c < 9) {
    %0: i64 = load b1[a]
    %1: i64 = to_index %0 below 7 check 1
    %2: f16 = const 1.5
    %3: f16 = load b0[%1, c-2] where (c-2 in 0 .. 9; a+c in c .. 2*c) else %2
    %4: f16 = fma %3, %3, %2
    store b2[a, ((a+2*c)%(9))] += %4 as f16 where (max(a, c) in 0 .. 3)
  }
  map (k < 4) {
    %5: i32 = index ((k)//(2))+3*k
    %6: bool = const true
    %7: bool = const false
    %8: i32 = const -7
    %9: bool = lt %5, %8
    %10: bool = select %6, %7, %9
    store b3[k] = %10 as bool
  }
  map () {
    %11: f32 = const nan
    %12: bool = is_nan %11
    %13: f32 = cast %12
    store b4[0] = %13 as f32
  }
}"""


@pytest.mark.parametrize("text", [SOFTMAX, EVERYTHING])
def test_round_trip(text: str) -> None:
    kernel = parse_kernel(text)
    assert str(kernel) == text.strip()
    assert str(parse_kernel(str(kernel))) == str(kernel)
    verify_kernel(kernel)


def test_equal_kernels_are_one() -> None:
    assert parse_kernel(SOFTMAX) == parse_kernel(SOFTMAX)
    assert len({parse_kernel(SOFTMAX), parse_kernel(SOFTMAX)}) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sub %5, %4", "sub %5, %3", "%3 is not visible"),
        ("sub %12, %4", "sub %12, %5", "%5 is not visible"),
        ("%6: f32 = sub", "%5: f32 = sub", "%5 is defined twice"),
        ("load b0[i, r]", "load b0[i]", "1 indices"),
        ("load b0[i, r]", "load b0[i, r+1]", "in [1, 1000]"),
        ("load b0[i, r]", "load b0[i, s]", "s is no axis"),
        ("load b0[i, r]", "load b2[i, r]", "no buffer b2"),
        ("store b1[i, t]", "store b0[i, t]", "stores into an input"),
        ("store b1[i, t] =", "store b1[i, t] +=", "adds outside a scatter"),
        ("%7: f32 = exp", "%7: f64 = exp", "result should be f32"),
        ("stage r vector 8", "stage", "axes are ['r']"),
        ("stage r vector 8", "stage r parallel", "parallel loop inside"),
        ("loops i parallel", "loops i vector 8", "inside a vector loop"),
        ("init (f32 0.0)", "init (f32 0.0, f32 0.0)", "2 accumulators"),
        ("yield %0\n", "yield %0\n    %99: f32 = neg %0\n", "after yield"),
    ],
)
def test_verifier_refuses(old: str, new: str, message: str) -> None:
    assert old in SOFTMAX
    with pytest.raises(VerifyError) as error:
        verify_kernel(parse_kernel(SOFTMAX.replace(old, new)))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("%7: f32 = exp %6", "%7: f32 = explode %6"),
        ("%7: f32 = exp %6", "%7: f99 = exp %6"),
        ("load b0[i, s]", "load b0(i, s)"),
        ("i < 64", "i <= 64"),
        ("parts 4", "parts"),
        ("r vector 8", "r sideways 8"),
        ("-> (%11)", "-> %11"),
    ],
)
def test_parser_refuses(old: str, new: str) -> None:
    assert old in SOFTMAX
    with pytest.raises(ValueError, match="kernel text"):
        parse_kernel(SOFTMAX.replace(old, new))
