"""Answers of a trained A3: latency of one image, throughput of 4096.

    python -m benchmarks.inference [--repeats 200] [--rounds 5]

Layers that have a compact form are measured beside it: the adaptive layer (A7) without what its gate has closed, the
sparse layer (A5) as compressed rows, the low-rank layer (A6) beside a whole matrix.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental.sparse import BCSR

from benchmarks.contenders import a3
from benchmarks.rounds import Turn, machine, missing, options, ratio, save, take_turns
from fcjax.layers import AdaptiveWidthLinear, LowRankLinear, SparseLinear

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


def sparse(rows: int, repeats: int) -> dict[str, Turn]:
    """A5 with one connection in ten: masked at each call, masked once, and as compressed sparse rows."""
    layer = SparseLinear(784, 512, sparsity=0.9, rngs=nnx.Rngs(0))
    images = jnp.asarray(np.random.default_rng(0).standard_normal((rows, 784), np.float32))
    graph, state = nnx.split(layer)
    kernel = layer.kernel[...] * layer.mask[...]
    stored = BCSR.fromdense(kernel.T)
    bias = layer.bias[...]
    return {
        "A5, 90 % sparse": repeated(jax.jit(lambda x: nnx.merge(graph, state)(x)), images, repeats),
        "A5, masked once": repeated(jax.jit(lambda x: x @ kernel + bias), images, repeats),
        "A5, compressed rows": repeated(jax.jit(lambda x: (stored @ x.T).T + bias), images, repeats),
    }


def low_rank(rows: int, repeats: int) -> dict[str, Turn]:
    """A6 of rank 32 beside the whole matrix."""
    layer, whole = LowRankLinear(784, 512, 32, rngs=nnx.Rngs(0)), nnx.Linear(784, 512, rngs=nnx.Rngs(0))
    images = jnp.asarray(np.random.default_rng(0).standard_normal((rows, 784), np.float32))
    graph, state = nnx.split(layer)
    whole_graph, weights = nnx.split(whole)
    return {
        "A6, whole matrix": repeated(jax.jit(lambda x: nnx.merge(whole_graph, weights)(x)), images, repeats),
        "A6, rank 32": repeated(jax.jit(lambda x: nnx.merge(graph, state)(x)), images, repeats),
    }


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its table."""
    parser = options(__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    print(machine())
    for rows_at_once, repeats in ((1, chosen.repeats), (4096, max(chosen.repeats // 20, 1))):
        for compared in (answers, adaptive, sparse, low_rank):
            turns = compared(rows_at_once, repeats)
            measured = take_turns(turns, chosen.rounds)
            first = next(iter(measured.values()))
            rows = [
                {
                    "batch_size": rows_at_once,
                    "contender": name,
                    "milliseconds": 1e3 * found.median / repeats,
                    "images_per_second": rows_at_once * repeats / found.median,
                    "times_the_first": ratio(first, found),
                }
                for name, found in measured.items()
            ]
            for row in rows:
                print(
                    f"  batch {row['batch_size']:4}: {row['contender']:26}{row['milliseconds']:9.3f} ms "
                    f"{row['images_per_second']:12,.0f} images/s, {row['times_the_first']:.2f} times the first's time",
                    flush=True,
                )
            save(chosen.json, "inference", rows)


if __name__ == "__main__":
    main()
