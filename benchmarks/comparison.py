"""Time and memory of ``compare.check`` against the size of the model.

    python -m benchmarks.comparison [--widths 64 256 1024] [--blocks 4]

Each row is a process of its own: a residual stack of LayerNorm and two linear layers, in PyTorch and in Flax. Memory
is the process's peak beyond the two models and the imports, in units of the float32 weights.
"""

import argparse
import json
import subprocess
import sys

from benchmarks.rounds import machine, missing

__all__ = ["main"]

SCRIPT = """
import json, resource, sys, time
import jax, numpy as np, torch
from flax import nnx
import compare

width, blocks = int(sys.argv[1]), int(sys.argv[2])

class TorchBlock(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)
    def forward(self, x):
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))

class FlaxBlock(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)
    def __call__(self, x):
        return x + self.down(jax.nn.gelu(self.up(self.norm(x)), approximate=False))

torch_model = torch.nn.Sequential(*(TorchBlock() for _ in range(blocks)))
rngs = nnx.Rngs(0)
flax_model = nnx.Sequential(*(FlaxBlock(rngs) for _ in range(blocks)))
x = np.random.default_rng(0).standard_normal((2, width), np.float32)
torch_model(torch.from_numpy(x)), jax.block_until_ready(flax_model(x))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, started = peak(), time.perf_counter()
report = compare.check(torch_model, flax_model, x)
weights = 4 * sum(p.numel() for p in torch_model.parameters())
print(json.dumps({"seconds": time.perf_counter() - started, "parameters": weights // 4,
                  "memory": (peak() - before) / weights, "status": report.status}))
"""


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--blocks", type=int, default=4)
    chosen = parser.parse_args(arguments)
    print(machine())
    for width in chosen.widths:
        command = [sys.executable, "-c", SCRIPT, str(width), str(chosen.blocks)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            missing(f"width {width}", done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no output")
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"  {found['parameters']:13,} parameters: {found['seconds']:6.1f} s, {found['memory']:5.1f} times the "
            f"weights, {found['status']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
