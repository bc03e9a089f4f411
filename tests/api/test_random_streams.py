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
    "normal of tensors": (lambda: graphc.normal(graphc.full((N,), 2.0), graphc.full((N,), 3.0)), stats.norm(2, 3)),
    "rand_like": (lambda: graphc.rand_like(graphc.empty(N)), stats.uniform()),
    "randn_like": (lambda: graphc.randn_like(graphc.empty(N)), stats.norm()),
    "slopes of rrelu": (lambda: -nn.functional.rrelu(-graphc.ones(N), 0.25, 0.75, training=True), stats.uniform(0.25, 0.5)),
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
    "randint_like": (lambda: graphc.randint_like(graphc.empty(N), 1, 4), [0, 1 / 3, 1 / 3, 1 / 3]),
    "random_ of bools": (lambda: graphc.empty(N, dtype=graphc.bool).random_(), [1 / 2] * 2),
    "gumbel_softmax": (lambda: nn.functional.gumbel_softmax(graphc.tensor([[0.0, math.log(3.0), math.log(4.0)]] * N), hard=True).argmax(1), [1 / 8, 3 / 8, 4 / 8]),
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


COUNTS: dict[str, tuple[Callable[[], Any], Any]] = {
    "geometric_": (lambda: graphc.empty(N).geometric_(0.3), stats.geom(0.3)),
    "poisson 0.7": (lambda: graphc.poisson(graphc.full((N,), 0.7)), stats.poisson(0.7)),
    "poisson 9.9": (lambda: graphc.poisson(graphc.full((N,), 9.9)), stats.poisson(9.9)),
    "poisson 10": (lambda: graphc.poisson(graphc.full((N,), 10.0)), stats.poisson(10)),
    "poisson 137": (
        lambda: graphc.poisson(graphc.full((N,), 137.0, dtype=graphc.float64)),
        stats.poisson(137),
    ),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name: str) -> None:
    """Distributions over all whole numbers, in cells that each are to hold a hundredth or more."""
    graphc.manual_seed(11)
    draw, distribution = COUNTS[name]
    values = flat(draw())
    ends = np.unique(distribution.ppf(np.linspace(0, 1, 60)[1:-1]))
    shares = np.diff([0, *distribution.cdf(ends), 1])
    counts = np.bincount(np.searchsorted(ends, values), minlength=len(shares))
    assert (values == values.round()).all()
    assert stats.chisquare(counts, shares * N).pvalue > LEAST


