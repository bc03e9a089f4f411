"""The native call entry: which calls it serves, what it returns, and that it leaks nothing."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from graphc.backends.llvm.text import Builder, Val
from graphc.ir.failure import failed_check
from graphc.ir.program import Buffer
from graphc.runtime import buffers, state
from graphc.runtime.entry import (
    MISSED,
    AnyTensor,
    Dispatcher,
    Nest,
    Number,
    ObjectResult,
    SharedResult,
    Static,
    TensorArgument,
    TensorLayout,
    TensorResult,
    Variant,
)
from graphc.runtime.executable import Executable
from tests.runtime.handmade import (
    LAYOUT,
    Parameter,
    Tensor,
    binary_kernel,
    checking_kernel,
    executable,
    f32,
    make_kernel,
    record,
)

N = 8


class Slow:
    """Records the calls that native code did not serve."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        self.calls.append((args, kwargs))
        return "slow"


def fail(word: int) -> object:
    raise IndexError(f"check {failed_check(word)[0]}")


def add_program(**options: Any) -> Executable:
    table = [Buffer("input", f32(N), 0), Buffer("input", f32(N), 1), Buffer("output", f32(N), 0)]
    return executable(table, [[(binary_kernel("k_add", "fadd", N), (0, 1, 2), 1)]], **options)


def tensor_argument(position: int | None, *shape: int) -> TensorArgument:
    return TensorArgument(LAYOUT, record(*(shape or (N,))), position)


def tensor_result(output: int = 0, **slots: object) -> TensorResult:
    return TensorResult(LAYOUT, record(N), output, {"_shape": (N,), **slots})


def dispatcher(
    program: Executable,
    arguments: Sequence[Any],
    results: Sequence[Any] = (tensor_result(),),
    *,
    states: Sequence[int] = (),
    **options: Any,
) -> tuple[Dispatcher, Slow, Variant]:
    options.setdefault("tree", "single" if len(results) == 1 else "tuple")
    options.setdefault("epoch", state.epoch())
    options.setdefault("fail", fail)
    variant = Variant(program, program.bind(states), arguments, results, **options)
    slow = Slow()
    entry = Dispatcher(slow)
    entry.set_variants([variant])
    return entry, slow, variant


def adder(**options: Any) -> tuple[Dispatcher, Slow, Variant]:
    return dispatcher(add_program(), [tensor_argument(0), tensor_argument(1)], **options)


ONES, RAMP = np.ones(N, np.float32), np.arange(N, dtype=np.float32)


def unrealised() -> Tensor:
    result = Tensor(ONES)
    result._record = None
    return result


class Derived(Tensor):
    __slots__ = ()


def test_output_is_a_tensor_with_its_slots() -> None:
    entry, slow, variant = adder()
    out = entry.function(Tensor(ONES), Tensor(RAMP))
    assert type(out) is Tensor
    np.testing.assert_array_equal(out.numpy(), ONES + RAMP)
    assert (out._shape, out._grad, out._dtype) == ((N,), None, LAYOUT.defaults["_dtype"])
    expected = Tensor(ONES)._record
    assert expected is not None and out._record is not None
    assert out._record[8:] == expected[8:]
    assert (slow.calls, variant.calls) == ([], 1)
    again = entry.function(out, out)
    np.testing.assert_array_equal(again.numpy(), 2 * (ONES + RAMP))


@pytest.mark.parametrize(
    ("arguments", "served"),
    [
        (lambda: (Tensor(ONES), Tensor(ONES)), True),
        (lambda: (Parameter(ONES), Tensor(ONES)), True),
        (lambda: (Derived(ONES), Tensor(ONES)), False),
        (lambda: (Tensor(ONES),), False),
        (lambda: (Tensor(ONES), Tensor(ONES), Tensor(ONES)), False),
        (lambda: (Tensor(ONES), ONES), False),
        (lambda: (Tensor(ONES), None), False),
        (lambda: (Tensor(ONES), 3), False),
        (lambda: (Tensor(ONES[:4]), Tensor(ONES)), False),
        (lambda: (Tensor(ONES.reshape(2, 4)), Tensor(ONES)), False),
        (lambda: (Tensor(ONES), unrealised()), False),
        (lambda: (), False),
    ],
)
def test_which_calls_are_native(arguments: Callable[[], tuple[Any, ...]], served: bool) -> None:
    entry, slow, variant = adder()
    args = arguments()
    out = entry.function(*args)
    assert variant.calls == int(served)
    if not served:
        assert out == "slow"
        assert slow.calls == [(args, {})]


class Same:
    """Compared by identity."""


SAME = Same()


