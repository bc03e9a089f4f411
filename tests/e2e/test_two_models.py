"""Adversarial steps as PyTorch's tutorials write them: two models and two optimisers in one compiled call.

Losses, parameters and what is left in `.grad` are PyTorch's after several calls, wherever gradients are cleared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc

torch = pytest.importorskip("torch")

Step = Callable[[Any, Any], tuple[Any, ...]]


def models(m: Any) -> tuple[Any, Any]:
    """The generator and the judge; PyTorch's have always the same initial values."""
    nn = m.nn
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _models(m, nn)


def _models(m: Any, nn: Any) -> tuple[Any, Any]:
    generator = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.Tanh())
    discriminator = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1), nn.Sigmoid())
    return generator.to(m.float64), discriminator.to(m.float64)


def tutorial(m: Any, g: Any, d: Any) -> Step:
    """The order of the DCGAN tutorial: clear d, two backwards, step; clear g, backward through d, step."""
    criterion = m.nn.BCELoss()
    of_d = m.optim.Adam(d.parameters(), lr=2e-3, betas=(0.5, 0.999))
    of_g = m.optim.Adam(g.parameters(), lr=2e-3, betas=(0.5, 0.999))

    def step(real: Any, noise: Any) -> tuple[Any, ...]:
        d.zero_grad()
        label = m.full((real.size(0),), 1.0, dtype=m.float64)
        output = d(real).view(-1)
        loss_real = criterion(output, label)
        loss_real.backward()
        d_x = output.mean()
        fake = g(noise)
        label.fill_(0.0)
        output = d(fake.detach()).view(-1)
        loss_fake = criterion(output, label)
        loss_fake.backward()
        before = output.mean()
        of_d.step()
        g.zero_grad()
        label.fill_(1.0)
        output = d(fake).view(-1)
        loss_g = criterion(output, label)
        loss_g.backward()
        of_g.step()
        return loss_real + loss_fake, loss_g, d_x, before, output.mean()

    return step


def generator_first(m: Any, g: Any, d: Any) -> Step:
    """The generator's step leaves gradients in d, which are cleared before d's own."""
    criterion = m.nn.BCELoss()
    of_g, of_d = (m.optim.Adam(x.parameters(), lr=2e-3) for x in (g, d))

    def step(real: Any, noise: Any) -> tuple[Any, ...]:
        fake, one, zero = (
            g(noise),
            m.ones(real.size(0), 1, dtype=m.float64),
            m.zeros(real.size(0), 1, dtype=m.float64),
        )
        of_g.zero_grad()
        loss_g = criterion(d(fake), one)
        loss_g.backward()
        of_g.step()
        of_d.zero_grad()
        loss_d = (criterion(d(real), one) + criterion(d(fake.detach()), zero)) / 2
        loss_d.backward()
        of_d.step()
        return loss_g, loss_d

    return step


def cleared_behind(m: Any, g: Any, d: Any) -> Step:
    """Gradients are cleared behind each step, so what g's backward leaves in d is added to at the next call."""
    criterion = m.nn.BCELoss()
    of_g, of_d = (m.optim.SGD(x.parameters(), lr=2e-2, momentum=0.5) for x in (g, d))

    def step(real: Any, noise: Any) -> tuple[Any, ...]:
        fake, one, zero = (
            g(noise),
            m.ones(real.size(0), 1, dtype=m.float64),
            m.zeros(real.size(0), 1, dtype=m.float64),
        )
        loss_d = criterion(d(real), one) + criterion(d(fake.detach()), zero)
        loss_d.backward()
        of_d.step()
        of_d.zero_grad()
        loss_g = criterion(d(fake), one)
        loss_g.backward()
        of_g.step()
        of_g.zero_grad()
        return loss_d, loss_g

    return step


def never_cleared(m: Any, g: Any, d: Any) -> Step:
    """Gradients of d add up over all calls; those of g are zeros in place."""
    of_g, of_d = (m.optim.SGD(x.parameters(), lr=2e-3) for x in (g, d))

    def step(real: Any, noise: Any) -> tuple[Any, ...]:
        of_g.zero_grad(set_to_none=False)
        loss = (d(g(noise)) - d(real)).square().mean()
        loss.backward()
        of_g.step()
        of_d.step()
        return (loss,)

    return step


def compared(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("keep_grads", [False, True])
@pytest.mark.parametrize("make", [tutorial, generator_first, cleared_behind, never_cleared])
def test_training(make: Callable[[Any, Any, Any], Step], keep_grads: bool) -> None:
    theirs, ours = models(torch), models(graphc)
    for a, b in zip(theirs, ours, strict=True):
        b.load_state_dict({k: graphc.tensor(v.numpy()) for k, v in a.state_dict().items()})
    plain, compiled = make(torch, *theirs), graphc.compile(make(graphc, *ours), keep_grads=keep_grads)
    rng = np.random.default_rng(0)
    for _ in range(5):
        arrays = rng.standard_normal((6, 8)), rng.standard_normal((6, 4))
        expected = plain(*(torch.tensor(a, dtype=torch.float64) for a in arrays))
        for got, value in zip(
            compiled(*(graphc.tensor(a, dtype=graphc.float64) for a in arrays)), expected, strict=True
        ):
            compared(got, value)
    for a, b in zip(theirs, ours, strict=True):
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            compared(q, p)
            if not keep_grads and make in (tutorial, generator_first):
                continue  # gradients that the next call clears first are not kept
            assert (p.grad is None) == (q.grad is None)
            if p.grad is not None:
                compared(q.grad, p.grad)
    assert compiled.cache_info().misses == 1
