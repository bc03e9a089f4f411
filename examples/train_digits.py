"""Learns real handwritten digits in natively compiled training steps, then ships the model.

    pip install -e ".[examples]" && python examples/train_digits.py

Trains an MLP and a small CNN on scikit-learn's 1,797 digit images, draws the graph and the loss curve,
exports the trained MLP as a shared library and checks that the library predicts the same. What it
writes goes to examples/out/.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import graphc
from graphc import nn, optim
from graphc.utils.data import DataLoader, TensorDataset

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OUT = Path(__file__).parent / "out"


class MLP(nn.Module):
    """64 -> 128 -> 10."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, 128)
        self.output = nn.Linear(128, 10)

    def forward(self, x: Any) -> Any:
        return self.output(self.hidden(x).relu())


class CNN(nn.Module):
    """Two convolutions with pooling, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 10),
        )

    def forward(self, x: Any) -> Any:
        return self.layers(x.reshape(-1, 1, 8, 8))


def load() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and test images (float32 in [0, 1], 64 pixels) and labels (int64)."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    parts = train_test_split(x, y.astype(np.int64), test_size=0.2, random_state=0, stratify=y)
    return parts[0], parts[1], parts[2], parts[3]


def accuracy(predict: Callable[[Any], Any], x: np.ndarray, y: np.ndarray) -> float:
    """Share of test images that are classified right."""
    with graphc.no_grad():
        scores = predict(graphc.from_numpy(x)).numpy()
    return float((scores.argmax(1) == y).mean())


class Run:
    """One training run: the model, its compiled step, and what was measured."""

    def __init__(self, name: str, model: nn.Module, seed: int) -> None:
        self.name = name
        self.model = model
        self.seed = seed
        self.losses: list[float] = []
        optimizer = optim.Adam(model.parameters(), lr=2e-3)
        loss_function = nn.CrossEntropyLoss()

        @graphc.compile
        def step(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            loss = loss_function(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        self.step = step

    def train(self, x: np.ndarray, y: np.ndarray, epochs: int, *, quiet: bool = False) -> None:
        """Trains in mini-batches of 64."""
        data = TensorDataset(graphc.from_numpy(x), graphc.from_numpy(y))
        generator = graphc.Generator().manual_seed(self.seed)
        loader = DataLoader(data, batch_size=64, shuffle=True, drop_last=True, generator=generator)
        self.example = next(iter(loader))
        start = time.perf_counter()
        self.losses.append(self.step(*self.example).item())
        self.first = time.perf_counter() - start
        times = []
        for _ in tqdm(range(epochs), desc=self.name, disable=quiet):
            for batch in loader:
                began = time.perf_counter()
                loss = self.step(*batch)
                times.append(time.perf_counter() - began)
                self.losses.append(loss.item())
        self.step_time = float(np.median(times))
        self.total = time.perf_counter() - start
        self.model.eval()


def train(kind: str, seed: int, epochs: int, *, quiet: bool = False) -> tuple[Run, float]:
    """One seeded run of `mlp` or `cnn` and its test accuracy."""
    train_x, test_x, train_y, test_y = load()
    graphc.manual_seed(seed)
    run = Run(kind.upper(), {"mlp": MLP, "cnn": CNN}[kind](), seed)
    run.train(train_x, train_y, epochs, quiet=quiet)
    return run, accuracy(graphc.compile(run.model), test_x, test_y)


def draw(runs: list[Run]) -> None:
    """The MLP's training step as pictures, and the loss curves."""
    stages = runs[0].step.stages(*runs[0].example)
    print("picture of the fused training step:", graphc.visualize(stages["fuse"], OUT / "step.dot"))
    try:
        print("                               and:", graphc.visualize(stages["fuse"], OUT / "step.svg"))
    except graphc.MissingToolError as error:
        print(f"no SVG: {error}")
    figure, axes = plt.subplots(figsize=(7, 4))
    for run in runs:
        axes.plot(run.losses, label=run.name, linewidth=1)
    axes.set(xlabel="step", ylabel="cross-entropy", yscale="log", title="Training on handwritten digits")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(OUT / "loss.png", dpi=120)
    print("loss curves:", OUT / "loss.png")


def ship(run: Run, x: np.ndarray) -> None:
    """Exports the trained model and calls the library on the test set."""
    try:
        exported = graphc.export_library(run.model, (graphc.from_numpy(x),), OUT / "libdigits.so")
    except graphc.MissingToolError as error:
        print(f"no export: {error}")
        return
    library = graphc.load_library(exported.library)
    same = np.array_equal(library(x), run.model(graphc.from_numpy(x)).detach().numpy())
    size = exported.library.stat().st_size
    print(f"exported {exported.library} ({size / 1024:.0f} KiB) and {exported.header.name}; "
          f"predictions on the test set are {'the same to the last bit' if same else 'DIFFERENT'}")  # fmt: skip
    if not same:
        raise SystemExit("the exported library does not predict what the model predicts")


def main() -> None:
    """Runs everything with one seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    runs = []
    for kind in ("mlp", "cnn"):
        run, score = train(kind, options.seed, options.epochs)
        runs.append(run)
        print(f"{run.name}: test accuracy {score:.2%}; first call (tracing and compiling) {run.first * 1e3:.0f} ms, "
              f"one step {run.step_time * 1e6:.0f} µs, whole run {run.total:.2f} s")  # fmt: skip
    draw(runs)
    ship(runs[0], load()[1])


if __name__ == "__main__":
    main()
