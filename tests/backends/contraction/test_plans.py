"""Every plan of a matrix product gives the same bits, on every partition count."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from graphc.backends.llvm import contraction
from graphc.backends.llvm.contraction.plan import Plan, all_plans, best_parts, make_plan
from graphc.backends.llvm.contraction.turned_sums import is_turned
from graphc.ir.kernel import Kernel
from graphc.ir.target import TARGETS
from graphc.ir.types import DType, float32, float64
from tests.backends.contraction.kernels import Body, Convolution, Index, buffer, matmul
from tests.backends.contraction.native import Native
from tests.backends.contraction.test_matmul import product

T = True

# rows, columns, steps, options, epilogue
CASES = [
    (64, 70, 96, {"b_transposed": T}, "plain"),
    (64, 100, 330, {"b_transposed": T}, "plain"),
    (200, 100, 700, {"b_transposed": T}, "bias"),
    (50, 97, 700, {"b_transposed": T}, "bias"),
    (16, 200, 1024, {"b_transposed": T}, "update"),
    (3, 130, 65, {"b_transposed": T}, "update"),
    (2, 5, 33, {"b_transposed": T}, "bias"),
    (9, 61, 340, {"a_transposed": T, "b_transposed": T}, "bias"),
    (24, 40, 330, {"b_transposed": T, "batch": 3}, "plain"),
    (40, 33, 400, {"b_transposed": T, "out_transposed": T}, "plain"),
    (130, 96, 321, {}, "update"),
    (1030, 100, 200, {"b_transposed": T}, "bias"),
    (131, 150, 1100, {"a_transposed": T}, "bias"),
    (50, 47, 340, {"a_transposed": T}, "update"),
    (50, 47, 340, {"a_transposed": T}, "scaled"),
    (20, 60, 340, {"b_transposed": T}, "scaled"),
    (40, 1, 340, {}, "scaled"),
]


def check(
    case: tuple[int, int, int, dict[str, bool], str],
    dtype: DType,
    target: str,
    monkeypatch: pytest.MonkeyPatch,
) -> int:
    """The number of plans, all of which were run."""
    m, n, k, options, epilogue = case

    def finish(b: Body, value: int, out: Index) -> None:
        column = out[-2] if options.get("out_transposed") else out[-1]
        value = b.add("add", dtype, [value, b.load(dtype, 3, [column])])
        if epilogue == "scaled":
            # The same for every element: a float64 scalar, squared and cast.
            scale = b.load(float64, 4, [])
            value = b.add(
                "mul", dtype, [value, b.add("cast", dtype, [b.add("mul", float64, [scale, scale])])]
            )
        if epilogue == "update":
            value = b.add("sub", dtype, [b.load(dtype, 2, out), value])
        b.store(dtype, 2, out, value)

    extra = [] if epilogue == "plain" else [buffer(dtype, [n]), buffer(float64, [])]
    kernel = matmul(
        m, n, k, dtype, **options, extra=extra, finish=finish if extra else None,
        out_access="inout" if epilogue == "update" else "out",
    )  # fmt: skip
    rng = np.random.default_rng(m + n + k)
    arrays = [rng.standard_normal(b.type.sizes).astype(b.type.dtype.numpy) for b in kernel.buffers]
    plans = all_plans(kernel, TARGETS[target])
    results = set()
    for plan in plans:
        monkeypatch.setattr(contraction, "_plans", lambda k, t, plan=plan: [plan])
        native = Native(kernel, TARGETS[target])
        results |= {native(arrays, parts)[2].tobytes() for parts in (1, 2, 5)}
    assert len(results) == 1
    if epilogue == "scaled":
        x, y, _, bias, scale = arrays
        expected = (product(x, y, options) + bias) * scale**2
        got = np.frombuffer(results.pop(), dtype.numpy).reshape(m, n)
        assert np.allclose(got, expected, rtol=1e-3, atol=1e-3)
    return len(plans)


@pytest.mark.parametrize(
    ("dtype", "target"),
    [(float32, "x86-64"), (float32, "x86-64-v3"), (float64, "x86-64-v3")],
    ids=lambda x: getattr(x, "name", x),
)
@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, (*c[:3], *c[3], c[4]))))
def test_every_plan_has_the_same_bits(
    case: tuple[int, int, int, dict[str, bool], str],
    dtype: DType,
    target: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert check(case, dtype, target, monkeypatch) >= (1 if case[1] == 1 else 2)


@pytest.mark.parametrize(
    "case",
    [
        Convolution(8, 64, 2, 2, 40, 3, 3, pad=1),
        Convolution(8, 150, 2, 2, 33, 3, 3, pad=1),
    ],
    ids=str,
)
def test_sums_over_windows_have_the_same_bits(case: Convolution, monkeypatch: pytest.MonkeyPatch) -> None:
    """With several axes of steps: folds are whole runs of the inner ones in every plan."""
    crossed = 0
    for kernel in (make(float32) for make in (case.forward, case.weight_gradient, case.input_gradient)):
        rng = np.random.default_rng(0)
        arrays = [rng.standard_normal(b.type.sizes).astype(np.float32) for b in kernel.buffers]
        results = set()
        monkeypatch.setattr(contraction, "_windows", lambda k, t: None)
        for plan in all_plans(kernel, TARGETS["x86-64-v3"]):
            crossed += plan.crossing is not None
            monkeypatch.setattr(contraction, "_plans", lambda k, t, plan=plan: [plan])
            native = Native(kernel, TARGETS["x86-64-v3"])
            results |= {native(arrays, parts)[2].tobytes() for parts in (1, 2, 5)}
        assert len(results) == 1
    assert crossed


def check_same_bits(
    kernel: Kernel,
    plans: Sequence[Plan],
    target: str,
    arrays: Sequence[np.ndarray],
    partitions: Sequence[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All plans, each in every number of partitions, give the bits of the first plan in one."""
    results = []
    for plan in plans:
        monkeypatch.setattr(contraction, "_plans", lambda k, t, plan=plan: [plan])
        native = Native(kernel, TARGETS[target])
        results += [native(arrays, parts)[2].tobytes() for parts in partitions]
    assert len(results) > len(partitions), "there is another plan to compare with"
    assert set(results) == {results[0]}


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3"])
@pytest.mark.parametrize("dtype", [float32, float64], ids=lambda d: d.name)
@pytest.mark.parametrize(
    "case",
    [
        Convolution(1, 24, 20, 20, 40, 3, 3, pad=1, stride=2),
        Convolution(2, 34, 9, 13, 33, 3, 3, pad=1),
        Convolution(1, 3, 51, 47, 36, 7, 7, pad=3, stride=2),
        Convolution(1, 5, 33, 29, 32, 5, 5, pad=2, stride=3),
        Convolution(3, 40, 12, 11, 35, 2, 2, pad=1, dilation=3, stride=2),
    ],
    ids=str,
)
def test_gathered_panels_have_the_same_bits(
    case: Convolution, dtype: DType, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partitions of columns begin anywhere in a row of the output; what scratch memory held before is in no result."""
    kernel = case.forward(dtype)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(b.type.sizes).astype(dtype.numpy) for b in kernel.buffers]
    monkeypatch.setattr(contraction, "_windows", lambda k, t: None)
    plans = all_plans(kernel, TARGETS[target])
    plain = [p for p in plans if p.field is None and p.gather is None and p.crossing is None]
    gathered = [p for p in plans if p.gather is not None]
    assert gathered
    check_same_bits(kernel, [plain[0], *gathered], target, arrays, (1, 2, 3, 7), monkeypatch)


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3"])
@pytest.mark.parametrize(
    "case",
    [
        Convolution(3, 3, 17, 19, 6, 5, 5),
        Convolution(2, 4, 12, 13, 2, 3, 3, pad=1),
        Convolution(2, 3, 20, 21, 3, 3, 3, pad=1, stride=2),
    ],
    ids=str,
)
def test_vectors_that_overlap_have_the_same_bits(
    case: Convolution, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = case.forward(float32)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(b.type.sizes).astype(np.float32) for b in kernel.buffers]
    monkeypatch.setattr(contraction, "_windows", lambda k, t: None)
    plans = all_plans(kernel, TARGETS[target])
    overlapping = [p for p in plans if p.field is not None and p.field.overlaps]
    assert overlapping
    check_same_bits(kernel, [plans[0], *overlapping], target, arrays, (1, 2, 5), monkeypatch)


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3"])
@pytest.mark.parametrize(
    "case",
    [
        Convolution(24, 3, 9, 9, 5, 3, 3),
        Convolution(16, 80, 4, 4, 7, 3, 3, pad=1),
        Convolution(40, 2, 5, 6, 3, 2, 2),
    ],
    ids=str,
)
def test_sums_turned_in_squares_have_the_same_bits(
    case: Convolution, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lanes along images: positions that fill no square, several blocks of images, sums of several blocks of k."""
    kernel = case.forward(float32)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(b.type.sizes).astype(np.float32) for b in kernel.buffers]
    monkeypatch.setattr(contraction, "_windows", lambda k, t: None)
    plans = all_plans(kernel, TARGETS[target])
    turned = [p for p in plans if p.field is not None and is_turned(p.problem, p.field)]
    assert turned
    check_same_bits(kernel, [plans[0], *turned], target, arrays, (1, 2, 3), monkeypatch)