@pytest.mark.parametrize(
    ("expected", "given", "served"),
    [
        (None, None, True),
        (None, 0, False),
        (True, True, True),
        (True, 1, False),
        (1000, int("1000"), True),
        (1000, 1001, False),
        (1, True, False),
        (2**80, 2**80 + 0, True),
        (0.0, 0.0, True),
        (0.0, -0.0, False),
        (float("nan"), float("nan"), True),
        (0.5, 0.25, False),
        (1.0, 1, False),
        ("sum", "".join(["su", "m"]), True),
        ("sum", "mean", False),
        (SAME, SAME, True),
        (SAME, Same(), False),
    ],
)
def test_static_arguments(expected: object, given: object, served: bool) -> None:
    entry, _, variant = dispatcher(add_program(), [tensor_argument(0), tensor_argument(1), Static(expected)])
    entry.function(Tensor(ONES), Tensor(ONES), given)
    assert variant.calls == int(served)


def test_keywords() -> None:
    entry, slow, variant = adder(keywords=("other",))
    a, b = Tensor(ONES), Tensor(RAMP)
    np.testing.assert_array_equal(entry.function(a, other=b).numpy(), ONES + RAMP)
    assert variant.calls == 1
    assert entry.function(a, b) == "slow"
    assert entry.function(a, another=b) == "slow"
    assert slow.calls == [((a, b), {}), ((a,), {"another": b})]


def sequence_kernel() -> Any:
    """output[0 … 2] = input0[0], input1[0] (float64 narrowed), input2[0] (int64 converted)."""

    def body(b: Builder, i: Val, at: Sequence[Val], _: dict[str, Val]) -> None:
        wide = b.load("double", at[1], 8)
        whole = b.load("i64", at[2], 8)
        values = (
            b.load("float", at[0], 4),
            b.cast("fptrunc", wide, "float"),
            b.cast("sitofp", whole, "float"),
        )
        for n, value in enumerate(values):
            b.store(value, b.gep(at[3], n, "float"), 4)

    return make_kernel("k_numbers", 4, 1, body)


@pytest.mark.parametrize(
    ("given", "served"),
    [
        ((1.5, 2.5, 7), True),
        ((1.5, 2.5, -1), True),
        ((1.5, 2.5, 2**70), False),
        ((1.5, 2.5, True), False),
        ((1, 2.5, 7), False),
        ((1.5, np.float64(2.5), 7), False),
    ],
)
def test_numbers(given: tuple[Any, ...], served: bool) -> None:
    table = [*(Buffer("input", f32(), i) for i in range(3)), Buffer("output", f32(N), 0)]
    program = executable(table, [[(sequence_kernel(), (0, 1, 2, 3), 1)]])
    entry, _, variant = dispatcher(program, [Number("float32", 0), Number("float64", 1), Number("int64", 2)])
    out = entry.function(*given)
    assert variant.calls == int(served)
    if served:
        np.testing.assert_array_equal(out.numpy()[:3], np.array(given, np.float32))


WIDE = np.ones((N, 2), np.float32)


@pytest.mark.parametrize(
    ("given", "served"),
    [
        (RAMP, True),
        (RAMP.astype(np.float64), False),
        (RAMP.astype(">f4"), False),
        (WIDE[:, 0], False),
        (RAMP[:4], False),
        (RAMP.reshape(1, N), False),
        (np.concatenate([RAMP, RAMP]).view(np.uint8)[1 : 1 + 4 * N].view(np.float32), False),
        (RAMP.tolist(), False),
    ],
)
def test_arrays(given: Any, served: bool) -> None:
    second = TensorArgument(LAYOUT, record(N), 1, np.float32, alignment=4)
    entry, _, variant = dispatcher(add_program(), [tensor_argument(0), second])
    out = entry.function(Tensor(ONES), given)
    assert variant.calls == int(served)
    if served:
        np.testing.assert_array_equal(out.numpy(), ONES + given)


@pytest.mark.parametrize(
    ("given", "served"),
    [
        (lambda a, b: {"a": [a], "b": b}, True),
        (lambda a, b: {"b": b, "a": [a]}, False),
        (lambda a, b: {"a": [a]}, False),
        (lambda a, b: {"a": [a, a], "b": b}, False),
        (lambda a, b: {"a": (a,), "b": b}, False),
        (lambda a, b: {"a": [3], "b": b}, False),
        (lambda a, b: [[a], b], False),
        (lambda a, b: a, False),
    ],
)
def test_nests(given: Callable[[Any, Any], Any], served: bool) -> None:
    nests = [Nest(dict, 2, 1, ("a", "b")), Nest(list, 1, 3), tensor_argument(1), tensor_argument(0)]
    entry, slow, variant = dispatcher(add_program(), nests)
    nest = given(Tensor(ONES), Tensor(RAMP))
    out = entry.function(nest)
    assert variant.calls == int(served)
    if served:
        np.testing.assert_array_equal(out.numpy(), ONES + RAMP)
    else:
        assert slow.calls == [((nest,), {})]
        assert entry.attempt(nest) is MISSED


