"""How the time of a training step grows: with width, depth, batch and virtual CPU devices.

    python -m benchmarks.growth [--rounds 3]

A hidden layer of width w costs w² multiplications a row, so time should grow fourfold per doubling once products
dominate, linearly with depth and batch. Virtual devices share the same cores: there the time says what sharing costs.
"""

import argparse
import functools
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import fcjax
from benchmarks.rounds import Turn, machine, take_turns
from fcjax.epoch import Arrays, Plan, train_segment
from fcjax.parallel import make_parallel
from fcjax.train_state import create_state
from fcjax.train_step import Learner

__all__ = ["main"]

FEATURES, STEPS = 64, 20

DEVICES_SCRIPT = """
import sys, time
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
from benchmarks.contenders import a3, fcjax_turn
turn = fcjax_turn(a3(4096), 1024)
turn()
started = time.perf_counter()
for _ in range(3): turn()
print((time.perf_counter() - started) / 12)
"""


def mlp_turn(width: int, depth: int, batch_size: int) -> Turn:
    """``STEPS`` steps of a net with ``depth`` hidden layers of ``width``."""
    random = np.random.default_rng(0)
    samples = batch_size * STEPS
    inputs = random.standard_normal((samples, FEATURES), np.float32)
    model = fcjax.MLP((FEATURES, *[width] * depth, 1), rngs=nnx.Rngs(0))
    parallel, optimizer = make_parallel("jit"), optax.adam(1e-3)
    pure, state = create_state(model, optimizer, seed=0)
    learner = Learner(pure, "regression", fcjax.squared_error, optimizer, axis_name=parallel.axis_name)
    plan = Plan(samples, batch_size, 1)
    data = parallel.replicate(Arrays(jnp.asarray(inputs), jnp.asarray(inputs[:, :1])))
    state = parallel.replicate(state)
    segment = functools.partial(train_segment, learner, plan, STEPS)
    program, _ = parallel.compile(segment, state, data, donate=True)

    def turn() -> float:
        nonlocal state
        state, sums = program(state, data)
        return float(jnp.sum(sums["loss"]) / samples)

    return turn


def show(title: str, turns: dict[str, Turn], rounds: int) -> None:
    """One line: milliseconds a step for each."""
    measured = take_turns(turns, rounds)
    parts = [f"{name}: {1e3 * found.median / STEPS:.2f} ms" for name, found in measured.items()]
    print(f"  {title}: " + ", ".join(parts), flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args(arguments)
    print(machine())
    show("width, 2 layers, batch 256", {str(w): mlp_turn(w, 2, 256) for w in (128, 256, 512, 1024)}, chosen.rounds)
    show("depth, width 256, batch 256", {str(d): mlp_turn(256, d, 256) for d in (1, 2, 4, 8)}, chosen.rounds)
    show("batch, 2 layers of 256", {str(b): mlp_turn(256, 2, b) for b in (64, 256, 1024)}, chosen.rounds)
    parts = []
    for devices in (1, 2, 4, 8):
        done = subprocess.run([sys.executable, "-c", DEVICES_SCRIPT, str(devices)], capture_output=True, text=True)
        found = f"{1e3 * float(done.stdout.split()[-1]):.1f} ms" if done.returncode == 0 else "failed"
        parts.append(f"{devices}: {found}")
    print("  virtual CPU devices, A3, batch 1024: " + ", ".join(parts))


if __name__ == "__main__":
    main()
