"""Training MNISTClassifier: fcjax against PyTorch, samples per second.

    python -m benchmarks.training [--batch-sizes 32 128 1024] [--samples 20000] [--rounds 5]

The contenders take turns (A B C A B C ...), so that a machine that slows down slows all of them; medians are reported,
as ratios to the best PyTorch loop. All train the same network by Adam on the same random images with dropout, for one
pass a turn, compilation left out. Without torch the ratios are left out.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import optax

import fcjax
from fcjax.epoch import Arrays, Plan, train_segment
from fcjax.parallel import make_parallel
from fcjax.train_state import create_state
from fcjax.train_step import Learner

Turn = Callable[[], None]


def images(samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images and labels: what a sample shows does not change how long a step takes."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (samples, 28, 28), np.uint8), random.integers(0, 10, samples).astype(np.int32)


def fcjax_turn(strategy: str, inputs: np.ndarray, labels: np.ndarray, batch_size: int) -> Turn:
    """One epoch as one compiled program."""
    from flax import nnx

    parallel = make_parallel(strategy)
    optimizer = optax.adam(1e-3)
    pure, state = create_state(fcjax.MNISTClassifier(rngs=nnx.Rngs(0)), optimizer, seed=0)
    scaling = fcjax.Scaling(np.array(33.3, np.float32), np.array(78.6, np.float32))
    learner = Learner(
        pure, "classification", fcjax.negative_log_likelihood, optimizer, scaling, axis_name=parallel.axis_name
    )
    plan = Plan(len(inputs), batch_size, len(parallel.devices))
    data = parallel.replicate(Arrays(jax.numpy.asarray(inputs), jax.numpy.asarray(labels)))
    state = parallel.replicate(state)
    program, _ = parallel.compile(partial(train_segment, learner, plan, plan.steps), state, data, donate=True)

    def turn() -> None:
        nonlocal state
        state, sums = program(state, data)
        jax.block_until_ready(sums)

    return turn


def torch_turns(inputs: np.ndarray, labels: np.ndarray, batch_size: int) -> dict[str, Turn]:
    """The tutorial's loop over a DataLoader, and a loop over tensors in memory with the fused Adam."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from compare.models.torch_models import MNISTClassifier

    x = (torch.from_numpy(inputs).float() - 33.3) / 78.6
    y = torch.from_numpy(labels).long()

    def loop(batches: Callable[[], object], fused: bool) -> Turn:
        torch.manual_seed(0)
        model = MNISTClassifier().train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)

        def turn() -> None:
            for images, targets in batches():  # type: ignore[attr-defined]
                optimizer.zero_grad()
                torch.nn.functional.nll_loss(model(images), targets).backward()
                optimizer.step()

        return turn

    loader = DataLoader(TensorDataset(x, y), batch_size, shuffle=True)

    def indexed() -> object:
        order = torch.randperm(len(x))
        return ((x[rows], y[rows]) for rows in order.split(batch_size))

    return {
        "torch, DataLoader": loop(lambda: loader, fused=False),
        "torch, tensors in memory, fused Adam": loop(indexed, fused=True),
    }


def measure(turns: dict[str, Turn], samples: int, rounds: int) -> dict[str, list[float]]:
    """Samples per second of each contender in each round, after one round to warm up."""
    rates: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, turn in turns.items():
            started = time.perf_counter()
            turn()
            if number:
                rates[name].append(samples / (time.perf_counter() - started))
    return rates


def report(rates: dict[str, list[float]], batch_size: int) -> None:
    """One row per contender: median, spread, ratio to the best torch loop."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best = max((rate for name, rate in medians.items() if name.startswith("torch")), default=None)
    print(f"batch {batch_size}")
    for name, values in rates.items():
        ratio = f"{medians[name] / best:5.2f}x" if best else ""
        print(f"  {name:38} {medians[name]:10,.0f} samples/s  ({min(values):,.0f} to {max(values):,.0f})  {ratio}")


def main() -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 128, 1024])
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(
        f"{platform.machine()}, jax {jax.__version__} on {jax.devices()[0].device_kind}; ratios to the best torch loop"
    )
    inputs, labels = images(arguments.samples)
    for batch_size in arguments.batch_sizes:
        turns = {f"fcjax, {s}": fcjax_turn(s, inputs, labels, batch_size) for s in ("pmap", "jit", "shard")}
        try:
            turns |= torch_turns(inputs, labels, batch_size)
        except ImportError:
            print("torch is not installed: fcjax alone")
        report(measure(turns, arguments.samples, arguments.rounds), batch_size)


if __name__ == "__main__":
    main()
