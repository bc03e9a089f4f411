"""Learns to write the Python manual, character by character, then writes some.

    pip install -e ".[examples]" && python examples/character_model.py --model gpt

The text is the manual that comes with Python (`pydoc`'s topics), or any file given with `--text`. A GRU or a
small GPT is trained in compiled steps. Sampling is one compiled function of one character: what it
remembers (the GRU's state, the GPT's keys, values and position) are buffers that it updates in
place, so it is compiled once, whatever the length.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path
from pydoc_data import topics
from typing import Any

import numpy as np
from tqdm import trange

import graphc
from graphc import nn, optim
from graphc.nn import functional as F


class CharacterGRU(nn.Module):
    """Embedding, one recurrent layer, scores of the next character."""

    def __init__(self, characters: int, width: int = 192) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, 64)
        self.recurrent = nn.GRU(64, width, batch_first=True)
        self.scores = nn.Linear(width, characters)
        self.register_buffer("state", graphc.zeros(1, 1, width), persistent=False)

    def forward(self, tokens: Any) -> Any:
        """[batch, time] to scores [batch, time, characters]."""
        seen, _ = self.recurrent(self.embedding(tokens))
        return self.scores(seen)

    def following(self, token: Any) -> Any:
        """Scores [characters] of what follows `token` [], given all tokens since `reset`."""
        seen, state = self.recurrent(self.embedding(token).reshape(1, 1, -1), self.state)
        self.state.copy_(state)
        return self.scores(seen[0, 0])

    def reset(self) -> None:
        """Forgets every token."""
        self.state.zero_()


class Block(nn.Module):
    """Causal self-attention and a two-layer network, each added to its input after normalising it."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.before_network = nn.LayerNorm(width)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        for name in ("keys", "values"):
            self.register_buffer(name, graphc.zeros(heads, context, width // heads), persistent=False)

    def forward(self, x: Any) -> Any:
        """[batch, time, width] to the same."""
        batch, time, width = x.shape
        parts = self.query_key_value(self.before_attention(x))
        parts = parts.reshape(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        x = x + self.joined(mixed.transpose(1, 2).reshape(batch, time, width))
        return x + self.network(self.before_network(x))

    def following(self, x: Any, position: Any) -> Any:
        """[width], the newest token's, to the same; its key and value join those of earlier positions."""
        query, key, value = (
            self.query_key_value(self.before_attention(x)).reshape(3, self.heads, 1, -1).unbind(0)
        )
        self.keys.index_copy_(1, position.reshape(1), key)
        self.values.index_copy_(1, position.reshape(1), value)
        there = graphc.arange(self.keys.shape[1]) <= position
        mixed = F.scaled_dot_product_attention(query, self.keys, self.values, attn_mask=there)
        x = x + self.joined(mixed.reshape(-1))
        return x + self.network(self.before_network(x))


class CharacterGPT(nn.Module):
    """A small transformer decoder with learned positions."""

    def __init__(
        self, characters: int, width: int = 128, layers: int = 2, heads: int = 4, context: int = 128
    ) -> None:
        super().__init__()
        self.context = context
        self.embedding = nn.Embedding(characters, width)
        self.places = nn.Embedding(context, width)
        self.blocks = nn.ModuleList([Block(width, heads, context) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.scores = nn.Linear(width, characters)
        self.register_buffer("position", graphc.zeros((), dtype=graphc.int64), persistent=False)

    def forward(self, tokens: Any) -> Any:
        """[batch, time] to scores [batch, time, characters]; time is at most `context`."""
        x = self.embedding(tokens) + self.places(graphc.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.scores(self.norm(x))

    def following(self, token: Any) -> Any:
        """Scores [characters] of what follows `token` [], given all tokens since `reset`."""
        x = self.embedding(token) + self.places(self.position)
        for block in self.blocks:
            x = block.following(x, self.position)
        self.position.add_(1)
        return self.scores(self.norm(x))

    def reset(self) -> None:
        """Forgets every token."""
        self.position.zero_()


class Text:
    """A text as numbers of its characters, rare ones left out."""

    def __init__(self, text: str) -> None:
        found, counts = np.unique(np.array(list(text)), return_counts=True)
        kept = found[counts >= 50]
        self.characters = "".join(kept)
        places = {c: i for i, c in enumerate(self.characters)}
        self.tokens = np.array([places[c] for c in text if c in places], dtype=np.int64)

    def batches(self, seed: int, batch: int, length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Random pieces [batch, length] and the same one character further, without end."""
        rng = np.random.default_rng(seed)
        while True:
            starts = rng.integers(0, len(self.tokens) - length - 1, batch)
            pieces = self.tokens[starts[:, None] + np.arange(length + 1)]
            yield pieces[:, :-1].copy(), pieces[:, 1:].copy()


def train(
    model: nn.Module, text: Text, steps: int, seed: int, *, batch: int = 16, length: int = 128
) -> list[float]:
    """Losses (nats a character) of `steps` compiled steps."""
    optimizer = optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)

    @graphc.compile
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    losses = []
    pieces = text.batches(seed, batch, length)
    start = time.perf_counter()
    progress = trange(steps, desc="training")
    for n in progress:
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (n + 1) / 50) * (0.55 + 0.45 * math.cos(math.pi * n / steps))
        x, y = next(pieces)
        losses.append(step(graphc.from_numpy(x), graphc.from_numpy(y)).item())
        if n == 0:
            start = time.perf_counter()
        progress.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}", refresh=n % 20 == 0)
    passed = time.perf_counter() - start
    print(f"training: {(steps - 1) * batch * length / passed:,.0f} characters/s, loss {losses[0]:.2f} -> {np.mean(losses[-20:]):.2f}; "
          f"compiled {step.cache_info().misses} time(s)")  # fmt: skip
    return losses


def sample(model: Any, text: Text, prompt: str, count: int, temperature: float = 0.7) -> str:
    """`prompt` and `count` characters that the model writes after it."""
    model.eval()

    @graphc.compile
    def step(token: Any) -> Any:
        """The next character's number: the largest score after Gumbel noise is a draw from softmax(scores)."""
        with graphc.no_grad():
            scores = model.following(token) / temperature
            noise = -(-graphc.rand(scores.shape[0]).clamp(min=1e-12).log()).log()
            return (scores + noise).argmax()

    context = getattr(model, "context", None)
    written = [text.characters.index(c) for c in prompt]
    model.reset()
    next_token = None
    for token in written:
        next_token = step(graphc.tensor(token))
    fed = len(written)
    start = time.perf_counter()
    for _ in range(count):
        written.append(int(next_token))
        if fed == context:  # as many tokens as there are positions: go on from the newer half of them
            model.reset()
            for token in written[-context // 2 : -1]:
                step(graphc.tensor(token))
            fed = context // 2 - 1
        next_token = step(graphc.tensor(written[-1]))
        fed += 1
    passed = time.perf_counter() - start
    print(f"sampling: {count / passed:,.0f} characters/s; compiled {step.cache_info().misses} time(s)")
    return "".join(text.characters[i] for i in written)


def main() -> None:
    """Trains one model and prints what it writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("gru", "gpt"), default="gru")
    parser.add_argument("--text", type=Path, help="a text file instead of Python's manual")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--characters", type=int, default=600, help="how many to write")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    text = Text(options.text.read_text() if options.text else "\n".join(topics.topics.values()))
    print(f"{len(text.tokens):,} characters, {len(text.characters)} different ones")
    graphc.manual_seed(options.seed)
    model = {"gru": CharacterGRU, "gpt": CharacterGPT}[options.model](len(text.characters))
    train(model, text, options.steps, options.seed)
    print(sample(model, text, "The ", options.characters))


if __name__ == "__main__":
    main()
