"""Runs pipelines: instruments around each pass, and a reproducer where one crashes.

The text of the graph is written only when a pass fails: the state before it is made again by
running the earlier passes on a copy, which is right because passes are deterministic.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path

from graphc.ir.errors import CompileError
from graphc.ir.graph import Graph
from graphc.ir.records import dataclass
from graphc.ir.target import TARGETS
from graphc.passes.base import Pass
from graphc.passes.context import CompileContext
from graphc.passes.instruments import Instrument, Validate, Verify
from graphc.passes.pipeline import OPTIMISE, Pipeline, parse_pipeline, pass_text

__all__ = ["PassManager", "default_instruments", "run_pipeline"]


def default_instruments() -> list[Instrument]:
    """The verifier, and validation where the environment has GRAPHC_VALIDATE=1."""
    validating = os.environ.get("GRAPHC_VALIDATE", "0") not in ("", "0")
    return [Verify(), Validate()] if validating else [Verify()]


@dataclass
class PassManager:
    """A pipeline and the instruments around it."""

    pipeline: Pipeline = field(default_factory=lambda: parse_pipeline(OPTIMISE))
    instruments: Sequence[Instrument] = field(default_factory=default_instruments)

    def run(self, graph: Graph, context: CompileContext | None = None) -> bool:
        """Changes `graph` by every pass in turn; True where one changed it.

        Raises CompileError where a pass or an instrument fails; the message names a file with the
        graph before that pass and the command that runs the pass on it again. A CompileError that
        a pass raises is about the user's program and is passed on as it is.
        """
        context = context if context is not None else CompileContext()
        start, anything = graph.copy(), False
        for i, pass_ in enumerate(self.pipeline.passes):
            try:
                anything = self._run_one(pass_, graph, context) or anything
            except CompileError:
                raise
            except Exception as error:
                path = _write_reproducer(start, self.pipeline.passes[:i], pass_, context)
                raise _failure(pass_, path, context, error) from error
        return anything

    def _run_one(self, pass_: Pass, graph: Graph, context: CompileContext) -> bool:
        for instrument in self.instruments:
            instrument.before(pass_, graph, context)
        changed = pass_.run(graph, context) is not False
        for instrument in self.instruments:
            instrument.after(pass_, graph, context, changed)
        return changed


def run_pipeline(
    graph: Graph,
    pipeline: str | Pipeline = OPTIMISE,
    context: CompileContext | None = None,
    instruments: Sequence[Instrument] | None = None,
) -> bool:
    """Runs a pipeline, given as text or parsed, over `graph`. See `PassManager.run`."""
    parsed = parse_pipeline(pipeline) if isinstance(pipeline, str) else pipeline
    manager = PassManager(parsed, default_instruments() if instruments is None else instruments)
    return manager.run(graph, context)


def _write_reproducer(start: Graph, earlier: Sequence[Pass], pass_: Pass, context: CompileContext) -> Path:
    """The file with the graph as `pass_` met it."""
    for p in earlier:
        p.run(start, context)
    path = Path(tempfile.mkdtemp(prefix="graphc-")) / f"before_{pass_.name}.graph"
    path.write_text(f"{start}\n", encoding="utf-8")
    return path


def _failure(pass_: Pass, path: Path, context: CompileContext, error: Exception) -> CompileError:
    command = [sys.executable, "-m", "graphc.passes.replay", str(path), "--pipeline", pass_text(pass_)]
    if context.target.name in TARGETS:
        command += ["--target", context.target.name]
    return CompileError(
        f"pass {pass_text(pass_)} failed: {type(error).__name__}: {error}\n"
        f"  the graph before it is in {path}\n"
        f"  to reproduce: {shlex.join(command)}",
        filename=getattr(error, "filename", None),
        lineno=getattr(error, "lineno", None),
    )
