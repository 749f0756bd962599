"""One check of a stack of transformer blocks, measured in a process of its own.

    python -m benchmarks.stack WIDTH BLOCKS [--flax nnx|scan] [--planted BLOCK]

Prints one JSON object: parameters, seconds, and the process's peak memory during the check beyond what it held before,
with both models loaded and called once in float32, in units of the float32 weights. ``--planted``: LayerNorm's epsilon
is 1e-6 for 1e-5 in one block of the port.
"""

import argparse
import json
import os
import threading
import time
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen, nnx

import compare
import compare.checking

__all__ = ["main"]

HEADS = 8


class TorchBlock(torch.nn.Module):
    """Self-attention and a perceptron, each behind a LayerNorm and beside a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.query, self.key = torch.nn.Linear(width, width), torch.nn.Linear(width, width)
        self.value, self.out = torch.nn.Linear(width, width), torch.nn.Linear(width, width)
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm1(x)
        # (batch, tokens, width) -> (batch, heads, tokens, width / heads)
        q, k, v = (f(h).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(attended)
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm2(x))))


class TorchStack(torch.nn.Module):
    """Blocks one after the other."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(TorchBlock(width) for _ in range(blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Softmax attention on arrays of shape (batch, tokens, width)."""
    q, k, v = (array.reshape(*array.shape[:-1], HEADS, -1) for array in (query, key, value))
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1]))
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(query.shape)


class FlaxBlock(nnx.Module):
    """The same in NNX."""

    def __init__(self, width: int, rngs: nnx.Rngs, epsilon: float = 1e-5) -> None:
        self.norm1 = nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, rngs=rngs)
        self.query, self.key = nnx.Linear(width, width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)
        self.value, self.out = nnx.Linear(width, width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        h = self.norm1(x)
        x = x + self.out(attention(self.query(h), self.key(h), self.value(h)))
        return x + self.down(jax.nn.gelu(self.up(self.norm2(x)), approximate=False))


class FlaxStack(nnx.Module):
    """Blocks one after the other, ``planted`` with another epsilon."""

    def __init__(self, width: int, blocks: int, planted: int | None, rngs: nnx.Rngs) -> None:
        self.blocks = nnx.List([FlaxBlock(width, rngs, 1e-6 if i == planted else 1e-5) for i in range(blocks)])

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self.blocks:
            x = block(x)
        return x


class ScannedBlock(linen.Module):
    """The same in Linen, as a step of a scan."""

    width: int

    @linen.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        h = linen.LayerNorm(epsilon=1e-5, use_fast_variance=False, name="norm1")(x)
        q, k, v = (linen.Dense(self.width, name=name)(h) for name in ("query", "key", "value"))
        x = x + linen.Dense(self.width, name="out")(attention(q, k, v))
        h = linen.LayerNorm(epsilon=1e-5, use_fast_variance=False, name="norm2")(x)
        h = jax.nn.gelu(linen.Dense(4 * self.width, name="up")(h), approximate=False)
        return x + linen.Dense(self.width, name="down")(h), None


class ScannedStack(linen.Module):
    """Every parameter holds all blocks."""

    width: int
    blocks: int

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scanned = linen.scan(ScannedBlock, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.blocks)
        return scanned(self.width, name="blocks")(x, None)[0]


def _zeros(shapes: Any) -> Any:
    """torch's weights are copied in by the check: nothing need be drawn."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _made(arguments: argparse.Namespace, x: np.ndarray) -> tuple[Any, dict[str, Any]]:
    """The Flax model, and the fields of the check that it needs."""
    width, blocks = arguments.width, arguments.blocks
    if arguments.flax == "scan":
        scanned = ScannedStack(width, blocks)
        variables = _zeros(jax.eval_shape(scanned.init, jax.random.key(0), x))
        jax.block_until_ready(jax.jit(scanned.apply)(variables, x))
        return scanned, {"flax_variables": variables}
    graph, state = nnx.split(nnx.eval_shape(lambda: FlaxStack(width, blocks, arguments.planted, nnx.Rngs(0))))
    model = nnx.merge(graph, _zeros(state))
    jax.block_until_ready(model(jnp.asarray(x)))
    return model, {}


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Peak:
    """While it lasts, looks at the memory of this process every five milliseconds."""

    def __enter__(self) -> Self:
        self.before = self.highest = _resident()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.005):
            self.highest = max(self.highest, _resident())


def main(given: list[str] | None = None) -> None:
    """Checks one stack and prints what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("width", type=int)
    parser.add_argument("blocks", type=int)
    parser.add_argument("--flax", choices=("nnx", "scan"), default="nnx")
    parser.add_argument("--planted", type=int, help="the block of the port with another epsilon")
    arguments = parser.parse_args(given)
    torch.manual_seed(0)
    torch_model = TorchStack(arguments.width, arguments.blocks)
    x = np.random.default_rng(0).standard_normal((2, 16, arguments.width)).astype(np.float32)
    flax_model, fields = _made(arguments, x)
    torch_model(torch.from_numpy(x))
    weights = 4 * sum(parameter.numel() for parameter in torch_model.parameters())
    started = time.perf_counter()
    with Peak() as peak:
        report = compare.check(torch_model, flax_model, x, **fields)
    found = {
        "parameters": weights // 4,
        "flax": arguments.flax,
        "planted": arguments.planted,
        "seconds": time.perf_counter() - started,
        "memory": (peak.highest - peak.before) / weights,
        "status": report.status,
        "place": "" if report.first_divergence is None else report.first_divergence.module,
        "causes": [cause.name for cause in report.causes],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
