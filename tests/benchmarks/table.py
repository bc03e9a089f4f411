"""The benchmark's table as text, Markdown and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import Measured, RowResult
from tests.benchmarks.roofline import Machine
from tests.benchmarks.workloads import Workload

__all__ = ["as_json", "from_json", "markdown", "summary", "text_head", "text_row"]

_TITLE = 46


def text_head(peers: Sequence[str]) -> str:
    """The head of the text table; times in microseconds, the FMA peak between graphc's runs in GFLOP/s."""
    cells = [f"{'µs':{_TITLE}}", *(f"{p:>13}" for p in peers)]
    return " ".join(
        [
            *cells,
            f"{'speedup':>8} {'first ms':>9} {'MiB':>6} {'roofline':>8} {'best':>6}  FMA peak (rounds), quiet",
        ]
    )


def text_row(result: RowResult, peers: Sequence[str], machine: Machine) -> str:
    """One line of the text table, and one line more for each peer without a figure."""
    title = f"{result.workload.title} [{result.threads}]"
    cells = [f"{title:{_TITLE}}", *(f"{_time(result.measured.get(p)):>13}" for p in peers)]
    cells.append(f"{_speedup(result):>8}")
    ours = result.measured.get("graphc")
    if ours is None:
        cells.append(f"{'–':>9} {'–':>6} {'–':>8}")
    else:
        share = machine.share(result.workload.floor, result.threads, ours)
        cells.append(f"{_first(ours):>9} {ours.memory / 2**20:>6,.0f} {share:>8.1%}{_peak(result, ours)}")
    lines = [" ".join(cells)]
    lines += [f"    {peer}: not there: {why}" for peer, why in result.missing.items()]
    return "\n".join(lines)


def summary(results: Sequence[RowResult]) -> str:
    """The geometric mean of the rows that have both graphc and a peer, and how many have not."""
    ratios = [s for r in results if (s := r.speedup()) is not None]
    if not ratios:
        return "no row with both graphc and a peer"
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return f"geometric mean of the speedup over the best peer: {mean:.2f}× ({len(ratios)} of {len(results)} rows)"


def markdown(results: Sequence[RowResult], peers: Sequence[str], machine: Machine) -> str:
    """The table in Markdown, with the reasons for empty cells below it."""
    shown = [p for p in peers if any(p in r.measured for r in results)]
    head = ["float32, µs", *shown, "best peer ÷ graphc", "first call, ms", "roofline"]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for r in results:
        ours = r.measured.get("graphc")
        cells = [r.workload.title, *(_time(r.measured.get(p)) for p in shown), _speedup(r)]
        if ours is None:
            cells += ["–", "–"]
        else:
            share = machine.share(r.workload.floor, r.threads, ours)
            cells += [_first(ours), f"{share:.0%}"]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", summary(results) + ".", "", f"{machine}"]
    lines += [f"{r.workload.title}, {peer}: {why}" for r in results for peer, why in r.missing.items()]
    return "\n".join(lines) + "\n"


def as_json(results: Sequence[RowResult], machine: Machine, path: Path) -> None:
    """Writes the figures; rows and peers that the file has already and that were not measured now stay."""
    held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": {}}
    held["machine"] = asdict(machine)
    for r in results:
        before = held["rows"].get(r.workload.name, {"measured": {}, "missing": {}})
        measured = before["measured"] | {p: asdict(m) for p, m in r.measured.items()}
        missing = {p: why for p, why in before["missing"].items() if p not in measured} | r.missing
        held["rows"][r.workload.name] = {
            "title": r.workload.title, "threads": r.threads, "floor": asdict(r.workload.floor),
            "measured": {p: m for p, m in measured.items() if p not in r.missing}, "missing": missing,
        }  # fmt: skip
    path.write_text(json.dumps(held, indent=2), encoding="utf-8")


def from_json(path: Path, rows: Sequence[Workload]) -> tuple[list[RowResult], Machine]:
    """What `as_json` wrote, in the order of `rows`."""
    held = json.loads(path.read_text(encoding="utf-8"))
    found = []
    for w in rows:
        if entry := held["rows"].get(w.name):
            measured = {p: Measured(**m) for p, m in entry["measured"].items()}
            found.append(RowResult(w, entry["threads"], measured, entry["missing"]))
    return found, Machine(**held["machine"])


def _time(found: Measured | None) -> str:
    if found is None:
        return "–"
    micros = found.median * 1e6
    return f"{micros:,.2f}" if micros < 100 else f"{micros:,.0f}"


def _peak(result: RowResult, found: Measured) -> str:
    """The share of the peak in the best round, the peak over rounds, and how many batches were quiet."""
    if not found.peak:
        return ""
    best = result.workload.floor.flops / 1e9 / found.at_peak_best / result.threads
    return (
        f" {best:>6.1%}  {found.peak:.1f} ({found.peak_low:.1f}–{found.peak_high:.1f}), "
        f"{found.quiet} of {found.batches}"
    )


def _first(found: Measured) -> str:
    return f"{found.first * 1e3:,.0f}" if found.first else "–"


def _speedup(result: RowResult) -> str:
    ratio = result.speedup()
    return "–" if ratio is None else f"{ratio:.2f}×"
