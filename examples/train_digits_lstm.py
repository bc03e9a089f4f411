"""Reads handwritten digits line by line with a two-layer LSTM.

    pip install -e ".[examples]" && python examples/train_digits_lstm.py

Each of scikit-learn's 1,797 digit images is a sequence of eight rows of eight pixels. The training step,
loops over time and their gradients included, is one compiled program.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import graphc
from graphc import nn, optim
from graphc.utils.data import DataLoader, TensorDataset


class RowReader(nn.Module):
    """Rows [batch, 8, 8] to scores [batch, 10] from the state after the last row."""

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.rows = nn.LSTM(8, hidden, num_layers=2, batch_first=True)
        self.output = nn.Linear(hidden, 10)

    def forward(self, x: Any) -> Any:
        seen, _ = self.rows(x)
        return self.output(seen[:, -1])


def load() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and test images (float32 in [0, 1], eight rows of eight) and labels (int64)."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 8, 8)
    parts = train_test_split(x, y.astype(np.int64), test_size=0.2, random_state=0, stratify=y)
    return parts[0], parts[1], parts[2], parts[3]


def train(seed: int, epochs: int, *, quiet: bool = False) -> tuple[float, float, float]:
    """Test accuracy of one seeded run, seconds of the first call, median seconds of a step."""
    train_x, test_x, train_y, test_y = load()
    graphc.manual_seed(seed)
    model = RowReader()
    optimizer = optim.Adam(model.parameters(), lr=5e-3)
    loss_function = nn.CrossEntropyLoss()

    @graphc.compile
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_function(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    data = TensorDataset(graphc.from_numpy(train_x), graphc.from_numpy(train_y))
    generator = graphc.Generator().manual_seed(seed)
    loader = DataLoader(data, batch_size=64, shuffle=True, drop_last=True, generator=generator)
    times = []
    progress = tqdm(range(epochs), desc="LSTM", disable=quiet)
    for _ in progress:
        for batch in loader:
            start = time.perf_counter()
            loss = step(*batch)
            times.append(time.perf_counter() - start)
        progress.set_postfix(loss=f"{loss.item():.4f}")
    model.eval()
    with graphc.no_grad():
        scores = graphc.compile(model)(graphc.from_numpy(test_x)).numpy()
    return float((scores.argmax(1) == test_y).mean()), times[0], float(np.median(times[1:]))


def main() -> None:
    """Trains with one seed and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    accuracy, first, step = train(options.seed, options.epochs)
    print(f"LSTM over rows: test accuracy {accuracy:.2%}; first call (tracing and compiling) {first * 1e3:.0f} ms, "
          f"one step {step * 1e6:.0f} µs")  # fmt: skip


if __name__ == "__main__":
    main()
