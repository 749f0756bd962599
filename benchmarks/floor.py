"""How near training comes to the matrix products alone, which no implementation can do without; where the rest goes.

    python -m benchmarks.floor [--batch-sizes 32 128 1024 8192] [--samples 20000] [--rounds 5]

The floor is one compiled program that makes the same matrix products as a step of A3 (forward, gradients of weights,
gradients of inputs but the first layer's) and nothing else. Our share is the floor's time over the step's. Training is
then built up part by part, so that each part's time is a difference: the products; with them activations, the loss,
gathering the batch and plain SGD; with Adam in its place; with dropout. The device's peak is that of one large product.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contenders import a3, fcjax_turn
from benchmarks.rounds import Row, Turn, machine, options, ratio, save, take_turns

__all__ = ["main", "multiplications", "peak", "products_turn"]

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


def peak(size: int = 2048, rounds: int = 5, dtype: str = "float32") -> float:
    """Floating-point operations a second of the best of several products of two ``(size, size)`` matrices."""
    matrix = jnp.ones((size, size), dtype) / size
    product = jax.jit(jnp.matmul)
    measured = take_turns({"product": lambda: float(product(matrix, matrix)[0, 0])}, rounds)["product"]
    return 2.0 * size**3 / min(measured.seconds)


def parts(batch_size: int, samples: int) -> dict[str, Turn]:
    """The products, and training built up on them part by part."""
    bare = a3(samples, dropout=0.0)
    return {
        "products alone": products_turn(batch_size, -(-samples // batch_size)),
        "with SGD": fcjax_turn(bare, batch_size, "jit", optimizer="sgd"),
        "with Adam": fcjax_turn(bare, batch_size, "jit"),
        "with Adam and dropout": fcjax_turn(a3(samples), batch_size, "jit"),
    }


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its table."""
    parser = options(__doc__)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 128, 1024, 8192])
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    print(machine())
    parameters = sum(a * b + b for a, b in itertools.pairwise(SIZES))
    print(f"A3 has {parameters:,} parameters; Adam moves {parameters * ADAM_BYTES / 1e6:.1f} MB a step")
    highest = peak()
    print(f"one product of 2048 x 2048 matrices: {highest / 1e9:.0f} GFLOP/s")
    for batch_size in chosen.batch_sizes:
        steps = -(-chosen.samples // batch_size)
        measured = take_turns(parts(batch_size, chosen.samples), chosen.rounds)
        floor = measured["products alone"]
        speed = multiplications(batch_size) * steps / floor.median
        print(f"  batch {batch_size}: the products run at {speed / 1e9:.0f} GFLOP/s, {speed / highest:.0%} of the peak")
        rows: list[Row] = []
        for name, found in measured.items():
            share = 1 / ratio(floor, found)
            rows.append(
                {
                    "batch_size": batch_size,
                    "part": name,
                    "milliseconds": 1e3 * found.median / steps,
                    "share_of_floor": share,
                    "floor_flops": speed,
                    "peak_flops": highest,
                }
            )
            print(f"    {name:24}{1e3 * found.median / steps:9.3f} ms a step, share {share:.0%}", flush=True)
        save(chosen.json, "floor", rows)


if __name__ == "__main__":
    main()
