"""The benchmark's rows in JAX: one jitted function a run; a training step donates parameters and state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.benchmarks import jax_models, models
from tests.benchmarks.workloads import ROW_DATA, Work, Workload

__all__ = ["build"]

_MODELS: dict[str, Callable[[], jax_models.Model]] = {
    "linear": jax_models.linear, "mlp": jax_models.mlp, "lenet": jax_models.lenet, "lstm": jax_models.lstm,
    "resnet18": jax_models.resnet18, "gpt": lambda: jax_models.gpt(models.GPT_SMALL),
    "gpt2": lambda: jax_models.gpt(models.GPT2),
}  # fmt: skip


def _loss(result: Any, y: Any) -> Any:
    if jnp.issubdtype(y.dtype, jnp.floating):
        return jnp.mean((result - y) ** 2)
    logits = result.reshape(-1, result.shape[-1])
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), y.reshape(-1, 1), axis=1)
    return -picked.mean()


def _sgd(p: Any, grads: Any, state: Any, count: Any) -> Any:
    return jax.tree.map(lambda w, g: w - 0.001 * g, p, grads), state


def _momentum(p: Any, grads: Any, state: Any, count: Any) -> Any:
    state = jax.tree.map(lambda m, g: 0.9 * m + g, state, grads)
    return jax.tree.map(lambda w, m: w - 0.001 * m, p, state), state


def _adam(p: Any, grads: Any, state: Any, count: Any) -> Any:
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state[0], grads)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, state[1], grads)
    rate, root = 0.001 / (1 - 0.9**count), jnp.sqrt(1 - 0.999**count)
    moved = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) / root + 1e-8), p, first, second)
    return moved, (first, second)


def _zeros(p: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, p)


_OPTIMIZERS: dict[str, tuple[Callable[..., Any], Callable[[Any], Any]]] = {
    "SGD": (_sgd, lambda p: ()),
    "momentum": (_momentum, _zeros),
    "Adam": (_adam, lambda p: (_zeros(p), _zeros(p))),
}


def _array(value: np.ndarray) -> Any:
    return jnp.asarray(value.transpose(0, 2, 3, 1) if value.ndim == 4 else value)


def build(workload: Workload) -> Work:
    """The row on JAX. Raises KeyError for a row that has no JAX version."""
    data = ROW_DATA[workload.name]
    parameters, apply = _MODELS[data.model]()
    rng = np.random.default_rng(0)
    x = _array(data.x(rng))
    if data.y is None:
        forward = jax.jit(lambda p, a: apply(p, a, False)[0])
        return Work(lambda: forward(parameters, x).block_until_ready(), inputs=(x,))
    y = _array(data.y(rng))
    update, fresh = _OPTIMIZERS[data.optimizer]
    statistics = {n: v for n, v in parameters.items() if "running" in n}
    trained = {n: v for n, v in parameters.items() if "running" not in n}

    def step(p: Any, held: Any, state: Any, count: Any, a: Any, b: Any) -> Any:
        def objective(q: Any) -> Any:
            result, changed = apply({**q, **held}, a, True)
            return _loss(result, b), changed

        (loss, changed), grads = jax.value_and_grad(objective, has_aux=True)(p)
        p, state = update(p, grads, state, count + 1)
        return loss, p, {**held, **changed}, state, count + 1

    compiled = jax.jit(step, donate_argnums=(0, 1, 2, 3))
    carried = [trained, statistics, fresh(trained), jnp.float32(0)]

    def run() -> Any:
        loss, *carried[:] = compiled(*carried, x, y)
        return loss.block_until_ready()

    return Work(run, inputs=(x,))
