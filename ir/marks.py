"""Marks: words on an op that tell passes how to treat it. They say nothing about what it computes.

`no_grad`          no gradient flows through it
`gradient`         part of a way back; written only in graphs that have checkpoints
`checkpoint:1.2`   recorded inside checkpoint 2 of checkpoint 1: a way back computes its values again; also on what a
                   gradient of such an op is made of
`recompute:1.2`    a clone that does so, or part of the way back beside it; never merged with what is before
`kept`             to be in memory of its own, since it is made once for many calls
`recompute`        a clone that rematerialisation or fusion made

Invariant: a pass that replaces an op gives its words to what stands for it.
"""

from __future__ import annotations

from graphc.ir.graph import Op

__all__ = [
    "CHECKPOINT",
    "GRADIENT",
    "KEPT",
    "NO_GRAD",
    "RECOMPUTE",
    "add_mark",
    "checkpoint_path",
    "checkpoint_word",
    "drop_marks",
    "has_mark",
    "is_clone",
]

NO_GRAD = "no_grad"
GRADIENT = "gradient"
CHECKPOINT = "checkpoint:"
KEPT = "kept"
RECOMPUTE = "recompute"


def has_mark(op: Op, word: str) -> bool:
    """Whether `word` is one of the op's."""
    return op.mark is not None and (op.mark == word or word in op.mark.split())


def add_mark(op: Op, word: str) -> None:
    """Gives the op one more word."""
    if op.mark is None:
        op.mark = word
    elif not has_mark(op, word):
        op.mark = f"{op.mark} {word}"


def drop_marks(op: Op, *kept: str) -> None:
    """Takes off all words but a clone's and those of `kept`."""
    if op.mark is not None:
        op.mark = " ".join([w for w in op.mark.split() if w.startswith(RECOMPUTE) or w in kept]) or None


def is_clone(op: Op) -> bool:
    """Whether the op computes again on purpose what another has computed."""
    return op.mark is not None and any(w.startswith(RECOMPUTE) for w in op.mark.split())


def checkpoint_word(op: Op) -> str | None:
    """The word that names the checkpoints that the op belongs to, if it does."""
    return next((w for w in (op.mark or "").split() if w.startswith(CHECKPOINT)), None)


def checkpoint_path(op: Op) -> tuple[str, ...]:
    """The checkpoints that the op belongs to, outermost first."""
    word = checkpoint_word(op)
    return () if word is None else tuple(word[len(CHECKPOINT) :].split("."))