def test_poisson_of_many_rates() -> None:
    """Each element has its own rate; a rate of 0 gives 0; large rates keep mean and variance; the dtype stays."""
    graphc.manual_seed(11)
    rates = graphc.tensor([[0.0, 3.0, 1e4, 1e9]] * N, dtype=graphc.float64)
    values = graphc.poisson(rates).numpy()
    assert (values[:, 0] == 0).all() and graphc.poisson(
        graphc.ones(2, dtype=graphc.float16)
    ).dtype is graphc.float16
    for column, rate in zip(values.T[1:], (3.0, 1e4, 1e9), strict=True):
        assert abs(column.mean() - rate) < 5 * math.sqrt(rate / N)
        assert abs(column.var() / rate - 1) < 5 * math.sqrt(2 / N) + 1 / rate
    assert graphc.poisson(graphc.empty(0)).shape == (0,)


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
    "poisson": lambda: graphc.poisson(graphc.tensor([0.0, 0.3, 5.0, 30.0, 400.0] * 9)),
    "normal of tensors": lambda: graphc.normal(graphc.arange(50.0), graphc.ones(50)),
    "random_": lambda: graphc.zeros(50, dtype=graphc.int16).random_(),
    "exponential_": lambda: graphc.zeros(50).exponential_(0.5),
    "geometric_": lambda: graphc.zeros(50).geometric_(0.5),
    "cauchy_": lambda: graphc.zeros(50).cauchy_(),
    "log_normal_": lambda: graphc.zeros(50).log_normal_(),
    "rrelu": lambda: nn.functional.rrelu(-graphc.ones(50), training=True),
    "gumbel_softmax": lambda: nn.functional.gumbel_softmax(graphc.zeros(5, 7)),
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
    ("generator", lambda: graphc.Generator().manual_seed("a"), RuntimeError),
    ("float", lambda: graphc.Generator().manual_seed(1.0), RuntimeError),
    ("too large", lambda: graphc.manual_seed(2**64), ValueError),
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
        lambda m: m.multinomial(m.ones(3, dtype=m.int64), 1),
        lambda m: m.randperm(-1),
        lambda m: m.randperm(3.0),
        lambda m: m.randperm(300, dtype=m.uint8),
        lambda m: m.randint(3, 3, (2,)),
        lambda m: m.randint(0.5, 3, (2,)),
        lambda m: m.randint(3),
        lambda m: m.randint(0, 300, (2,), dtype=m.uint8),
        lambda m: m.zeros(3, dtype=m.int8).random_(0, 300),
        lambda m: m.zeros(3, dtype=m.int64).exponential_(),
        lambda m: m.zeros(3, dtype=m.int64).cauchy_(),
        lambda m: m.zeros(3, dtype=m.int64).log_normal_(),
        lambda m: m.zeros(3, dtype=m.int64).uniform_(),
        lambda m: m.zeros(3, dtype=m.int64).normal_(),
        lambda m: m.zeros(3, requires_grad=True).normal_(),
        lambda m: m.normal(0.0, -1.0, (2,)),
        lambda m: m.normal(0.0, 1.0),
        lambda m: m.normal(m.zeros(2), 1.0, (2,)),
        lambda m: m.normal(m.zeros(2), m.tensor([-1.0, 1.0])),
        lambda m: m.normal(m.zeros(2), m.ones(3)),
        lambda m: m.poisson(m.ones(3, dtype=m.int64)),
        lambda m: m.poisson(-m.ones(3)),
        lambda m: m.poisson(m.tensor([math.nan])),
        lambda m: m.bernoulli(m.tensor([1.5])),
        lambda m: m.bernoulli(m.tensor([math.nan])),
        lambda m: m.bernoulli(m.ones(3, dtype=m.int64)),
        lambda m: m.zeros(2).bernoulli_(m.tensor([0.5, 2.0])),
        lambda m: m.rand_like(3),
        lambda m: m.rand_like(m.zeros(3, dtype=m.int64)),
        lambda m: m.rand(2, dtype=m.int64),
        lambda m: m.rand(-1),
        lambda m: m.rand(2.0),
        lambda m: m.nn.functional.rrelu(m.ones(3), 0.5, 0.25),
        lambda m: m.nn.functional.dropout(m.ones(3), 1.5),
        lambda m: m.nn.functional.binary_cross_entropy(m.tensor([1.5]), m.tensor([1.0])),
        lambda m: m.nn.functional.binary_cross_entropy(m.tensor([math.nan]), m.tensor([1.0])),
        lambda m: m.Generator("cuda:0"),
        lambda m: m.Generator("nowhere"),
        lambda m: m.Generator().manual_seed("5"),
        lambda m: m.Generator().manual_seed(None),
        lambda m: m.Generator().manual_seed(True),
        lambda m: m.Generator().manual_seed(2**64),
        lambda m: m.Generator().manual_seed(-(2**63) - 1),
        lambda m: m.Generator().set_state(3),
        lambda m: m.manual_seed([]),
        lambda m: m.manual_seed(math.nan),
        lambda m: m.rand(2, generator="mine"),
        lambda m: m.rand(2, generator=m.Generator),
    ],
)
def test_the_same_refusals_as_pytorch(f: Callable[[Any], Any]) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(Exception) as theirs:
        f(torch)
    with pytest.raises(type(theirs.value)):
        f(graphc).tolist()


@pytest.mark.parametrize("seed", [0, 1, -1, -5, 2**63, 2**64 - 1, -(2**63), "7", 3.0])
def test_seeds_are_pytorchs(seed: Any) -> None:
    """What `initial_seed` gives; and a seed and the same one without its sign are one stream."""
    torch = pytest.importorskip("torch")
    with torch.random.fork_rng():
        expected = torch.manual_seed(seed).initial_seed()
    assert graphc.manual_seed(seed).initial_seed() == graphc.initial_seed() == expected
    drawn = graphc.rand(3).tolist()
    assert graphc.rand(3, generator=graphc.Generator().manual_seed(expected)).tolist() == drawn


def test_a_draw_that_fails_leaves_the_generator_usable() -> None:
    """The stream goes on, and what failed says so."""
    failed = graphc.poisson(graphc.tensor([1.0, -1.0]))
    with pytest.raises(RuntimeError, match="invalid Poisson rate"):
        failed.tolist()
    with pytest.raises(RuntimeError, match="the computation that made it failed"):
        failed.tolist()
    graphc.manual_seed(3)
    expected = graphc.rand(3).tolist()
    assert graphc.manual_seed(3) and graphc.rand(3).tolist() == expected
