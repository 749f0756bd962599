"""Time and memory of ``compare.check`` against the size of the model.

    python -m benchmarks.comparison [--stacks 128x5 512x3 1024x2 1024x8]

Each row is a process of its own (``benchmarks.stack``): a stack of transformer blocks on 2 sequences of 16 tokens, in
PyTorch and in Flax. Memory is the process's peak beyond what it held with both models loaded and used, in units of the
float32 weights. The last rows: layers under a Linen scan, and a mistake in the block before the last but one.
"""

import json
import subprocess
import sys

from benchmarks.rounds import Row, machine, missing, options, save

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its table."""
    parser = options(__doc__)
    parser.add_argument("--stacks", nargs="+", default=["128x5", "512x3", "1024x2", "1024x8"], metavar="WIDTHxBLOCKS")
    chosen = parser.parse_args(arguments)
    print(machine())
    sizes = [stack.split("x") for stack in chosen.stacks]
    width, blocks = sizes[-1]
    planted = str(max(int(blocks) - 3, 0))
    commands = [*sizes, [width, blocks, "--flax", "scan"], [width, blocks, "--planted", planted]]
    rows: list[Row] = []
    for command in commands:
        done = subprocess.run([sys.executable, "-m", "benchmarks.stack", *command], capture_output=True, text=True)
        if done.returncode:
            missing(" ".join(command), done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no output")
            continue
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(_line(rows[-1]), flush=True)
    save(chosen.json, "comparison", rows)


def _line(row: Row) -> str:
    text = (
        f"  {row['parameters']:13,} parameters ({row['flax']}): {row['seconds']:6.1f} s, {row['memory']:5.1f} times the"
    )
    found = f" in {row['place']}: {', '.join(row['causes'])}" if row["planted"] is not None else ""
    return f"{text} weights, {row['status']}{found}"


if __name__ == "__main__":
    main()
