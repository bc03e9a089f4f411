"""Streams of random numbers: distributions by test statistics, states, independence, one meaning everywhere.

Seeds are fixed; a test statistic is refused at a probability of 1e-4.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from scipy import stats

import graphc
from graphc import nn

N = 20_000
LEAST = 1e-4


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """The default generator and the number of threads are as they were."""
    threads = graphc.get_num_threads()
    with graphc.random.fork_rng():
        yield
    graphc.set_num_threads(threads)


def flat(x: Any) -> Any:
    return np.asarray(x.detach().numpy(), np.float64).reshape(-1)


# fmt: off
CONTINUOUS: dict[str, tuple[Callable[[], Any], Any]] = {
    "rand": (lambda: graphc.rand(N), stats.uniform()),
    "rand f64": (lambda: graphc.rand(N, dtype=graphc.float64), stats.uniform()),
    "randn": (lambda: graphc.randn(N), stats.norm()),
    "randn f64": (lambda: graphc.randn(N, dtype=graphc.float64), stats.norm()),
    "normal": (lambda: graphc.normal(2.0, 3.0, (N,)), stats.norm(2, 3)),
    "uniform_": (lambda: graphc.empty(N).uniform_(-2, 4), stats.uniform(-2, 6)),
    "exponential_": (lambda: graphc.empty(N).exponential_(2.0), stats.expon(scale=0.5)),
    "log_normal_": (lambda: graphc.empty(N).log_normal_(0.5, 0.25), stats.lognorm(0.25, scale=math.exp(0.5))),
    "cauchy_": (lambda: graphc.empty(N).cauchy_(1.0, 2.0), stats.cauchy(1, 2)),
    "from a state that was split": (lambda: graphc.rand(N, generator=graphc.Generator().manual_seed(3).fork()), stats.uniform()),
}
DISCRETE: dict[str, tuple[Callable[[], Any], list[float]]] = {
    "randint": (lambda: graphc.randint(0, 7, (N,)), [1 / 7] * 7),
    "random_": (lambda: graphc.empty(N).random_(0, 5), [1 / 5] * 5),
    "bernoulli": (lambda: graphc.bernoulli(graphc.full((N,), 0.3)), [0.7, 0.3]),
    "bernoulli p": (lambda: graphc.bernoulli(graphc.ones(N), 0.3), [0.7, 0.3]),
    "bernoulli_": (lambda: graphc.empty(N).bernoulli_(0.8), [0.2, 0.8]),
    "multinomial": (lambda: graphc.multinomial(graphc.tensor([1.0, 0.0, 3.0, 4.0]), N, True), [1 / 8, 0, 3 / 8, 4 / 8]),
    "multinomial without": (lambda: graphc.multinomial(graphc.tensor([[1.0, 3.0, 4.0]] * N), 1), [1 / 8, 3 / 8, 4 / 8]),
    "first of randperm": (lambda: graphc.stack([graphc.randperm(4)[0] for _ in range(400)]), [1 / 4] * 4),
    "dropout": (lambda: nn.functional.dropout(graphc.ones(N), 0.25) * 0.75, [0.25, 0.75]),
}
# fmt: on


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous(name: str) -> None:
    graphc.manual_seed(11)
    draw, distribution = CONTINUOUS[name]
    assert stats.kstest(flat(draw()), distribution.cdf).pvalue > LEAST


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete(name: str) -> None:
    graphc.manual_seed(11)
    draw, shares = DISCRETE[name]
    values = flat(draw()).round().astype(int)
    counts = np.bincount(values, minlength=len(shares))
    possible = np.array(shares) > 0
    assert counts[~possible].sum() == 0 and len(counts) == len(shares)
    assert stats.chisquare(counts[possible], np.array(shares)[possible] * len(values)).pvalue > LEAST


def test_geometric() -> None:
    graphc.manual_seed(11)
    values = flat(graphc.empty(N).geometric_(0.3))
    counts = [int((values == k).sum()) for k in range(1, 12)]
    expected = stats.geom(0.3).pmf(np.arange(1, 12)) * N
    rest = [N - sum(counts)], [N - expected.sum()]
    assert stats.chisquare(counts + rest[0], [*expected, *rest[1]]).pvalue > LEAST


def test_streams_are_independent() -> None:
    """Neighbouring seeds, split streams, and draws that follow one another are not correlated."""
    parent = graphc.Generator().manual_seed(5)
    streams = [parent, *parent.split(3), parent.fork(), graphc.Generator().manual_seed(6)]
    drawn = [flat(graphc.rand(N, generator=g)) for g in streams]
    drawn.append(flat(graphc.rand(N, generator=parent)))
    correlations = np.corrcoef(drawn)[~np.eye(len(drawn), dtype=bool)]
    assert np.abs(correlations).max() < 5 / math.sqrt(N)
    for a, b in itertools.pairwise(drawn):
        cells = np.histogram2d(a, b, bins=8, range=[[0, 1], [0, 1]])[0]
        assert stats.chisquare(cells.reshape(-1)).pvalue > LEAST


def test_splitting_repeats_and_does_not_advance() -> None:
    def draws() -> list[Any]:
        parent = graphc.Generator().manual_seed(5)
        children = parent.split(2)
        return [graphc.rand(3, generator=g).tolist() for g in (parent, *children, parent.fork())]

    first = draws()
    assert draws() == first and len({tuple(x) for x in first}) == 4
    assert first[0] == graphc.rand(3, generator=graphc.Generator().manual_seed(5)).tolist()


DRAWN: dict[str, Callable[[], Any]] = {
    "rand": lambda: graphc.rand(1000),
    "randn": lambda: graphc.randn(33, 65),
    "randint": lambda: graphc.randint(0, 1000, (257,)),
    "randperm": lambda: graphc.randperm(37),
    "randperm of 64": lambda: graphc.randperm(64),
    "randperm of 1": lambda: graphc.randperm(1),
    "multinomial": lambda: graphc.multinomial(graphc.tensor([[1.0, 2.0, 0.0, 4.0, 1.0]] * 3), 4),
    "multinomial again": lambda: graphc.multinomial(graphc.tensor([1.0, 2.0, 0.0, 4.0]), 50, True),
    "normal_": lambda: graphc.empty(100).normal_(1, 2),
    "bernoulli": lambda: graphc.bernoulli(graphc.full((100,), 0.5)),
    "dropout": lambda: nn.functional.dropout(graphc.ones(100), 0.5),
    "dropout3d": lambda: nn.functional.dropout3d(graphc.ones(2, 8, 2, 2, 2), 0.5),
    "alpha_dropout": lambda: nn.functional.alpha_dropout(graphc.ones(100), 0.5, training=True),
    "rand_like": lambda: graphc.rand_like(graphc.ones(50)),
}


@pytest.mark.parametrize("name", DRAWN)
def test_one_meaning(name: str) -> None:
    """The same bits plain and compiled, with one thread and with two, call after call."""
    draw = DRAWN[name]
    graphc.manual_seed(7)
    expected = [draw().numpy().copy() for _ in range(2)]
    for threads in (1, 2):
        graphc.set_num_threads(threads)
        compiled = graphc.compile(draw)
        graphc.manual_seed(7)
        for e in expected:
            np.testing.assert_array_equal(compiled().numpy(), e)


def test_states() -> None:
    generator = graphc.Generator(device="cpu").manual_seed(4)
    assert generator.device == "cpu" and generator.initial_seed() == 4
    graphc.rand(5, generator=generator)
    state = generator.get_state()
    twin = generator.clone_state()
    expected = graphc.rand(5, generator=generator).tolist()
    assert graphc.rand(5, generator=twin).tolist() == expected
    assert graphc.rand(5, generator=generator.set_state(state)).tolist() == expected
    assert graphc.rand(5, generator=generator.manual_seed(4)).tolist() != expected
    assert generator.seed() == generator.initial_seed()
    other = graphc.Generator().manual_seed(9)
    assert graphc.rand(5, generator=other.set_state(state)).tolist() == expected


def test_fork_rng() -> None:
    graphc.manual_seed(1)
    expected = graphc.rand(4).tolist()
    graphc.manual_seed(1)
    with graphc.random.fork_rng():
        assert graphc.rand(4).tolist() == expected
        graphc.manual_seed(77)
        graphc.rand(9)
    assert graphc.rand(4).tolist() == expected and graphc.initial_seed() == 1
    graphc.manual_seed(1)
    with graphc.random.fork_rng(enabled=False):
        graphc.rand(4)
    assert graphc.rand(4).tolist() != expected


def test_seeds_and_states_inside_of_a_compiled_function() -> None:
    """A seed set inside holds at every call; a forked stretch leaves the stream as it was."""

    @graphc.compile
    def seeded() -> Any:
        graphc.manual_seed(3)
        return graphc.rand(4)

    @graphc.compile
    def forked() -> Any:
        with graphc.random.fork_rng():
            graphc.rand(4)
        return graphc.rand(4)

    graphc.manual_seed(3)
    expected = graphc.rand(4).tolist()
    assert seeded().tolist() == expected and seeded().tolist() == expected
    graphc.manual_seed(3)
    assert forked().tolist() == expected


@pytest.mark.parametrize(
    ("layer", "shape", "whole"),
    [
        (nn.Dropout, (40, 50), 0),
        (nn.Dropout1d, (40, 50, 3), 1),
        (nn.Dropout2d, (40, 50, 2, 3), 2),
        (nn.Dropout3d, (40, 50, 2, 1, 3), 3),
    ],
)
def test_dropout(layer: Any, shape: tuple[int, ...], whole: int) -> None:
    """Elements or whole channels are dropped; the others are scaled."""
    graphc.manual_seed(2)
    x = graphc.ones(*shape, requires_grad=True)
    y = layer(0.25)(x)
    y.sum().backward()
    values = y.detach().numpy()
    np.testing.assert_array_equal(x.grad.numpy(), values)
    lead = values.reshape(*shape[: len(shape) - whole], -1)
    assert (lead == lead[..., :1]).all() or whole == 0
    kept = lead[..., 0].reshape(-1) > 0
    np.testing.assert_allclose(values[values > 0], 1 / 0.75, rtol=1e-6)
    assert stats.binomtest(int(kept.sum()), kept.size, 0.75).pvalue > LEAST
    assert layer(0.25).eval()(x) is x
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
        layer(1.5)


@pytest.mark.parametrize("layer", [nn.AlphaDropout, nn.FeatureAlphaDropout])
def test_alpha_dropout_keeps_mean_and_variance(layer: Any) -> None:
    graphc.manual_seed(2)
    values = layer(0.3)(graphc.randn(200, 100, 5)).numpy()
    assert abs(values.mean()) < 0.02 and abs(values.var() - 1) < 0.03
    p, alpha = 0.3, 1.7580993408473766
    scale = ((alpha**2 * p + 1) * (1 - p)) ** -0.5
    found, counts = np.unique(values, return_counts=True)
    saturated = found[counts.argmax()]
    assert saturated == pytest.approx(-alpha * scale + alpha * scale * p, rel=1e-5)
    dropped = values == saturated
    share = dropped[..., 0] if layer is nn.FeatureAlphaDropout else dropped
    assert abs(share.mean() - p) < 0.02
    assert layer is nn.AlphaDropout or (dropped.all(-1) == dropped.any(-1)).all()
    assert np.abs(layer(1.0)(graphc.ones(3, 4, 2)).numpy()).max() == 0


BAD: list[tuple[str, Callable[[], Any], type[Exception]]] = [
    ("text", lambda: graphc.manual_seed("a"), ValueError),
    ("fraction", lambda: graphc.manual_seed(1.5), TypeError),
    ("None", lambda: graphc.manual_seed(None), TypeError),
    ("generator", lambda: graphc.Generator().manual_seed("a"), TypeError),
    ("float", lambda: graphc.Generator().manual_seed(1.0), TypeError),
    ("too large", lambda: graphc.manual_seed(2**64), RuntimeError),
    ("no generator", lambda: graphc.rand(2, generator=3), TypeError),
    ("no state", lambda: graphc.Generator().set_state(graphc.ones(2)), TypeError),
    ("streams", lambda: graphc.Generator().split("two"), TypeError),
]


@pytest.mark.parametrize(("f", "kind"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_errors(f: Callable[[], Any], kind: type[Exception]) -> None:
    """Each is raised with the user's line."""
    with pytest.raises(kind) as caught:
        f()
    assert getattr(caught.value, "filename", None) == __file__
    assert caught.value.lineno == f.__code__.co_firstlineno


@pytest.mark.parametrize(
    "f",
    [
        lambda m: m.empty(3).exponential_(-1.0),
        lambda m: m.empty(3).geometric_(1.5),
        lambda m: m.empty(3).cauchy_(0.0, -1.0),
        lambda m: m.empty(3).log_normal_(0.0, -1.0),
        lambda m: m.empty(3).bernoulli_(2.0),
        lambda m: m.bernoulli(m.ones(3), 2.0),
        lambda m: m.multinomial(m.ones(3), 0),
        lambda m: m.multinomial(m.ones(3), 4),
        lambda m: m.multinomial(m.ones(2, 2, 2), 1),
        lambda m: m.multinomial(m.zeros(3), 1),
        lambda m: m.multinomial(-m.ones(3), 1),
        lambda m: m.randperm(-1),
    ],
)
def test_the_same_refusals_as_pytorch(f: Callable[[Any], Any]) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(Exception) as theirs:
        f(torch)
    with pytest.raises(type(theirs.value)):
        f(graphc)
