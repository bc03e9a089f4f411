"""Copies of whole tensors: without a program where they can be, and what is read before or after them stays right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import graphc as torch
from graphc.core.evaluate import cache_clear, cache_size

Tensors = list[torch.Tensor]


def swapped(a: torch.Tensor, b: torch.Tensor) -> Tensors:
    old = a.clone()
    a.copy_(b)
    b.copy_(old)
    return [a, b]


def crossed(a: torch.Tensor, b: torch.Tensor) -> Tensors:
    before, c = a + 0, torch.zeros(3)
    c.realize()
    a.copy_(b)
    c.copy_(before)
    return [a, b, c]


def source_written_later(a: torch.Tensor, b: torch.Tensor) -> Tensors:
    a.copy_(b)
    b.add_(1)
    return [a, b]


def source_copied_over(a: torch.Tensor, b: torch.Tensor) -> Tensors:
    c = torch.full((3,), 7.0)
    c.realize()
    a.copy_(b)
    b.copy_(c)
    return [a, b, c]


def read_before_and_after(a: torch.Tensor, b: torch.Tensor) -> Tensors:
    before = a * 2
    a.copy_(b)
    return [before, a * 3, a]


def twice(a: torch.Tensor, b: torch.Tensor) -> Tensors:
    a.copy_(b)
    a.copy_(b * 2)
    b.copy_(a)
    return [a, b]


def through_a_view(a: torch.Tensor, b: torch.Tensor) -> Tensors:
    whole = a.reshape(3, 1)
    whole.copy_(b.reshape(3, 1))
    return [a, whole, b]


def part_of_itself(a: torch.Tensor, b: torch.Tensor) -> Tensors:
    big = torch.cat([a, b])
    big.realize()
    big[:3].copy_(big[3:])
    a.copy_(big[1:4])
    return [a, big]


def with_a_gradient(a: torch.Tensor, b: torch.Tensor) -> Tensors:
    x = b.clone().requires_grad_()
    a.copy_(x * 1)
    a.copy_(x)
    a.sum().backward()
    assert x.grad is not None
    return [a.detach(), x.grad]


CASES: list[Callable[[torch.Tensor, torch.Tensor], Tensors]] = [
    swapped, crossed, source_written_later, source_copied_over, read_before_and_after, twice, through_a_view,
    part_of_itself, with_a_gradient,
]  # fmt: skip


EXPECTED = {
    "swapped": [[4, 5, 6], [1, 2, 3]],
    "crossed": [[4, 5, 6], [4, 5, 6], [1, 2, 3]],
    "source_written_later": [[4, 5, 6], [5, 6, 7]],
    "source_copied_over": [[4, 5, 6], [7, 7, 7], [7, 7, 7]],
    "read_before_and_after": [[2, 4, 6], [12, 15, 18], [4, 5, 6]],
    "twice": [[8, 10, 12], [8, 10, 12]],
    "through_a_view": [[4, 5, 6], [[4], [5], [6]], [4, 5, 6]],
    "part_of_itself": [[5, 6, 4], [4, 5, 6, 4, 5, 6]],
    "with_a_gradient": [[4, 5, 6], [1, 1, 1]],
}


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.__name__)
def test_values(case: Callable[[torch.Tensor, torch.Tensor], Tensors]) -> None:
    made = [torch.tensor(v) for v in ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])]
    assert [t.tolist() for t in case(*made)] == EXPECTED[case.__name__]


def test_a_state_dict_is_loaded_without_a_program() -> None:
    source, target = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    state = {name: value.detach().numpy().copy() for name, value in source.state_dict().items()}
    cache_clear()
    target.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    for name, value in target.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[name])
    assert cache_size() == 0


def test_draws_that_nobody_reads_move_the_stream() -> None:
    torch.manual_seed(3)
    expected = [torch.rand(4).tolist(), torch.rand(2).tolist(), torch.rand(4).tolist()]
    torch.manual_seed(3)
    a, unread = torch.rand(4), torch.rand(2)
    first = a.tolist()
    del unread
    assert [first, torch.rand(4).tolist()] == expected[::2]
