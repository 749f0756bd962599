"""A wide MLP: how near training comes to the device's peak once arithmetic is all that counts.

    python -m benchmarks.wide [--width 1024] [--batch-size 4096] [--layers 3] [--precision bfloat16] [--rounds 3]
    python -m benchmarks.wide --width 8192 --batch-size 65536          (a GPU with 80 GB or more)

A step of ``layers`` hidden layers makes ``6 width² batch`` operations for each product between two of them (forward,
gradients of weights and of inputs), and Adam's updates on top. The peak is the maker's figure where the device is
known, and beside it the speed of one large product in the same precision, which is what a library reaches.
"""

import itertools

import jax

from benchmarks.contenders import fcjax_turn, mlp
from benchmarks.floor import peak
from benchmarks.rounds import machine, options, save, take_turns

__all__ = ["main", "operations"]

STEPS = 4
FEATURES = 256
# Dense bfloat16 without sparsity, operations a second, as their makers state it.
MAKERS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}


def operations(sizes: tuple[int, ...], batch_size: int) -> float:
    """Floating-point operations of a training step's products: three a layer, two for the first."""
    pairs = [a * b for a, b in itertools.pairwise(sizes)]
    return 2.0 * batch_size * (3 * sum(pairs) - pairs[0])


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its line."""
    parser = options(__doc__)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=3, help="hidden layers")
    parser.add_argument("--precision", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args(arguments)
    print(machine())
    sizes = (FEATURES, *[chosen.width] * chosen.layers, 1)
    work = mlp(sizes, chosen.batch_size * STEPS)
    turn = fcjax_turn(work, chosen.batch_size, precision=chosen.precision)
    found = take_turns({"step": turn}, chosen.rounds)["step"]
    speed = operations(sizes, chosen.batch_size) * STEPS / found.median
    product = peak(max(2048, min(chosen.width, 8192)), dtype=chosen.precision)
    kind = jax.devices()[0].device_kind
    makers = next((value for name, value in MAKERS.items() if name in kind), None)
    stated = f", {speed / makers:.0%} of the maker's {makers / 1e12:.0f}" if makers else ""
    step = f"{1e3 * found.median / STEPS:.1f} ms a step, {speed / 1e12:.3g} TFLOP/s"
    print(f"  width {chosen.width}, batch {chosen.batch_size}, {chosen.precision}: {step}, ", end="")
    print(f"{speed / product:.0%} of one large product's{stated}; loss {found.figure:.3f}")
    row = {
        "width": chosen.width,
        "batch_size": chosen.batch_size,
        "layers": chosen.layers,
        "precision": chosen.precision,
        "flops": speed,
        "product_flops": product,
        "makers_flops": makers,
    }
    save(chosen.json, "wide", [row])


if __name__ == "__main__":
    main()
