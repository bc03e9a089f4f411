"""The call entry: the body of the Python builtin that runs a compiled program.

`self` is a ctypes array (`DISPATCHER`) with a list of variants; the first whose epoch, grad
mode and arguments match runs, otherwise the slow callable gets the same arguments.
Invariants: no Python code runs between the match and the end of the run, except in other
threads where the lock is given up, and whatever the call uses then is referenced; blocks of
outputs are freed on every way out that does not return them.
"""

from __future__ import annotations

from graphc.backends.llvm.host.arguments import add_arguments
from graphc.backends.llvm.host.calls import run_released
from graphc.backends.llvm.host.objects import (
    BYTES_DATA,
    LIST_ITEMS,
    OBJECT_DATA,
    SIZE,
    TUPLE_ITEMS,
    add_grad_mode,
    decref,
    incref,
)
from graphc.backends.llvm.host.routine import INLINED, NULL, RARE, Routine, i64
from graphc.backends.llvm.text import ModuleText, Val
from graphc.runtime.layout import (
    BINDING,
    DISPATCHER,
    EXECUTABLE,
    FRAME,
    OUTPUT,
    RESULT_KINDS,
    SLOT,
    STATE,
    TREES,
    VARIANT,
)

__all__ = ["add_entry"]

_TENSOR, _OBJECT, _SHARED = (i64(RESULT_KINDS.index(name)) for name in ("tensor", "object", "shared"))

_NO_MATCH = Val("ptr", "inttoptr (i64 1 to ptr)")


def add_entry(module: ModuleText) -> None:
    """All functions of the entry."""
    add_grad_mode(module)
    add_arguments(module)
    _add_make_tensor(module)
    _add_make_result(module)
    _add_free_results(module)
    _add_allocate_results(module)
    _add_collect(module)
    _add_run_variant(module)
    _add_variant_matches(module)
    _add_run_nested(module)
    _add_entry_function(module)


def _add_make_tensor(module: ModuleText) -> None:
    """`ptr make_tensor(spec, data)`: a new Tensor that owns the block; null with an exception."""
    r = Routine.start(module, "make_tensor", "ptr", [("ptr", "spec"), ("ptr", "data")], linkage="internal")
    spec, data = r.params
    owner = r.call("ptr", "block_owner", [data])
    with r.exit_if(r.is_null(owner)):
        r.call_void("block_free", [data])
        r.ret(NULL)
    nbytes = r.read(spec, OUTPUT, "record_bytes")
    record = r.import_call("ptr", "PyBytes_FromStringAndSize", [NULL, nbytes])
    with r.exit_if(r.is_null(record)):
        decref(r, owner)
        r.ret(NULL)
    body = r.at_byte(record, BYTES_DATA)
    r.store(data, body, 8)
    r.store(r.read(r.imported("state"), STATE, "stamp"), r.gep(body, 1, "i64"), 8)
    template = r.read_ptr(spec, OUTPUT, "record")
    with r.each(r.sub(r.op("i64", f"lshr {nbytes}, 3"), i64(2))) as n:
        word = r.add(n, i64(2))
        r.store(r.load("i64", r.gep(template, word, "i64"), 8), r.gep(body, word, "i64"), 8)
    tensor = r.import_call("ptr", "PyType_GenericAlloc", [r.read_ptr(spec, OUTPUT, "type"), i64(0)])
    with r.exit_if(r.is_null(tensor)):
        decref(r, owner)
        decref(r, record)
        r.ret(NULL)
    r.store(record, r.at_byte(tensor, r.read(spec, OUTPUT, "record_offset")), 8)
    r.store(owner, r.at_byte(tensor, r.read(spec, OUTPUT, "owner_offset")), 8)
    slots = r.read_ptr(spec, OUTPUT, "slots")
    with r.each(r.read(spec, OUTPUT, "slot_count")) as n:
        slot = r.record_at(slots, n, SLOT)
        value = r.read_ptr(slot, SLOT, "object")
        incref(r, value)
        r.store(value, r.at_byte(tensor, r.read(slot, SLOT, "offset")), 8)
    r.ret(tensor)


