"""Pipelines of passes and their text: `canonicalise,fold{max_elements=64},cse,dce`.

`parse_pipeline(str(p)) == p` for every pipeline; options at their defaults are not spelt.
"""

from __future__ import annotations

import re
from dataclasses import fields

from graphc.ir.attributes import attribute_text, parse_attributes
from graphc.ir.records import dataclass
from graphc.passes.base import PASSES, Pass

__all__ = ["OPTIMISE", "Pipeline", "parse_pipeline", "pass_text"]

_NAME = re.compile(r"\s*([a-z_][a-z0-9_]*)\s*")
_COMMA = re.compile(r"\s*,")


@dataclass(frozen=True)
class Pipeline:
    """Passes in the order in which they run."""

    passes: tuple[Pass, ...] = ()

    def __str__(self) -> str:
        return ",".join(map(pass_text, self.passes))


def pass_text(pass_: Pass) -> str:
    """A pass as its name and the options that differ from their defaults."""
    options = [
        f"{f.name}={attribute_text(getattr(pass_, f.name))}"
        for f in fields(pass_)
        if getattr(pass_, f.name) != f.default
    ]
    return pass_.name + (f"{{{', '.join(options)}}}" if options else "")


def parse_pipeline(text: str) -> Pipeline:
    """The pipeline that `text` spells; the empty text is the empty pipeline.

    Raises ValueError, saying what was expected, for text that is none: an unknown pass or option,
    or an option of the wrong type.
    """
    passes: list[Pass] = []
    at = 0
    while text[at:].strip():
        if passes:
            comma = _COMMA.match(text, at)
            if comma is None:
                raise ValueError(f"expected a comma in pipeline {text!r} at {text[at:]!r}")
            at = comma.end()
        name = _NAME.match(text, at)
        if name is None or name.group(1) not in PASSES:
            raise ValueError(
                f"expected a pass at {text[at:]!r} of pipeline {text!r}; passes are {', '.join(sorted(PASSES))}"
            )
        at = name.end()
        options: dict[str, object] = {}
        if text[at : at + 1] == "{":
            options, used = parse_attributes(text[at:])
            at += used
        passes.append(_make(PASSES[name.group(1)], options))
    return Pipeline(tuple(passes))


def _make(cls: type[Pass], options: dict[str, object]) -> Pass:
    known = {f.name: f for f in fields(cls)}
    for name, value in options.items():
        if name not in known:
            raise ValueError(
                f"pass {cls.name} has no option {name}; its options are {', '.join(known) or 'none'}"
            )
        default = known[name].default
        if type(value) is not type(default):
            raise ValueError(
                f"pass {cls.name}: option {name} is {attribute_text(value)}, expected "
                f"{type(default).__name__} like {attribute_text(default)}"
            )
    return cls(**options)


OPTIMISE = "canonicalise,fold,cse,decompose,simplify_branches,simplify_loops,hoist_invariants,simplify_loops,canonicalise,fold,cse,canonicalise,loop_layouts,dce"
"""The pipeline between tracing and fusion where none is given.

Composite ops are cleaned up whole first, so that equal ones are decomposed once.
"""