def test_arguments_that_must_be_the_same() -> None:
    second = TensorArgument(LAYOUT, record(N), 1, twin=0)
    entry, slow, variant = dispatcher(add_program(), [tensor_argument(0), second])
    a, b = Tensor(RAMP), Tensor(RAMP)
    np.testing.assert_array_equal(entry.function(a, a).numpy(), 2 * RAMP)
    assert entry.function(a, b) == "slow"
    assert (variant.calls, len(slow.calls)) == (1, 1)


def test_records_with_another_stamp_are_not_looked_at() -> None:
    entry, _, _ = adder()
    a, b = Tensor(ONES), Tensor(RAMP)
    out = entry.function(a, b)
    state.bump_stamp()
    assert entry.function(a, b) == "slow"
    assert entry.function(out, out) == "slow"
    fresh = entry.function(Tensor(ONES), Tensor(RAMP))
    np.testing.assert_array_equal(entry.function(fresh, fresh).numpy(), 2 * (ONES + RAMP))


def test_a_function_that_finishes_a_call() -> None:
    def finish(results: tuple[Any, ...], *args: Any) -> Any:
        if args[1].numpy()[0]:
            raise KeyError("finish")
        return results, args

    entry, _, _ = adder(tree="finish", unflatten=finish)
    a, b = Tensor(ONES), Tensor(RAMP)
    (out,), args = entry.function(a, b)
    assert args == (a, b)
    np.testing.assert_array_equal(out.numpy(), ONES + RAMP)
    gc.collect()
    before = buffers.live_blocks(), sys.getrefcount(a)
    with pytest.raises(KeyError, match="finish"):
        entry.function(b, a)
    gc.collect()
    assert (buffers.live_blocks(), sys.getrefcount(a)) == before


def copies_program(outputs: int) -> Executable:
    """Each output is the input + the input."""
    table = [Buffer("input", f32(N), 0), *(Buffer("output", f32(N), i) for i in range(outputs))]
    kernel = binary_kernel("k_add", "fadd", N)
    return executable(table, [[(kernel, (0, 0, 1 + i), 1) for i in range(outputs)]])


@pytest.mark.parametrize(
    ("tree", "kind"), [("tuple", tuple), ("list", list), ("unflatten", dict), ("none", type(None))]
)
def test_trees(tree: str, kind: type) -> None:
    marker = object()
    results: list[Any] = [tensor_result(0), ObjectResult(marker), SharedResult(0), tensor_result(1)]
    options: dict[str, Any] = {"unflatten": lambda flat: dict(enumerate(flat))} if tree == "unflatten" else {}
    entry, _, _ = dispatcher(copies_program(2), [tensor_argument(0)], results, tree=tree, **options)
    out: Any = entry.function(Tensor(RAMP))
    assert type(out) is kind
    if out is not None:
        assert len(out) == 4
        assert out[1] is marker
        assert out[2] is out[0]
        for tensor in (out[0], out[3]):
            np.testing.assert_array_equal(tensor.numpy(), 2 * RAMP)
        assert out[0]._owner is not out[3]._owner


def test_failed_check_raises_and_frees() -> None:
    table = [Buffer("input", f32(N), 0), Buffer("output", f32(N), 0)]
    program = executable(table, [[(checking_kernel("k_check", N), (0, 1), 1)]])
    entry, _, _ = dispatcher(program, [tensor_argument(0)])
    good, bad = Tensor(ONES), Tensor(-ONES)
    entry.function(good)
    gc.collect()
    before = buffers.live_blocks()
    for _ in range(10):
        with pytest.raises(IndexError, match="check 2"):
            entry.function(bad)
    gc.collect()
    assert buffers.live_blocks() == before
    np.testing.assert_array_equal(entry.function(good).numpy(), ONES)


def test_states_are_written_in_place_and_can_be_rebound() -> None:
    table = [Buffer("input", f32(N), 0), Buffer("state", f32(N), 0)]
    program = executable(table, [[(binary_kernel("k_add", "fadd", N), (0, 1, 1), 1)]], writes=[0])
    first, second = Tensor(np.zeros(N)), Tensor(RAMP)
    entry, _, variant = dispatcher(
        program, [tensor_argument(0)], (), states=[buffers.address(first._owner)], tree="none"
    )
    step = Tensor(ONES)
    assert entry.function(step) is None
    variant.rebind(program.bind([buffers.address(second._owner)], second))
    entry.function(step)
    entry.function(step)
    np.testing.assert_array_equal(first.numpy(), ONES)
    np.testing.assert_array_equal(second.numpy(), RAMP + 2)


