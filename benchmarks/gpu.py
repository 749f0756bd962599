"""What a GPU is asked for: training at batch 128 and 1024, 64 replicas at once, and a wide net in bfloat16.

    python -m benchmarks.gpu [--rounds 5] [--json F]

Needs this repository and an image with CUDA builds of jax and torch. Both share the card, so that JAX must not take
its memory ahead; this file sees to that.
"""

import os

# Read when jax is first loaded.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from benchmarks.rounds import machine, missing, options

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmarks one after the other."""
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    import jax

    from benchmarks import floor, inference, replicas, training, wide

    if jax.default_backend() != "gpu":
        missing("all of it", f"expected a GPU that JAX sees, found {machine()}")
        return
    common = ["--rounds", str(chosen.rounds), *(["--json", str(chosen.json)] if chosen.json else [])]
    training.main([*common, "--batch-sizes", "128", "1024", "8192", "--samples", "60000"])
    replicas.main([*common, "--model", "A3", "--counts", "1", "64", "--samples", "20000"])
    floor.main([*common, "--batch-sizes", "128", "1024", "8192", "--samples", "60000"])
    inference.main([*common])
    wide.main([*common, "--width", "8192", "--batch-size", "65536"])


if __name__ == "__main__":
    main()