def _add_make_result(module: ModuleText) -> None:
    """`ptr make_result(spec, data, made)`: one result; `made` holds the earlier ones."""
    r = Routine.start(
        module,
        "make_result",
        "ptr",
        [("ptr", "spec"), ("ptr", "data"), ("ptr", "made")],
        linkage="internal",
        attributes=INLINED,
    )
    spec, data, made = r.params
    kind = r.read(spec, OUTPUT, "kind")
    with r.exit_if(r.icmp("eq", kind, _TENSOR)):
        r.ret(r.call("ptr", "make_tensor", [spec, data]))
    found = r.variable(r.read_ptr(spec, OUTPUT, "object"))
    with r.if_(r.icmp("eq", kind, _SHARED)):
        found.set(r.load_ptr(made, r.read(spec, OUTPUT, "row")))
    value = found.get()
    incref(r, value)
    r.ret(value)


def _add_free_results(module: ModuleText) -> None:
    """`void free_results(data, count)`: frees blocks; null entries are fine."""
    r = Routine.start(
        module, "free_results", "void", [("ptr", "data"), ("i64", "count")],
        linkage="internal", attributes=RARE,
    )  # fmt: skip
    data, count = r.params
    with r.each(count) as n:
        r.call_void("block_free", [r.load_ptr(data, n)])
    r.ret()


def _add_allocate_results(module: ModuleText) -> None:
    """`i1 allocate_results(variant, table, data)`: a block for each new Tensor; false where memory is short."""
    r = Routine.start(
        module, "allocate_results", "i1", [("ptr", "variant"), ("ptr", "table"), ("ptr", "data")],
        linkage="internal", attributes=INLINED,
    )  # fmt: skip
    variant, table, data = r.params
    specs = r.read_ptr(variant, VARIANT, "results")
    with r.each(r.read(variant, VARIANT, "result_count")) as n:
        spec, slot = r.record_at(specs, n, OUTPUT), r.gep(data, n, "ptr")
        r.store(NULL, slot, 8)
        with r.if_(r.icmp("eq", r.read(spec, OUTPUT, "kind"), _TENSOR)):
            block = r.call("ptr", "block_alloc", [r.read(spec, OUTPUT, "nbytes")])
            with r.exit_if(r.is_null(block)):
                r.call_void("free_results", [data, n])
                r.ret(Val("i1", "false"))
            r.store(block, slot, 8)
            r.store(block, r.gep(table, r.read(spec, OUTPUT, "row"), "ptr"), 8)
    r.ret(Val("i1", "true"))


def _add_collect(module: ModuleText) -> None:
    """`ptr collect(variant, data)`: the call's value from the blocks that the run has filled."""
    r = Routine.start(
        module,
        "collect",
        "ptr",
        [("ptr", "variant"), ("ptr", "data")],
        linkage="internal",
        attributes=INLINED,
    )
    variant, data = r.params
    tree = r.read(variant, VARIANT, "tree")
    specs = r.read_ptr(variant, VARIANT, "results")
    with r.exit_if(r.icmp("eq", tree, i64(TREES.index("single")))):
        r.ret(r.call("ptr", "make_result", [specs, r.load("ptr", data, 8), NULL]))
    count = r.read(variant, VARIANT, "result_count")
    with r.exit_if(r.icmp("eq", tree, i64(TREES.index("none")))):
        r.call_void("free_results", [data, count])
        none = r.imported("None")
        incref(r, none)
        r.ret(none)
    result = r.call("ptr", "collect_items", [variant, data, count])
    with r.exit_if(r.is_null(result)):
        r.ret(NULL)
    with r.exit_if(r.icmp("eq", tree, i64(TREES.index("unflatten")))):
        unflatten = r.read_ptr(variant, VARIANT, "unflatten")
        value = r.import_call("ptr", "PyObject_CallOneArg", [unflatten, result])
        decref(r, result)
        r.ret(value)
    r.ret(result)
    _add_collect_items(module)


