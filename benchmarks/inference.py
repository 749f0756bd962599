"""Answers of a trained A3: latency of one image, throughput of 4096.

    python -m benchmarks.inference [--repeats 200] [--rounds 5]

The adaptive layer's compact form (A7) is measured beside the full one: it leaves out what its gate has closed.
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.contenders import a3
from benchmarks.rounds import Turn, machine, missing, ratio, take_turns
from fcjax.layers import AdaptiveWidthLinear

__all__ = ["main"]


def repeated(answer: Callable[[jax.Array], jax.Array], inputs: jax.Array, repeats: int) -> Turn:
    """``repeats`` answers, each waited for."""

    def turn() -> float:
        for _ in range(repeats):
            outputs = jax.block_until_ready(answer(inputs))
        return float(outputs.sum())

    return turn


def answers(rows: int, repeats: int) -> dict[str, Turn]:
    """fcjax's and PyTorch's answers to ``rows`` images."""
    images = np.random.default_rng(0).standard_normal((rows, 784), np.float32)
    model = a3(1).flax_model()
    model.eval()
    graph, state = nnx.split(model)
    compiled = jax.jit(lambda x: nnx.merge(graph, state)(x))
    turns = {"fcjax": repeated(compiled, jnp.asarray(images), repeats)}
    try:
        import torch

        module = a3(1).torch_model().eval()
        tensor = torch.from_numpy(images)

        def torch_turn() -> float:
            with torch.inference_mode():
                for _ in range(repeats):
                    outputs = module(tensor)
            return float(outputs.sum())

        turns["torch"] = torch_turn
    except ImportError as error:
        missing("PyTorch", error)
    return turns


def adaptive(rows: int, repeats: int) -> dict[str, Turn]:
    """A7 with three quarters of its width closed, whole and compact."""
    layer = AdaptiveWidthLinear(784, 1024, 1024, rngs=nnx.Rngs(0))
    layer.selector[...] = jnp.full_like(layer.selector[...], -np.log(3.0))  # sigmoid: a quarter stays open
    images = jnp.asarray(np.random.default_rng(0).standard_normal((rows, 784), np.float32))
    graph, state = nnx.split(layer)
    narrow_graph, narrow = nnx.split(layer.compact())
    return {
        "A7": repeated(jax.jit(lambda x: nnx.merge(graph, state)(x)), images, repeats),
        "A7, compact": repeated(jax.jit(lambda x: nnx.merge(narrow_graph, narrow)(x)), images, repeats),
    }


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    print(machine())
    for rows, repeats in ((1, chosen.repeats), (4096, max(chosen.repeats // 20, 1))):
        for turns in (answers(rows, repeats), adaptive(rows, repeats)):
            measured = take_turns(turns, chosen.rounds)
            first = next(iter(measured.values()))
            parts = [
                f"{name} {1e3 * found.median / repeats:.3f} ms, {rows * repeats / found.median:,.0f} images/s "
                f"({ratio(first, found):.2f}x the first's time)"
                for name, found in measured.items()
            ]
            print(f"  batch {rows}: " + "; ".join(parts), flush=True)


if __name__ == "__main__":
    main()
