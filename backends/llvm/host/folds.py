"""`step_numbers` in native code: the folds of a sum whose numbers of steps are known when it runs.

Invariant: statement by statement the functions of `contraction/tiling.py` that say in which order a sum is made.
"""

from __future__ import annotations

from graphc.backends.llvm.contraction.tiling import DEPTH, FOLD, FOLD_OF_RUNS, LEAST_FOLD
from graphc.backends.llvm.host.routine import Routine, Variable, i64
from graphc.backends.llvm.text import ModuleText, Val

__all__ = ["add_step_numbers"]

_UNIT = 16


def add_step_numbers(module: ModuleText) -> None:
    """`void step_numbers(ptr extents, i64 count, ptr numbers)`: fold and kc of a sum over axes of these extents."""
    if module.has_function("step_numbers"):
        return
    _add_fold(module)
    r = Routine.start(
        module, "step_numbers", "void", [("ptr", "extents"), ("i64", "count"), ("ptr", "numbers")],
        linkage="internal",
    )  # fmt: skip
    extents, count, numbers = r.params
    k, long, wide = (r.variable(i64(n)) for n in (1, 0, 0))
    with r.each(count) as n:
        extent = r.load("i64", r.gep(extents, n, "i64"), 8)
        k.set(r.mul(k.get(), extent))
        with r.if_(r.icmp("ne", extent, i64(1))):
            long.add(1)
        with r.if_(r.icmp("sgt", extent, i64(1))):
            wide.add(1)
    fold = r.variable(_at_least_one(r, k.get()))
    with r.if_(r.icmp("slt", wide.get(), i64(2))):
        fold.set(r.call("i64", "fold_of", [k.get()]))
    with r.if_(r.and_(r.icmp("sge", wide.get(), i64(2)), r.icmp("sgt", k.get(), i64(FOLD_OF_RUNS)))):
        _of_runs(r, extents, count, k.get(), fold)
    r.store(fold.get(), numbers, 8)
    kc = r.variable(fold.get())
    with r.if_(r.icmp("eq", long.get(), i64(1))):
        _cached(r, k.get(), fold.get(), kc)
    r.store(kc.get(), r.gep(numbers, 1, "i64"), 8)
    r.ret()


def _at_least_one(r: Routine, value: Val) -> Val:
    return r.intrinsic("smax", "i64", [value, i64(1)])


def _up(r: Routine, value: Val, multiple: Val) -> Val:
    """`value` rounded up to a multiple."""
    return r.mul(_ceil(r, value, multiple), multiple)


def _ceil(r: Routine, value: Val, by: Val) -> Val:
    return r.binary("udiv", r.add(value, r.sub(by, i64(1))), by)


def _even(r: Routine, k: Val, most: int) -> Val:
    """Steps of nearly equal blocks of at most `most` steps."""
    return _ceil(r, k, _ceil(r, k, i64(most)))


def _add_fold(module: ModuleText) -> None:
    """`i64 fold_of(i64 k)`."""
    r = Routine.start(module, "fold_of", "i64", [("i64", "k")], linkage="internal")
    (k,) = r.params
    with r.exit_if(r.icmp("sle", k, i64(FOLD))):
        r.ret(_at_least_one(r, k))
    for whole in range(FOLD, LEAST_FOLD - 1, -_UNIT):
        with r.exit_if(r.zero(r.binary("urem", k, i64(whole)))):
            r.ret(i64(whole))
    r.ret(_up(r, _even(r, k, FOLD), i64(_UNIT)))


def _of_runs(r: Routine, extents: Val, count: Val, k: Val, fold: Variable) -> None:
    """Blocks of whole runs of the inner axes, of which there are more steps than one block has."""
    size = _even(r, k, FOLD_OF_RUNS)
    unit, axis = r.variable(i64(1)), r.variable(r.sub(count, i64(1)))

    def extent() -> Val:
        return r.load("i64", r.gep(extents, axis.get(), "i64"), 8)

    with r.while_(lambda: r.icmp("sle", r.mul(unit.get(), extent()), i64(FOLD_OF_RUNS))):
        unit.set(r.mul(unit.get(), extent()))
        axis.add(-1)
    run, outer = unit.get(), extent()
    up = _up(r, size, run)
    down = r.intrinsic("smax", "i64", [run, r.mul(r.binary("udiv", size, run), run)])
    fold.set(r.select(r.icmp("sle", up, i64(FOLD_OF_RUNS + 32)), up, down))
    with r.if_(r.icmp("ne", r.binary("udiv", k, run), outer)):
        # Further axes: blocks that divide this one, where such are large enough.
        whole = r.variable(r.binary("udiv", i64(FOLD_OF_RUNS), run))
        with r.while_(lambda: r.nonzero(r.binary("urem", outer, whole.get()))):
            whole.add(-1)
        steps = r.mul(whole.get(), run)
        with r.if_(r.icmp("sge", r.mul(steps, i64(2)), i64(FOLD_OF_RUNS))):
            fold.set(steps)
    with r.if_(r.icmp("eq", run, i64(1))):
        fold.set(_up(r, size, i64(_UNIT)))


def _cached(r: Routine, k: Val, fold: Val, kc: Variable) -> None:
    """Steps of a block whose sums stay in registers."""
    blocks = _at_least_one(r, _ceil(r, k, r.intrinsic("smax", "i64", [fold, i64(DEPTH)])))
    several = r.icmp("sgt", blocks, i64(1))
    equal = r.intrinsic("smax", "i64", [fold, _up(r, _ceil(r, k, blocks), fold)])
    kc.set(r.select(several, equal, _up(r, _at_least_one(r, k), fold)))