def _add_collect_items(module: ModuleText) -> None:
    """A tuple or list of all results; steals the blocks."""
    r = Routine.start(
        module, "collect_items", "ptr", [("ptr", "variant"), ("ptr", "data"), ("i64", "count")],
        linkage="internal", attributes=RARE,
    )  # fmt: skip
    variant, data, count = r.params
    specs = r.read_ptr(variant, VARIANT, "results")
    as_list = r.icmp("eq", r.read(variant, VARIANT, "tree"), i64(TREES.index("list")))
    box = r.variable(NULL)
    listed, tupled, ready = r.label("list"), r.label("tuple"), r.label("ready")
    r.branch_if(as_list, listed, tupled)
    for name, function in ((listed, "PyList_New"), (tupled, "PyTuple_New")):
        r.block(name)
        box.set(r.import_call("ptr", function, [count]))
        r.branch(ready)
    r.block(ready)
    with r.exit_if(r.is_null(box.get())):
        r.call_void("free_results", [data, count])
        r.ret(NULL)
    items = r.variable(r.at_byte(box.get(), TUPLE_ITEMS))
    with r.if_(as_list):
        items.set(r.load("ptr", r.at_byte(box.get(), LIST_ITEMS), 8))
    with r.each(count) as n:
        value = r.call("ptr", "make_result",
                       [r.record_at(specs, n, OUTPUT), r.load_ptr(data, n), items.get()])  # fmt: skip
        with r.exit_if(r.is_null(value)):
            following = r.add(n, i64(1))
            r.call_void("free_results", [r.gep(data, following, "ptr"), r.sub(count, following)])
            decref(r, box.get())
            r.ret(NULL)
        r.store(value, r.gep(items.get(), n, "ptr"), 8)
    r.ret(box.get())


def _add_run_variant(module: ModuleText) -> None:
    """`ptr run_variant(variant, args, count)`: the call of a variant that matches."""
    r = Routine.start(
        module, "run_variant", "ptr", [("ptr", "variant"), ("ptr", "args"), ("i64", "count")],
        linkage="internal", attributes="nounwind noinline",
    )  # fmt: skip
    variant, args, count = r.params
    executable = r.read_ptr(variant, VARIANT, "executable")
    binding = r.read_ptr(variant, VARIANT, "binding")
    specs = r.read_ptr(variant, VARIANT, "arguments")
    result_count = r.read(variant, VARIANT, "result_count")
    calls = r.field(variant, VARIANT, "calls")
    r.store(r.add(r.load("i64", calls, 8), i64(1)), calls, 8)
    data = r.op("ptr", f"alloca ptr, {result_count}, align 16")

    frame = r.call("ptr", "frame_take", [executable])
    with r.exit_if(r.is_null(frame)):
        r.ret(r.import_call("ptr", "PyErr_NoMemory", []))
    table = r.read_ptr(frame, FRAME, "table")
    with r.exit_if(r.xor(r.call("i1", "allocate_results", [variant, table, data]), Val("i1", "true"))):
        r.call_void("frame_give", [executable, frame])
        r.ret(r.import_call("ptr", "PyErr_NoMemory", []))
    scratch = r.gep(table, r.read(executable, EXECUTABLE, "row_count"), "i64")
    r.call_void("place_arguments", [args, specs, count, table, scratch])
    state_rows = r.read_ptr(executable, EXECUTABLE, "state_rows")
    state_count = r.read(executable, EXECUTABLE, "state_count")
    r.call_void("set_rows", [table, state_rows, state_count, r.read_ptr(binding, BINDING, "states")])

    # A garbage collection or, without the lock, another thread may drop the variant or its binding.
    held_objects = [r.read_ptr(variant, VARIANT, name) for name in ("object", "binding_object")]
    for value in held_objects:
        incref(r, value)
    release = r.nonzero(r.read(executable, EXECUTABLE, "release"))
    held_count = r.select(release, count, i64(0))
    held = r.op("ptr", f"alloca ptr, {held_count}, align 16")
    r.call_void("hold_owners", [args, specs, held_count, held])
    error = run_released(r, release, executable, frame, binding)
    r.call_void("frame_give", [executable, frame])
    with r.each(held_count) as n:
        decref(r, r.load_ptr(held, n))

    value_of = r.variable(NULL)
    failed, good, done = r.label("failed"), r.label("good"), r.label("finish")
    r.branch_if(r.nonzero(error), failed, good)
    r.block(failed)
    r.call_void("free_results", [data, result_count])
    value_of.set(r.call("ptr", "report_failure", [r.read_ptr(variant, VARIANT, "fail"), error]))
    r.branch(done)
    r.block(good)
    value_of.set(r.call("ptr", "collect", [variant, data]))
    finishes = r.icmp("eq", r.read(variant, VARIANT, "tree"), i64(TREES.index("finish")))
    with r.if_(r.and_(finishes, r.not_null(value_of.get()))):
        value_of.set(r.call("ptr", "finish", [variant, value_of.get(), args, count]))
    r.branch(done)
    r.block(done)
    for value in held_objects:
        decref(r, value)
    r.ret(value_of.get())
    _add_report_failure(module)
    _add_finish(module)


