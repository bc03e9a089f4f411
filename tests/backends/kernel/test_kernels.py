"""Kernels as text, each under several schedules: one line of data per schedule. Long because the kernels are."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from graphc.backends.llvm.kernel import emit_kernel
from graphc.backends.llvm.kernel.apart import stages_apart
from graphc.backends.llvm.kernel.blocks import row_blocks
from graphc.backends.llvm.text import ModuleText
from graphc.ir.failure import error_word
from graphc.ir.target import TARGETS
from graphc.ir.types import DTYPES
from tests.backends.kernel.check import check, scheduled, values
from tests.backends.kernel.native import RUNNABLE, kernel_object

ADD = """
kernel (b0: {t}[{n}] in, b1: {t}[{n}] in, b2: {t}[{n}] out) axes (i < {n}) checks 0 {{
  map () {{
    %0: {t} = load b0[i]
    %1: {t} = load b1[i]
    %2: {t} = add %0, %1
    %3: {t} = mul %2, %1
    store b2[i] = %3 as {t}
  }}
}}"""


@pytest.mark.parametrize("dtype", ["bool", "u8", "i64", "bf16", "f32"])
@pytest.mark.parametrize(
    ("n", "loops"),
    [
        (1, "i parallel, i vector 8"),
        (103, "i parallel, i vector 8"),
        (103, "i parallel, i unroll 4, i vector 8"),
        (129, "i parallel 32, i unroll 2, i vector 16"),
        (103, "i vector 16"),
        (103, "i unroll 4"),
        (103, "i tile 24, i vector 8"),
        (0, "i parallel, i vector 8"),
    ],
)
def test_elementwise(dtype: str, n: int, loops: str) -> None:
    check(scheduled(ADD.format(t=dtype, n=n), loops, ""))


VIEWS = """
kernel (b0: f32[6, 10] in, b1: f32[10] in, b2: f32[6] in, b3: f32[60] in, b4: f32[6, 10] out, b5: f32[10, 6] out)
  axes (i < 6, j < 10) checks 0 {
  map () {
    %0: f32 = load b0[i, j]
    %1: f32 = load b1[j]
    %2: f32 = load b2[i]
    %3: f32 = load b0[5-i, 9-j]
    %4: f32 = load b3[6*j+i]
    %5: f32 = mul %0, %1
    %6: f32 = add %5, %2
    %7: f32 = sub %6, %3
    %8: f32 = add %7, %4
    %9: f32 = load b0[((7*i+j)%(6)), ((3*j+i)//(5))]
    %10: f32 = add %8, %9
    %11: f32 = index i*j+2
    %12: f32 = mul %10, %11
    store b4[i, j] = %12 as f32
    store b5[9-j, i] = %8 as f32
  }
}"""


@pytest.mark.parametrize(
    "loops",
    [
        "i parallel, j vector 8",
        "i parallel, j parallel, j vector 4",
        "j parallel, i vector 4",
        "i parallel 4, j parallel, i vector 4",
        "j parallel, j vector 8, i unroll 3",
        "i sequential, j unroll 2, j vector 4",
        "i parallel 2, j parallel 4, i sequential, j vector 2",
    ],
)
def test_index_maps(loops: str) -> None:
    check(scheduled(VIEWS.replace(")\n  axes", ") axes"), loops, ""))


PAD = """
kernel (b0: {t}[5, 7] in, b1: {t}[9, 12] out) axes (i < 9, j < 12) checks 0 {{
  map () {{
    %0: {t} = const 2
    %1: {t} = load b0[i-2, j-3] where (i-2 in 0 .. 5; j-3 in 0 .. 7) else %0
    %2: {t} = load b0[1, 13-2*j] where (13-2*j in 0 .. 7) else %1
    %3: {t} = load b0[i, 8-j] where (8-j in 0 .. 7; i in 0 .. 5) else %2
    %4: {t} = load b0[((i)//(2)), 0] where (j in 3 .. 8) else %3
    %5: {t} = add %1, %2
    %6: {t} = add %5, %3
    %7: {t} = add %6, %4
    store b1[i, j] = %7 as {t} where (i+j in 2 .. 15)
  }}
}}"""


@pytest.mark.parametrize("dtype", ["f32", "bf16", "i64", "u8", "bool"])
@pytest.mark.parametrize(
    "loops", ["i parallel, j vector 8", "j parallel, i vector 4", "i parallel, j vector 16"]
)
def test_guards(dtype: str, loops: str) -> None:
    check(scheduled(PAD.format(t=dtype), loops, ""))


REDUCE = """
kernel (b0: {t}[7, {n}] in, b1: {a}[7] out) axes (i < 7) checks 0 {{
  reduce (r < {n}) init ({a} {init}) {{
    %0: {t} = load b0[i, r]
    %1: {a} = cast %0
    yield %1
  }} combine (%2) (%3) {{
    %4: {a} = {op} %2, %3
    yield %4
  }} -> (%5)
  map () {{
    store b1[i] = %5 as {a}
  }}
}}"""


@pytest.mark.parametrize(
    ("dtype", "acc", "op", "init"),
    [
        ("f32", "f32", "add", "0.0"),
        ("f64", "f64", "add", "0.0"),
        ("bf16", "f32", "add", "0.0"),
        ("i32", "i64", "add", "0"),
        ("u8", "u8", "max", "0"),
        ("bool", "bool", "or", "false"),
        ("f32", "f32", "max", "-inf"),
        ("f16", "f32", "min", "inf"),
        ("i64", "i64", "mul", "1"),
    ],
)
@pytest.mark.parametrize("n", [5, 33, 203])
def test_row_reductions(dtype: str, acc: str, op: str, init: str, n: int) -> None:
    text = REDUCE.format(t=dtype, a=acc, op=op, init=init, n=n)
    for stage in ("r vector 8", "r vector 32", "r unroll 2, r vector 4", "r sequential", "r unroll 4"):
        check(scheduled(text, "i parallel", stage, ""), parts=(1, 3))
    for stage in ("r sequential", "r unroll 3"):
        check(scheduled(text, "i parallel, i vector 4", stage, ""), parts=(1, 2))


def test_vector_length_does_not_change_a_sum() -> None:
    text = REDUCE.format(t="f32", a="f32", op="add", init="0.0", n=203)
    given = [values(np.random.default_rng(5), DTYPES["f32"], (7, 203)), np.zeros(7, np.float32)]
    for stage in (
        "r vector 4",
        "r vector 8",
        "r vector 16",
        "r vector 32",
        "r vector 64",
        "r tile 64, r vector 8",
    ):
        kernel = scheduled(text, "i parallel", stage, "")
        check(kernel, inputs=given)


ARGMAX = """
kernel (b0: f32[5, {n}] in, b1: i64[5] out, b2: f32[5] out) axes (i < 5) checks 0 {{
  reduce (r < {n}) init (f32 -inf, i64 9223372036854775807) {{
    %0: f32 = load b0[i, r]
    %1: i64 = index r
    yield %0, %1
  }} combine (%2, %3) (%4, %5) {{
    %6: bool = gt %2, %4
    %7: bool = eq %2, %4
    %8: bool = lt %3, %5
    %9: bool = and %7, %8
    %10: bool = or %6, %9
    %11: f32 = select %10, %2, %4
    %12: i64 = select %10, %3, %5
    yield %11, %12
  }} -> (%13, %14)
  map () {{
    store b1[i] = %14 as i64
    store b2[i] = %13 as f32
  }}
}}"""


@pytest.mark.parametrize("n", [3, 40, 101])
@pytest.mark.parametrize(
    ("loops", "stage"),
    [
        ("i parallel", "r vector 8"),
        ("i parallel", "r vector 4"),
        ("i parallel", "r sequential"),
        ("i parallel, i vector 4", "r unroll 2"),
    ],
)
def test_argmax(n: int, loops: str, stage: str) -> None:
    check(scheduled(ARGMAX.format(n=n), loops, stage, ""))


SOFTMAX = """
kernel (b0: {t}[13, {n}] in, b1: {t}[13, {n}] out) axes (i < 13) checks 0 {{
  reduce (r < {n}) init ({t} -inf) {{
    %0: {t} = load b0[i, r]
    yield %0
  }} combine (%1) (%2) {{
    %3: {t} = max %1, %2
    yield %3
  }} -> (%4)
  reduce (s < {n}) init ({t} 0.0) {{
    %5: {t} = load b0[i, s]
    %6: {t} = sub %5, %4
    %7: {t} = exp %6
    yield %7
  }} combine (%8) (%9) {{
    %10: {t} = add %8, %9
    yield %10
  }} -> (%11)
  map () {{
    %12: {t} = const 1
    %13: {t} = div %12, %11
  }}
  map (q < {n}) {{
    %14: {t} = load b0[i, q]
    %15: {t} = sub %14, %4
    %16: {t} = exp %15
    %17: {t} = mul %16, %13
    store b1[i, q] = %17 as {t}
  }}
}}"""


@pytest.mark.parametrize("n", [10, 100])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize(
    ("loops", "stages"),
    [
        ("i parallel", ("r vector 8", "s vector 8", "", "q vector 8")),
        ("i parallel", ("r sequential", "s unroll 2", "", "q unroll 4")),
        ("i parallel, i vector 4", ("r sequential", "s unroll 2", "", "q sequential")),
    ],
)
def test_softmax(dtype: str, n: int, loops: str, stages: tuple[str, ...]) -> None:
    check(scheduled(SOFTMAX.format(t=dtype, n=n), loops, *stages), steps=16)


COLUMNS = """
kernel (b0: f32[{r}, 37] in, b1: f32[37] inout) axes (j < 37) checks 0 {{
  map () {{
    %0: f32 = load b1[j]
  }}
  reduce (a < {r}, c < 1) init (f32 0.0) {{
    %1: f32 = load b0[a+c, j]
    yield %1
  }} combine (%2) (%3) {{
    %4: f32 = add %2, %3
    yield %4
  }} -> (%5)
  map () {{
    %6: f32 = add %0, %5
    store b1[j] = %6 as f32
  }}
}}"""


@pytest.mark.parametrize("rows", [0, 1, 9, 64, 99])
@pytest.mark.parametrize(
    "loops", ["j parallel", "j parallel, j vector 8", "j parallel, j unroll 2, j vector 16"]
)
@pytest.mark.parametrize(
    "stage", ["a sequential, c sequential", "a unroll 4, c sequential", "a tile 4, a sequential, c unroll 2"]
)
def test_column_sums(rows: int, loops: str, stage: str) -> None:
    if rows == 0:
        check(scheduled(COLUMNS.format(r=0), loops, "", stage, ""))
    else:
        check(scheduled(COLUMNS.format(r=rows), loops, "", stage, ""))


TWO_AXES = """
kernel (b0: f32[3, 11, 21] in, b1: f32[3] out) axes (i < 3) checks 0 {
  reduce (r < 11, s < 21) init (f32 0.0) {
    %0: f32 = load b0[i, r, 0]
    %1: f32 = load b0[i, r, s]
    %2: f32 = mul %0, %1
    yield %2
  } combine (%3) (%4) {
    %5: f32 = add %3, %4
    yield %5
  } -> (%6)
  map () {
    store b1[i] = %6 as f32
  }
}"""


@pytest.mark.parametrize(
    "stage",
    [
        "r sequential, s vector 8",
        "r unroll 2, s vector 4",
        "r sequential, s unroll 5",
        "s sequential, r vector 4",
    ],
)
def test_two_reduced_axes(stage: str) -> None:
    check(scheduled(TWO_AXES, "i parallel", stage, ""))


GATHER = """
kernel (b0: {t}[6, 20] in, b1: i64[9] in, b2: i32[9, 20] in, b3: {t}[9, 20] out, b4: {t}[9, 20] out) axes (i < 9, j < 20) checks 2 {{
  map () {{
    %0: i64 = load b1[i]
    %1: i64 = to_index %0 below 6 check 0
    %2: {t} = load b0[%1, j]
    store b3[i, j] = %2 as {t}
    %3: i32 = load b2[i, j]
    %4: i64 = to_index %3 below 20 check 1
    %5: {t} = load b0[((i)%(6)), %4]
    store b4[i, j] = %5 as {t}
  }}
}}"""


def gathers(dtype: str, rows: Any, columns: Any) -> list[Any]:
    rng = np.random.default_rng(4)
    table = values(rng, DTYPES[dtype], (6, 20))
    out = np.zeros((9, 20), table.dtype)
    return [table, np.asarray(rows, np.int64), np.asarray(columns, np.int32), out, out.copy()]


@pytest.mark.parametrize("dtype", ["f32", "f16", "i64"])
@pytest.mark.parametrize(
    "loops", ["i parallel, j vector 8", "i parallel, j parallel", "j parallel, i vector 4"]
)
@pytest.mark.parametrize(
    ("row", "column", "error"),
    [
        (0, 0, 2**63 - 1),
        (6, 0, error_word(1, 6)),
        (0, 20, error_word(2, 20)),
        (-1, -7, error_word(1, -1)),
        (2**40, 3, error_word(1, 2**39 - 1)),
        (5, -(2**31), error_word(2, -(2**31))),
    ],
)
def test_gather(dtype: str, loops: str, row: int, column: int, error: int) -> None:
    rng = np.random.default_rng(6)
    rows, columns = rng.integers(0, 6, 9), rng.integers(0, 20, (9, 20))
    rows[8], columns[8, 19] = row, column
    given = gathers(dtype, rows, columns)
    check(scheduled(GATHER.format(t=dtype), loops, ""), inputs=given, error=error)


SCATTER = """
kernel (b0: i64[30] in, b1: {t}[30, 12] in, b2: {t}[7, 12] inout) axes (j < 12) checks 1 {{
  scatter (a < 30) {{
    %0: i64 = load b0[a]
    %1: i64 = to_index %0 below 7 check 0
    %2: {t} = load b1[a, j]
    store b2[%1, j] += %2 as {t} where (%1 in {low} .. 7)
  }}
}}"""


@pytest.mark.parametrize("dtype", ["f32", "bf16", "i32"])
@pytest.mark.parametrize("low", [0, 3])
@pytest.mark.parametrize(
    ("loops", "stage"),
    [
        ("j parallel", "a sequential"),
        ("j parallel, j vector 8", "a sequential"),
        ("j parallel, j vector 4", "a unroll 2"),
        ("j parallel", "a vector 4"),
    ],
)
def test_scatter(dtype: str, low: int, loops: str, stage: str) -> None:
    rng = np.random.default_rng(7)
    source, base = (values(rng, DTYPES[dtype], shape) for shape in ((30, 12), (7, 12)))
    given = [rng.integers(0, 7, 30), source, base]
    check(scheduled(SCATTER.format(t=dtype, low=low), loops, stage), inputs=given)


LOCALS = """
kernel (b0: f32[10, {n}] in, b1: f32[10, {n}] out, b2: f32[{n}] local, b3: bf16[3, {n}] local) axes (i < 10) checks 0 {{
  map (p < {n}) {{
    %0: f32 = load b0[i, p]
    %1: f32 = mul %0, %0
    store b2[p] = %1 as f32
    %2: bf16 = cast %1
    store b3[2, p] = %2 as bf16
  }}
  map (q < {n}) {{
    %3: f32 = load b2[{n}-1-q]
    %4: bf16 = load b3[2, ((5*q)%({n}))]
    %5: f32 = cast %4
    %6: f32 = add %3, %5
    store b1[i, q] = %6 as f32
  }}
}}"""


@pytest.mark.parametrize("n", [17, 9000])
@pytest.mark.parametrize(
    ("loops", "stages"),
    [
        ("i parallel", ("p vector 8", "q vector 8")),
        ("i parallel, i vector 4", ("p sequential", "q sequential")),
        ("i parallel", ("p sequential", "q unroll 2")),
    ],
)
def test_locals(n: int, loops: str, stages: tuple[str, ...]) -> None:
    small = n < 100
    check(scheduled(LOCALS.format(n=n), loops, *stages), parts=(1, 2, 3, 7) if small else (3,))


SUM_OF_LOCAL = """
kernel (b0: f32[6, 10] in, b1: f32[10] out, b2: f32[6] local) axes (i < 10) checks 0 {
  map (p < 6) {
    %0: f32 = load b0[p, i]
    store b2[p] = %0 as f32
  }
  reduce (q < 6) init (f32 0) {
    %1: f32 = load b2[q]
    yield %1
  } combine (%2) (%3) {
    %4: f32 = add %2, %3
    yield %4
  } -> (%5)
  map () {
    store b1[i] = %5 as f32
  }
}"""


@pytest.mark.parametrize("loops", ["i parallel", "i parallel, i vector 4"])
def test_a_sum_of_a_local_buffer_alone_differs_between_outer_lanes(loops: str) -> None:
    check(scheduled(SUM_OF_LOCAL, loops, "p sequential", "q sequential", ""), parts=(1, 2, 3))


PRODUCT = """
kernel (b0: {t}[5, 9] in, b1: {t}[9, 11] in, b2: {a}[5, 11] out) axes (i < 5, j < 11) checks 0 {{
  reduce (k < 9) init ({a} 0) {{
    %0: {t} = load b0[i, k]
    %1: {t} = load b1[k, j]
    %2: {a} = cast %0
    %3: {a} = cast %1
    %4: {a} = mul %2, %3
    yield %4
  }} combine (%5) (%6) {{
    %7: {a} = add %5, %6
    yield %7
  }} -> (%8)
  map () {{
    store b2[i, j] = %8 as {a}
  }}
}}"""


@pytest.mark.parametrize(
    ("dtype", "acc"), [("i8", "i8"), ("i64", "i64"), ("f64", "f64"), ("bf16", "f32"), ("u8", "i32")]
)
@pytest.mark.parametrize(
    ("loops", "stage"), [("i parallel, j vector 4", "k sequential"), ("i parallel, j parallel", "k vector 4")]
)
def test_contractions(dtype: str, acc: str, loops: str, stage: str) -> None:
    check(scheduled(PRODUCT.format(t=dtype, a=acc), loops, stage, ""))


POOLING = """
kernel (b0: f32[3, 10, 24] in, b1: i64[3, 5, 12] in, b2: f32[3, 5, 12] in, b3: f32[3, 10, 24] out, b4: f32[3, 5, 12] out)
  axes (i < 3) checks 0 {
  map (p < 10, q < 24) {
    %0: f32 = const 0.0
    %1: i64 = const -1
    %2: i64 = index 24*p+q
    %3: i64 = load b1[i, ((p+1)//(2))-1, ((q)//(2))] where (((p+1)%(2)) in 0 .. 1; ((p+1)//(2)) in 1 .. 6; ((q)%(2)) in 0 .. 1) else %1
    %4: f32 = load b2[i, ((p)//(2)), ((q+1)//(2))-1] where (((q+1)%(2)) in 0 .. 1; ((q+1)//(2)) in 1 .. 12) else %0
    %5: bool = lt %3, %2
    %6: f32 = select %5, %4, %0
    store b3[i, p, q] = %6 as f32
  }
  map (r < 5, s < 12) {
    %7: f32 = load b0[i, 2*r+1, 2*s]
    %8: f32 = const -1.0
    %9: f32 = load b0[i, r, 3*s-1] where (3*s-1 in 0 .. 24) else %8
    %10: f32 = add %7, %9
    store b4[i, r, s] = %10 as f32
  }
}"""


@pytest.mark.parametrize(
    ("loops", "stages"),
    [
        ("i parallel", ("p unroll 2, q vector 8", "r sequential, s vector 4")),
        ("i parallel", ("p sequential, q unroll 2, q vector 8", "r sequential, s vector 8")),
        ("i parallel", ("p sequential, q vector 16", "r unroll 5, s unroll 12")),
        ("i parallel", ("q sequential, p vector 4", "r sequential, s vector 2")),
        ("i parallel, i vector 4", ("p sequential, q sequential", "r sequential, s unroll 3")),
    ],
)
def test_strides_and_divisions(loops: str, stages: tuple[str, ...]) -> None:
    check(scheduled(POOLING.replace(")\n  axes", ") axes"), loops, *stages))


WINDOW = """
kernel (b0: i32[6, 8] in, b1: i64[6, 8] in, b2: i32[6, 16, 16] out) axes (i < 6, j < 16, k < 16) checks 0 {
  map () {
    %0: i64 = index 16*j+k
  }
  reduce (a < 3, c < 3) init (i32 0) {
    %1: i32 = const 0
    %2: i64 = const 100
    %3: i32 = load b0[i, ((-c+k+1)//(2))] where (((-a+j+1)%(2)) in 0 .. 1; ((-a+j+1)//(2)) in 0 .. 8; ((-c+k+1)%(2)) in 0 .. 1; ((-c+k+1)//(2)) in 0 .. 8) else %1
    %4: i64 = load b1[i, ((-c+k+1)//(2))] where (((-a+j+1)%(2)) in 0 .. 1; ((-a+j+1)//(2)) in 0 .. 8; ((-c+k+1)%(2)) in 0 .. 1; ((-c+k+1)//(2)) in 0 .. 8) else %2
    %5: bool = lt %4, %0
    %6: i32 = select %5, %3, %1
    yield %6
  } combine (%7) (%8) {
    %9: i32 = add %7, %8
    yield %9
  } -> (%10)
  map () {
    store b2[i, j, k] = %10 as i32
  }
}"""


@pytest.mark.parametrize(
    "loops", ["i parallel, j sequential, k vector 8", "i parallel, j parallel, k unroll 2, k vector 4"]
)
@pytest.mark.parametrize("stage", ["a sequential, c sequential", "a sequential, c unroll 3"])
def test_windows(loops: str, stage: str) -> None:
    check(scheduled(WINDOW, loops, "", stage, ""))


@pytest.mark.parametrize("name", ["x86-64-v4", "aarch64"])
@pytest.mark.parametrize(
    ("text", "loops", "stages"),
    [
        (ADD.format(t="f16", n=103), "i parallel, i vector 16", ("",)),
        (VIEWS.replace(")\n  axes", ") axes"), "i parallel, j vector 8", ("",)),
        (PAD.format(t="bf16"), "i parallel, j vector 8", ("",)),
        (REDUCE.format(t="u8", a="u8", op="max", init="0", n=67), "i parallel", ("r vector 32", "")),
        (ARGMAX.format(n=101), "i parallel", ("r vector 8", "")),
        (SOFTMAX.format(t="f64", n=100), "i parallel", ("r vector 8", "s vector 8", "", "q vector 8")),
        (COLUMNS.format(r=64), "j parallel, j unroll 4, j vector 8", ("", "a sequential, c sequential", "")),
        (GATHER.format(t="f32"), "i parallel, j vector 8", ("",)),
        (SCATTER.format(t="bf16", low=3), "j parallel, j vector 8", ("a sequential",)),
        (LOCALS.format(n=9000), "i parallel, i vector 4", ("p sequential", "q sequential")),
        (WINDOW, "i parallel, j sequential, k vector 8", ("", "a sequential, c sequential", "")),
    ],
)  # fmt: skip
def test_other_targets(text: str, loops: str, stages: tuple[str, ...], name: str) -> None:
    kernel_object(scheduled(text, loops, *stages), TARGETS[name])


JOINED = """
kernel (b0: f32[3, 16] in, b1: f32[3, 24] in, b2: f32[3, 40] inout) axes (i < 3, j < 40) checks 0 {{
  map () {{
    %0: f32 = const 2.0
    %1: f32 = load b0[i, j-{first}] where (j-{first} in 0 .. 16) else %0
    %2: f32 = load b1[i, j-{second}] where (j-{second} in 0 .. 24) else %0
    %3: f32 = sub %1, %2
    store b2[i, j] = %3 as f32 where (j in {second} .. 32)
  }}
}}"""


@pytest.mark.parametrize(
    "loops",
    ["i parallel, j vector 8", "i parallel, j parallel 8, j vector 4", "i parallel, j unroll 2, j vector 16"],
)
@pytest.mark.parametrize(("first", "second"), [(0, 16), (24, 0), (5, 16), (8, 3)])
def test_guards_at_and_inside_vectors(loops: str, first: int, second: int) -> None:
    check(scheduled(JOINED.format(first=first, second=second), loops, ""))


ROWS = """
kernel (b0: f32[5, 48] in, b1: f32[5, 48] out, b2: f32[5, 48] out) axes (i < 5) checks 0 {
  map (j < 48) {
    %0: f32 = load b0[i, j]
    %1: f32 = neg %0
    store b1[i, j] = %1 as f32
    store b2[i, 47-j] = %1 as f32
  }
}"""


@pytest.mark.parametrize(
    "stage", ["j vector 8", "j vector 16", "j vector 32", "j unroll 2, j vector 4", "j sequential"]
)
@pytest.mark.parametrize("loops", ["i parallel", "i sequential"])
def test_results_larger_than_the_caches(loops: str, stage: str) -> None:
    """Whole vectors of neighbours are stored past the caches, everything else through them."""
    small = [dataclasses.replace(t, l3_bytes=1024) for t in RUNNABLE]
    kernel = scheduled(ROWS, loops, stage)
    check(kernel, targets=small)
    text = ModuleText(small[0])
    emit_kernel(kernel, text, "kernel", small[0])
    assert ("!nontemporal" in str(text)) == ("vector" in stage)


READ_AGAIN = """
kernel (b0: f32[600] in, b1: f32[600] out) axes (i < 4) checks 0 {
  reduce (j < 150) init (f32 0.0) {
    %0: f32 = load b0[150*i+j]
    yield %0
  } combine (%1) (%2) {
    %3: f32 = add %1, %2
    yield %3
  } -> (%4)
  map (k < 150) {
    %5: f32 = load b0[150*i+k]
    %6: f32 = sub %5, %4
    store b1[150*i+k] = %6 as f32
  }
}"""


def test_the_next_row_is_fetched_while_one_is_read_again() -> None:
    small = [dataclasses.replace(t, l2_bytes=2048) for t in RUNNABLE]
    kernel = scheduled(READ_AGAIN, "i parallel", "j vector 8", "k vector 8")
    check(kernel, targets=small)
    for target, ahead in ((small[0], True), (dataclasses.replace(small[0], l2_bytes=4096), False)):
        text = ModuleText(target)
        emit_kernel(kernel, text, "kernel", target)
        assert ("llvm.prefetch" in str(text)) == ahead


EMBEDDED = """
kernel (b0: f32[6, 70] out, b1: i64[9] in, b2: f32[9, 70] in) axes (c < 70) checks 1 {
  map (r < 6) {
    %0: f32 = const 0.5
    store b0[r, c] = %0 as f32
  }
  scatter (t < 9) {
    %1: i64 = load b1[t]
    %2: i64 = to_index %1 below 6 check 0
    %3: f32 = load b2[t, c]
    store b0[%2, c] += %3 as f32
  }
}"""


@pytest.mark.parametrize(
    ("loops", "count"),
    [("c parallel 64, c unroll 4, c vector 8", 2), ("c parallel 8, c vector 8", 2), ("c parallel", 1)],
)
def test_a_scatter_in_lanes_goes_stage_by_stage(loops: str, count: int) -> None:
    kernel = scheduled(EMBEDDED, loops, "r sequential", "t sequential")
    assert len(stages_apart(kernel)) == count
    rng = np.random.default_rng(0)
    indices = np.array([0, 5, 5, 2, 0, 3, 5, 1, 2])
    inputs = [np.zeros((6, 70), np.float32), indices, rng.standard_normal((9, 70)).astype(np.float32)]
    check(kernel, inputs=inputs)
    check(kernel, inputs=[inputs[0], indices + 3, inputs[2]], error=error_word(1, 6))


SHORT_ROWS = """
kernel (b0: i64[96] in, b1: {t}[{w}] in, b2: {t}[{w}] out, b3: {t}[96] out, b4: {t}[{n}] local)
  axes (i < 96) checks 1 {{
  map () {{
    %0: i64 = load b0[i]
    %1: i64 = const 2
    %2: bool = lt %0, %1
    %3: i64 = to_index %0 below {n} check 0
    %4: {t} = load b1[%3+{n}*i]
  }}
  reduce (j < {n}) init ({t} -inf) {{
    %5: {t} = load b1[{n}*i+j]
    yield %5
  }} combine (%6) (%7) {{
    %8: {t} = max %6, %7
    yield %8
  }} -> (%9)
  reduce (k < {n}) init ({t} 0.0) {{
    %10: {t} = load b1[{n}*i+k]
    %11: {t} = sub %10, %9
    %12: {t} = mul %11, %11
    store b4[k] = %12 as {t}
    yield %12
  }} combine (%13) (%14) {{
    %15: {t} = add %13, %14
    yield %15
  }} -> (%16)
  map () {{
    %17: {t} = const 1.0
    %18: {t} = div %17, %16
    %19: {t} = sqrt %16
    %20: {t} = sub %4, %9
    %21: {t} = sub %19, %20
    %22: {t} = select %2, %21, %17
    store b3[i] = %22 as {t}
  }}
  map (l < {n}) {{
    %23: {t} = load b4[l]
    %24: {t} = mul %23, %18
    %25: i64 = index l
    %26: bool = eq %0, %25
    %27: {t} = select %26, %22, %24
    store b2[{n}*i+l] = %27 as {t}
  }}
}}"""


@pytest.mark.parametrize(
    ("dtype", "points", "role"),
    [
        ("f32", 17, "parallel"),
        ("f32", 126, "sequential"),
        ("f64", 33, "parallel"),
        ("f16", 17, "sequential"),
        ("bf16", 33, "parallel"),
    ],
)
def test_short_rows_go_through_one_stage_after_the_other(dtype: str, points: int, role: str) -> None:
    text = SHORT_ROWS.replace(")\n  axes", ") axes").format(t=dtype, n=points, w=96 * points)
    kernel = scheduled(text, f"i {role}", "", "j vector 8", "k vector 16", "", "l vector 8")
    blocks = [row_blocks(kernel, t) for t in RUNNABLE]
    assert all(len(b) == 5 for t, b in zip(RUNNABLE, blocks, strict=True) if 12 * t.width(32) <= 96)
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, points, 96)
    numbers[5], numbers[6] = 1, 0
    numpy = DTYPES[dtype].numpy
    rows = rng.standard_normal(96 * points).astype(numpy)
    check(kernel, inputs=[numbers, rows, np.zeros(96 * points, numpy), np.zeros(96, numpy)])


@pytest.mark.parametrize(
    ("change", "loops"),
    [
        (("i < 96", "i < 95"), "i parallel"),
        (("%{n}*i", "%{n}*i"), "i tile 8, i sequential"),
        (("%27: {t} = select %26", "%27: {t} = select %2"), "i parallel"),
    ],
)
def test_what_is_not_run_in_blocks_of_rows(change: tuple[str, str], loops: str) -> None:
    kernel = scheduled(
        SHORT_ROWS.replace(")\n  axes", ") axes").replace(*change).format(t="f32", n=17, w=96 * 17),
        loops, "", "j vector 8", "k vector 16", "", "l vector 8",
    )  # fmt: skip
    cloned = change[1].endswith("%2")
    assert bool(row_blocks(kernel, RUNNABLE[0])) == cloned  # a condition made from inputs is made again
    numbers = np.arange(96, dtype=np.int64) % 17
    rows = np.random.default_rng(0).standard_normal(96 * 17).astype(np.float32)
    check(kernel, inputs=[numbers, rows, np.zeros(96 * 17, np.float32), np.zeros(96, np.float32)])


def test_lines_of_a_row_are_fetched_before_it_is_stored() -> None:
    text = """
    kernel (b0: f32[8192] in, b1: f32[8192] out, b2: f32[512] local) axes (i < 16) checks 0 {
      reduce (j < 512) init (f32 0.0) {
        %0: f32 = load b0[512*i+j]
        %1: f32 = exp %0
        store b2[j] = %1 as f32
        yield %1
      } combine (%2) (%3) {
        %4: f32 = add %2, %3
        yield %4
      } -> (%5)
      map (k < 512) {
        %6: f32 = load b2[k]
        %7: f32 = div %6, %5
        store b1[512*i+k] = %7 as f32
      }
    }"""
    kernel = scheduled(text, "i parallel", "j vector 32", "k vector 8")
    small = [dataclasses.replace(t, l2_bytes=8192) for t in RUNNABLE]
    check(kernel, targets=small, steps=8)
    found = []
    for target in (small[0], RUNNABLE[0], dataclasses.replace(small[0], l3_bytes=1024)):
        module = ModuleText(target)
        emit_kernel(kernel, module, "kernel", target)
        found.append(len(re.findall(r"call void @llvm.prefetch.p0\(ptr %\w+, i32 1,", str(module))))
    # Where the result fits in L2 nothing is asked for, and neither in the body that stores past the caches.
    assert found[0] > 0 and found[1:] == [0, found[0]]


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize(("opcode", "init"), [("max", "-inf"), ("min", "inf")])
def test_the_largest_of_a_row_finds_every_nan(dtype: str, opcode: str, init: str) -> None:
    text = f"""
    kernel (b0: {dtype}[7100] in, b1: {dtype}[71] out) axes (i < 71) checks 0 {{
      reduce (j < 100) init ({dtype} {init}) {{
        %0: {dtype} = load b0[100*i+j]
        yield %0
      }} combine (%1) (%2) {{
        %3: {dtype} = {opcode} %1, %2
        yield %3
      }} -> (%4)
      map () {{
        store b1[i] = %4 as {dtype}
      }}
    }}"""
    rows = np.random.default_rng(0).standard_normal((71, 100)).round(1).astype(DTYPES[dtype].numpy)
    rows[np.arange(70), np.arange(0, 100)[:70]] = np.nan
    rows[:30, 99] = np.nan
    check(
        scheduled(text, "i parallel", "j vector 8" if dtype == "f32" else "j vector 4", ""),
        inputs=[rows.reshape(-1), np.zeros(71, rows.dtype)],
    )


@pytest.mark.parametrize("opcode", ["eq", "ne"])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_number_is_compared_with_positions(opcode: str, swapped: bool) -> None:
    operands = "%2, %0" if swapped else "%0, %2"
    text = f"""
    kernel (b0: i64[8] in, b1: f32[264] out) axes (i < 8) checks 0 {{
      map () {{
        %0: i64 = load b0[i]
      }}
      map (j < 33) {{
        %2: i64 = index j
        %3: bool = {opcode} {operands}
        %4: f32 = cast %3
        store b1[33*i+j] = %4 as f32
      }}
    }}"""
    numbers = np.array([0, 5, 32, 33, -1, 2**32 + 3, -(2**32) + 4, 2**31])
    check(scheduled(text, "i parallel", "", "j vector 8"), inputs=[numbers, np.zeros(264, np.float32)])
