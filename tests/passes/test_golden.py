"""Golden texts: each file in `golden/` holds a pipeline, a graph and what the pipeline makes of it.

A file without a result gets one, and every file its present one, from

    pytest tests/passes/test_golden.py --update-golden
"""

from __future__ import annotations

from pathlib import Path

import pytest

from graphc.ir import parse
from graphc.passes import run_pipeline

FILES = sorted((Path(__file__).parent / "golden").glob("*.txt"))
ARROW = "\n\n// becomes\n"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_golden(path: Path, update_golden: bool) -> None:
    source, _, expected = path.read_text(encoding="utf-8").partition(ARROW)
    head, _, text = source.partition("\n")
    assert head.startswith("// pipeline: "), f"{path.name}: first line names no pipeline"
    graph = parse("\n".join(line for line in text.splitlines() if not line.lstrip().startswith("//")))
    run_pipeline(graph, head.removeprefix("// pipeline: "))
    found = str(graph) + "\n"
    if update_golden:
        path.write_text(source.rstrip() + ARROW + found, encoding="utf-8")
    else:
        assert found == expected
    assert str(parse(found)) + "\n" == found


def test_there_are_golden_files() -> None:
    assert len(FILES) >= 10