def _add_finish(module: ModuleText) -> None:
    """`ptr finish(variant, results, args, count)`: what the callable makes of the results and the arguments; steals the results."""
    r = Routine.start(
        module, "finish", "ptr",
        [("ptr", "variant"), ("ptr", "results"), ("ptr", "args"), ("i64", "count")],
        linkage="internal", attributes=RARE,
    )  # fmt: skip
    variant, results, args, count = r.params
    total = r.add(count, i64(1))
    given = r.op("ptr", f"alloca ptr, {total}, align 16")
    r.store(results, given, 8)
    r.memcpy(r.gep(given, 1, "ptr"), args, r.mul(count, i64(8)))
    function = r.read_ptr(variant, VARIANT, "unflatten")
    value = r.import_call("ptr", "PyObject_Vectorcall", [function, given, total, NULL])
    decref(r, results)
    r.ret(value)


def _add_report_failure(module: ModuleText) -> None:
    """`ptr report_failure(fail, code)`: what the failure callable makes of the error word."""
    r = Routine.start(
        module, "report_failure", "ptr", [("ptr", "fail"), ("i64", "code")],
        linkage="internal", attributes=RARE,
    )  # fmt: skip
    fail, code = r.params
    number = r.import_call("ptr", "PyLong_FromLongLong", [code])
    with r.exit_if(r.is_null(number)):
        r.ret(NULL)
    value = r.import_call("ptr", "PyObject_CallOneArg", [fail, number])
    decref(r, number)
    r.ret(value)


def _add_variant_matches(module: ModuleText) -> None:
    """`i1 variant_matches(variant, args, nargs, kwnames, keyword count, epoch, grad mode)`."""
    r = Routine.start(
        module, "variant_matches", "i1",
        [("ptr", "variant"), ("ptr", "args"), ("i64", "nargs"), ("ptr", "kwnames"), ("i64", "keywords"),
         ("i64", "epoch"), ("i64", "mode")],
        linkage="internal", attributes=INLINED,
    )  # fmt: skip
    variant, args, nargs, kwnames, keywords, epoch, mode = r.params
    no = r.label("no")
    total = r.add(nargs, keywords)
    r.leave_if(r.xor(r.call("i1", "call_matches", list(r.params)), Val("i1", "true")), no)
    r.ret(r.call("i1", "leaves_match", [variant, args, total]))
    r.block(no)
    r.ret(Val("i1", "false"))

    r = Routine.start(
        module, "leaves_match", "i1", [("ptr", "variant"), ("ptr", "args"), ("i64", "count")],
        linkage="internal", attributes=INLINED,
    )  # fmt: skip
    variant, args, count = r.params
    no = r.label("no")
    specs = r.read_ptr(variant, VARIANT, "arguments")
    r.leave_if(r.xor(r.call("i1", "arguments_match", [args, specs, count]), Val("i1", "true")), no)
    spans, span_count = r.read_ptr(variant, VARIANT, "written"), r.read(variant, VARIANT, "written_count")
    r.ret(r.call("i1", "arguments_apart", [args, specs, count, spans, span_count]))
    r.block(no)
    r.ret(Val("i1", "false"))

    r = Routine.start(
        module, "call_matches", "i1",
        [("ptr", "variant"), ("ptr", "args"), ("i64", "nargs"), ("ptr", "kwnames"), ("i64", "keywords"),
         ("i64", "epoch"), ("i64", "mode")],
        linkage="internal", attributes=INLINED,
    )  # fmt: skip
    variant, args, nargs, kwnames, keywords, epoch, mode = r.params
    no = r.label("no")
    total = r.add(nargs, keywords)
    for name, value in (
        ("epoch", epoch),
        ("grad_mode", mode),
        ("argument_count", total),
        ("keyword_count", keywords),
    ):
        r.leave_if(r.icmp("ne", r.read(variant, VARIANT, name), value), no)
    names = r.read_ptr(variant, VARIANT, "keywords")
    with r.if_(r.nonzero(keywords)):
        given = r.at_byte(kwnames, TUPLE_ITEMS)
        same = r.call("i1", "words_equal", [given, names, keywords])
        r.leave_if(r.xor(same, Val("i1", "true")), no)
    r.ret(Val("i1", "true"))
    r.block(no)
    r.ret(Val("i1", "false"))