def test_what_is_updated_is_written_once() -> None:
    """Vectors do not overlap where the epilogue reads what it writes, or where sums are kept from block to block."""
    kernel = Convolution(3, 3, 17, 19, 6, 5, 5).forward(float32)
    *inputs, out = kernel.buffers
    updating = dataclasses.replace(kernel, buffers=(*inputs, dataclasses.replace(out, access="inout")))
    long = Convolution(1, 80, 17, 19, 6, 5, 5).forward(float32)
    for other in (updating, long):
        plans = all_plans(other, TARGETS["x86-64-v3"])
        assert not any(p.field is not None and p.field.overlaps for p in plans)


@pytest.mark.parametrize(
    ("shape", "options", "crossed"),
    [
        ((64, 3072, 768), {"b_transposed": T}, True),
        ((64, 768, 3072), {"b_transposed": T}, True),
        ((512, 512, 512), {"b_transposed": T}, False),
        ((64, 3072, 768), {}, False),
    ],
)
def test_a_long_transposed_operand_is_read_in_place(
    shape: tuple[int, int, int], options: dict[str, bool], crossed: bool
) -> None:
    plan = make_plan(matmul(*shape, float32, **options), TARGETS["x86-64-v3"])
    assert plan is not None and (plan.crossing is not None) is crossed


@pytest.mark.parametrize("cores", [1, 2, 16])
def test_partitions_follow_the_cores_where_each_packs_again(cores: int) -> None:
    """`x · Wᵀ` packs x once more in each partition: no more partitions than have a core of their own."""
    kernel = matmul(64, 768, 3072, float32, b_transposed=True)
    plan = make_plan(kernel, TARGETS["x86-64-v3"])
    assert plan is not None and best_parts([plan], cores) == cores


@pytest.mark.parametrize(
    ("shape", "access", "side"),
    [
        ((128, 784, 64), "inout", "rows"),
        ((128, 784, 64), "out", "columns"),
        ((384, 1536, 512), "inout", "columns"),
    ],
)
def test_an_update_divides_rows_unless_that_packs_much_again(
    shape: tuple[int, int, int], access: str, side: str
) -> None:
    kernel = matmul(*shape, float32, a_transposed=True, out_access=access)
    plan = make_plan(kernel, TARGETS["x86-64-v3"])
    assert plan is not None and plan.side == side