def test_epoch_and_grad_mode_select_variants() -> None:
    entry, slow, variant = adder()
    program = variant.executable
    quiet = Variant(
        program, program.bind(()), [tensor_argument(0), tensor_argument(1)], [tensor_result()],
        tree="single", fail=fail, epoch=state.epoch(), grad_mode=0,
    )  # fmt: skip
    entry.set_variants([variant, quiet])
    a, b = Tensor(ONES), Tensor(RAMP)
    entry.function(a, b)
    state.set_grad_mode(0)
    try:
        entry.function(a, b)
        with ThreadPoolExecutor(1) as pool:  # another thread is in its own mode
            pool.submit(entry.function, a, b).result()
    finally:
        state.set_grad_mode(1)
    assert (variant.calls, quiet.calls) == (2, 1)
    state.bump_epoch()
    assert entry.function(a, b) == "slow"
    variant.epoch = state.epoch()
    entry.function(a, b)
    assert (variant.calls, quiet.calls, len(slow.calls)) == (3, 1, 1)


def test_nothing_leaks() -> None:
    marker = object()
    results = [tensor_result(0, _shape=(N,)), ObjectResult(marker), tensor_result(1)]
    entry, _, _ = dispatcher(copies_program(2), [tensor_argument(0)], results)
    x = Tensor(RAMP)
    shape = results[0].slots["_shape"]
    entry.function(x)
    gc.collect()
    watched = (marker, shape, None, Tensor, x, x._record, x._owner)
    before = [sys.getrefcount(o) for o in watched], buffers.live_blocks()
    for _ in range(1000):
        entry.function(x)
    gc.collect()
    after = [sys.getrefcount(o) for o in watched], buffers.live_blocks()
    assert before == after


def test_dispatcher_and_its_cycle_are_collected() -> None:
    class Compiled:
        def __init__(self) -> None:
            self.entry, _, self.variant = adder()
            self.entry._self.keep += (self,)

    compiled = Compiled()
    watch = weakref.ref(compiled.variant)
    del compiled
    gc.collect()
    assert watch() is None


def test_as_call_of_a_class() -> None:
    entry, _, _ = adder()
    kind = type("Program", (), {"__call__": entry.function})
    np.testing.assert_array_equal(kind()(Tensor(ONES), Tensor(RAMP)).numpy(), ONES + RAMP)


def test_variant_may_be_dropped_by_a_destructor_during_the_call() -> None:
    entry, _, variant = adder(tree="unflatten", unflatten=lambda flat: entry.set_variants([]) or flat[0])
    watch = weakref.ref(variant)
    del variant
    out = entry.function(Tensor(ONES), Tensor(RAMP))
    np.testing.assert_array_equal(out.numpy(), ONES + RAMP)
    gc.collect()
    assert watch() is None


def test_calls_from_many_threads_without_the_lock() -> None:
    program = add_program(release=True)
    entry, slow, variant = dispatcher(program, [tensor_argument(0), AnyTensor(LAYOUT, 1)])

    def work(seed: int) -> None:
        a, b = Tensor(np.full(N, seed)), Tensor(RAMP)
        for _ in range(2000):
            np.testing.assert_array_equal(entry.function(a, b).numpy(), RAMP + seed)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert (slow.calls, variant.calls) == ([], 8000)


@pytest.mark.parametrize(
    ("arguments", "results", "options"),
    [
        ([tensor_argument(0)], [tensor_result()], {}),
        ([tensor_argument(0), tensor_argument(0)], [tensor_result()], {}),
        ([tensor_argument(0), tensor_argument(1)], [], {"tree": "none"}),
        ([tensor_argument(0), tensor_argument(1)], [tensor_result()] * 2, {}),
        ([tensor_argument(0), tensor_argument(1)], [SharedResult(0), tensor_result()], {}),
        ([tensor_argument(0), tensor_argument(1)], [tensor_result(), ObjectResult(1)], {"tree": "single"}),
        ([tensor_argument(0), tensor_argument(1)], [tensor_result()], {"tree": "unflatten"}),
    ],
)
def test_incomplete_variants_are_refused(
    arguments: list[Any], results: list[Any], options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"."):
        dispatcher(add_program(), arguments, results, **options)


def test_layout_needs_the_named_slots() -> None:
    class Bare:
        __slots__ = ("_record",)

    with pytest.raises(TypeError, match="no slot _owner"):
        TensorLayout(Bare)
