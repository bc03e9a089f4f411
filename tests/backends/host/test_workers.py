"""Compile workers: the same objects as in process, errors, death."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from graphc.backends.llvm import workers as workers_module
from graphc.backends.llvm.compile import compile_text, host_target
from graphc.backends.llvm.text import ModuleText
from graphc.backends.llvm.workers import CompileWorkers, compile_many
from graphc.ir.errors import CompileError
from graphc.ir.target import TARGETS


def module(n: int, size: int = 50) -> str:
    text = ModuleText(host_target())
    b = text.function(f"f{n}", "double", [("double", "x")])
    value = b.params[0]
    for i in range(size):
        value = b.fadd(b.fmul(value, b.const("double", i + n)), b.params[0])
    b.ret(value)
    return str(text)


@pytest.fixture(scope="module")
def pool() -> Iterator[CompileWorkers]:
    made = CompileWorkers(2)
    yield made
    made.close()


def test_workers_give_the_objects_of_this_process(pool: CompileWorkers) -> None:
    texts = [module(n) for n in range(12)]
    futures = [pool.submit(text, host_target()) for text in texts]
    assert [f.result() for f in futures] == [compile_text(text, host_target()) for text in texts]
    target = TARGETS["aarch64"]
    text = module(1).replace(host_target().triple, target.triple)
    assert pool.submit(text, target).result() == compile_text(text, target)


def test_large_texts_and_many_threads(pool: CompileWorkers) -> None:
    texts = [module(n, size=1000 * (n % 3) + 10) for n in range(9)]
    found: dict[int, bytes] = {}

    def work(first: int) -> None:
        requests = [pool.submit(text, host_target()) for text in texts[first::3]]
        found.update({first + 3 * i: r.result() for i, r in enumerate(requests)})

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [found[n] for n in range(9)] == [compile_text(text, host_target()) for text in texts]


def test_bad_text_does_not_end_the_worker(pool: CompileWorkers) -> None:
    for text in ("nonsense", "define void @f() { ret i32 1 }", "nonsense"):
        with pytest.raises(CompileError, match="LLVM rejects"):
            pool.submit(text, host_target()).result()
    assert pool.submit(module(3), host_target()).result() == compile_text(module(3), host_target())


def test_a_worker_that_dies_is_replaced() -> None:
    pool = CompileWorkers(1)
    pool.submit(module(0), host_target()).result()
    (worker,) = pool._workers
    worker.process.kill()
    worker.process.wait()
    assert pool.submit(module(1), host_target()).result() == compile_text(module(1), host_target())
    (worker,) = pool._workers
    request, later = (pool.submit(module(n, size=20_000), host_target()) for n in (2, 3))
    worker.process.kill()
    with pytest.raises(CompileError, match="worker died"):
        request.result()
    assert later.result().startswith(b"\x7fELF")
    assert pool.submit(module(1), host_target()).result() == compile_text(module(1), host_target())
    pool.close()


@pytest.mark.parametrize("threshold", [0, 1 << 60])
def test_compile_many(threshold: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "_TEXT_WORTH_WORKERS", threshold)
    texts = [module(n, size=n % 3 * 40 + 1) for n in range(7)]
    assert compile_many(iter(texts), host_target()) == [compile_text(t, host_target()) for t in texts]
    assert compile_many([], host_target()) == []
    with pytest.raises(CompileError, match="LLVM rejects"):
        compile_many([texts[0], "nonsense"], host_target())


AT_EXIT = """
from graphc.backends.llvm import workers
from graphc.backends.llvm.compile import host_target
from tests.backends.host.test_workers import module
workers._TEXT_WORTH_WORKERS = 0
assert len(workers.compile_many([module(0), module(1)], host_target())) == 2
"""


def test_interpreter_exit_ends_the_workers() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", AT_EXIT], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


UNANSWERED = """
from graphc.backends.llvm import workers
from graphc.backends.llvm.compile import host_target
from tests.backends.host.test_workers import module
request = workers.start_workers().submit(module(0, size=20_000), host_target())
{end}
"""


@pytest.mark.parametrize("end", ["", "import os; os._exit(0)"])
def test_nobody_waits_for_answers_at_exit(end: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", UNANSWERED.format(end=end)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_worker_loads_neither_numpy_nor_graphc() -> None:
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); print([m for m in ('numpy', 'graphc') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, workers_module.emitter.__file__],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
