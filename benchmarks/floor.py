"""How near training comes to the matrix products alone, which no implementation can do without.

    python -m benchmarks.floor [--batch-sizes 32 128 1024 8192] [--samples 20000] [--rounds 5]

The floor is one compiled program that makes the same matrix products as a step of A3 (forward, gradients of weights,
gradients of inputs but the first layer's) and nothing else. Our share is the floor's time over the step's; what is
left is activations, masks, the loss, gathering the batch, and the optimiser's memory traffic, which is computed too.
"""

import argparse
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contenders import a3, fcjax_turn
from benchmarks.rounds import Turn, machine, ratio, take_turns

__all__ = ["main", "products_turn"]

SIZES = (784, 512, 256, 10)
# Adam reads and writes a parameter and its two moments, and reads the gradient: seven times four bytes.
ADAM_BYTES = 28


def products_turn(batch_size: int, steps: int) -> Turn:
    """``steps`` times the matrix products of a training step of A3."""
    random = np.random.default_rng(0)
    layers = list(itertools.pairwise(SIZES))
    weights = [jnp.asarray(random.standard_normal(layer, np.float32) / layer[0] ** 0.5) for layer in layers]
    batch = jnp.asarray(random.standard_normal((batch_size, SIZES[0]), np.float32))

    def step(carried: list[jax.Array], _: None) -> tuple[list[jax.Array], None]:
        inputs = [batch]
        for weight in carried:
            inputs.append(inputs[-1] @ weight)
        gradient, after = inputs[-1], []
        for number, weight in reversed(list(enumerate(carried))):
            # The next step's weights depend on this product, or the compiler would leave it out.
            after.append(weight * 0.5 + 1e-9 * (inputs[number].T @ gradient))
            gradient = gradient @ weight.T if number else gradient
        return after[::-1], None

    @jax.jit
    def run(weights: list[jax.Array]) -> jax.Array:
        last, _ = jax.lax.scan(step, weights, None, length=steps)
        return functools.reduce(jnp.add, (weight.sum() for weight in last))

    return lambda: float(run(weights))


def multiplications(batch_size: int) -> float:
    """Floating-point operations of the products of one step."""
    pairs = [a * b for a, b in itertools.pairwise(SIZES)]
    return 2.0 * batch_size * (2 * sum(pairs) + sum(pairs[1:]))


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 128, 1024, 8192])
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    print(machine())
    parameters = sum(a * b + b for a, b in itertools.pairwise(SIZES))
    print(f"A3 has {parameters:,} parameters; Adam moves {parameters * ADAM_BYTES / 1e6:.1f} MB a step")
    for batch_size in chosen.batch_sizes:
        steps = -(-chosen.samples // batch_size)
        turns = {
            "products alone": products_turn(batch_size, steps),
            "without dropout": fcjax_turn(a3(chosen.samples, dropout=0.0), batch_size, "jit"),
            "with dropout": fcjax_turn(a3(chosen.samples), batch_size, "jit"),
        }
        measured = take_turns(turns, chosen.rounds)
        floor = measured["products alone"]
        print(
            f"  batch {batch_size:5}: products alone {1e3 * floor.median / steps:.3f} ms a step, "
            f"{multiplications(batch_size) * steps / floor.median / 1e9:.0f} GFLOP/s; share of the floor "
            f"{1 / ratio(floor, measured['without dropout']):.0%} without dropout, "
            f"{1 / ratio(floor, measured['with dropout']):.0%} with",
            flush=True,
        )


if __name__ == "__main__":
    main()