def _add_run_nested(module: ModuleText) -> None:
    """`ptr run_nested(variant, args, nargs, kwnames, keyword count, epoch, grad mode)`: the call of a variant with nests.

    Gives the address 1 where it does not match. Items of nests are referenced until the end, since another thread may
    take them out while the call runs without the interpreter lock.
    """
    r = Routine.start(
        module, "run_nested", "ptr",
        [("ptr", "variant"), ("ptr", "args"), ("i64", "nargs"), ("ptr", "kwnames"), ("i64", "keywords"),
         ("i64", "epoch"), ("i64", "mode")],
        linkage="internal", attributes="nounwind noinline",
    )  # fmt: skip
    variant, args, nargs, _, keywords, _, _ = r.params
    no, yes = r.label("no"), Val("i1", "true")
    r.leave_if(r.xor(r.call("i1", "call_matches", list(r.params)), yes), no)
    count = r.read(variant, VARIANT, "leaf_count")
    leaves = r.op("ptr", f"alloca ptr, {count}, align 16")
    r.memcpy(leaves, args, r.mul(r.add(nargs, keywords), i64(8)))
    specs = r.read_ptr(variant, VARIANT, "arguments")
    r.leave_if(r.xor(r.call("i1", "take_items", [leaves, specs, count]), yes), no)
    r.leave_if(r.xor(r.call("i1", "leaves_match", [variant, leaves, count]), yes), no)
    with r.each(count) as n:
        incref(r, r.load_ptr(leaves, n))
    value = r.call("ptr", "run_variant", [variant, leaves, count])
    with r.each(count) as n:
        decref(r, r.load_ptr(leaves, n))
    r.ret(value)
    r.block(no)
    r.ret(_NO_MATCH)


def _add_entry_function(module: ModuleText) -> None:
    """`ptr entry(self, args, nargs, kwnames)`: METH_FASTCALL | METH_KEYWORDS."""
    r = Routine.start(
        module, "entry", "ptr", [("ptr", "self"), ("ptr", "args"), ("i64", "nargs"), ("ptr", "kwnames")]
    )
    self_object, args, nargs, kwnames = r.params
    record = r.load("ptr", r.at_byte(self_object, OBJECT_DATA), 8)
    keywords = r.variable(i64(0))
    with r.if_(r.not_null(kwnames)):
        keywords.set(r.load("i64", r.at_byte(kwnames, SIZE), 8))
    epoch = r.read(r.imported("state"), STATE, "epoch")
    mode = r.call("i64", "grad_mode", [])
    current = r.variable(r.read_ptr(record, DISPATCHER, "variants"))
    with r.while_(lambda: r.not_null(current.get())):
        variant = current.get()
        arguments: list[Val] = [variant, args, nargs, kwnames, keywords.get(), epoch, mode]
        plain, nested, following = r.label("plain"), r.label("nested"), r.label("following")
        r.branch_if(r.zero(r.read(variant, VARIANT, "leaf_count")), plain, nested)
        r.block(plain)
        with r.exit_if(r.call("i1", "variant_matches", arguments)):
            r.ret(r.call("ptr", "run_variant", [variant, args, r.add(nargs, keywords.get())]))
        r.branch(following)
        r.block(nested)
        value = r.call("ptr", "run_nested", arguments)
        with r.exit_if(r.icmp("ne", value, _NO_MATCH)):
            r.ret(value)
        r.branch(following)
        r.block(following)
        current.set(r.read_ptr(variant, VARIANT, "next"))
    slow = r.read_ptr(record, DISPATCHER, "slow")
    r.ret(r.import_call("ptr", "PyObject_Vectorcall", [slow, args, nargs, kwnames]))
