"""The text of dims back to dims: what `str` of an expression spells."""

from __future__ import annotations

import re
from collections.abc import Mapping

from graphc.ir.dims.expression import Dim, Symbol, floor_div, maximum, minimum, mod

_TOKEN = re.compile(r"\s*(?:(\d+)|([A-Za-z_%$][\w.%]*)|(//|[-+*%(),]))")


def parse_dim(text: str, known: Mapping[str, Symbol] | None = None) -> Dim:
    """The dim spelt as `str` spells it. Unknown names become symbols with bounds [0, ∞).

    Raises ValueError at text that is no dim.
    """
    return _DimParser(text, known or {}).whole()


class _DimParser:
    def __init__(self, text: str, known: Mapping[str, Symbol]) -> None:
        self.text, self.known = text, known
        self.tokens: list[str] = []
        at = 0
        stripped = text.rstrip()
        while at < len(stripped):
            match = _TOKEN.match(stripped, at)
            if match is None:
                raise ValueError(f"expected a dimension, got {text!r}")
            self.tokens.append(match.group().strip())
            at = match.end()
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise ValueError(f"expected {expected or 'more'} in dimension {self.text!r}")
        self.at += 1
        return token

    def whole(self) -> Dim:
        result = self.sum()
        if self.peek():
            raise ValueError(f"unexpected {self.peek()!r} in dimension {self.text!r}")
        return result

    def sum(self) -> Dim:
        sign = -1 if self.peek() == "-" else 1
        if self.peek() in ("-", "+"):
            self.take()
        result = sign * self.term()
        while self.peek() in ("+", "-"):
            result = result + self.term() if self.take() == "+" else result - self.term()
        return result

    def term(self) -> Dim:
        result = self.factor()
        while self.peek() in ("*", "//", "%"):
            match self.take():
                case "*":
                    result = result * self.factor()
                case "//":
                    result = floor_div(result, self.factor())
                case _:
                    result = mod(result, self.factor())
        return result

    def factor(self) -> Dim:
        token = self.take()
        if token.isdigit():
            return int(token)
        if token == "(":
            result = self.sum()
            self.take(")")
            return result
        if token in ("min", "max") and self.peek() == "(":
            self.take("(")
            a = self.sum()
            self.take(",")
            b = self.sum()
            self.take(")")
            return minimum(a, b) if token == "min" else maximum(a, b)
        if not (token[0].isalpha() or token[0] in "_%$"):
            raise ValueError(f"unexpected {token!r} in dimension {self.text!r}")
        return self.known.get(token, Symbol(token)).expr
