"""How the time of training grows: with width, depth, batch, data, virtual CPU devices and processes.

    python -m benchmarks.growth [--rounds 3]

A hidden layer of width w costs w² multiplications a row, so time should grow fourfold per doubling once products
dominate, linearly with depth, batch and data. Virtual devices and processes share the same cores: there the time says
what sharing costs.
"""

import socket
import subprocess
import sys

from benchmarks.contenders import a3, fcjax_turn, mlp
from benchmarks.rounds import Row, Turn, machine, options, save, take_turns

__all__ = ["main"]

FEATURES, STEPS = 64, 20

# A pass over 4096 rows in batches of 1024: seconds a step, in one process of several.
SHARED_SCRIPT = """
import sys, time
import jax
devices, processes, number, address = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
jax.config.update("jax_num_cpu_devices", devices)
if processes > 1:
    jax.distributed.initialize(address, num_processes=processes, process_id=number)
from benchmarks.contenders import a3, fcjax_turn
turn = fcjax_turn(a3(4096), 1024)
turn()
started = time.perf_counter()
for _ in range(3): turn()
print((time.perf_counter() - started) / 12)
"""


def mlp_turn(width: int, depth: int, batch_size: int) -> Turn:
    """``STEPS`` steps of a net with ``depth`` hidden layers of ``width``."""
    return fcjax_turn(mlp((FEATURES, *[width] * depth, 1), batch_size * STEPS), batch_size, "jit")


def shared(devices: int = 1, processes: int = 1) -> float | None:
    """Seconds of a step of A3, batch 1024, on so many virtual devices of so many processes; None where it fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-c", SHARED_SCRIPT, str(devices), str(processes)]
    started = [
        subprocess.Popen([*command, str(number), address], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for number in range(processes)
    ]
    printed = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        return None
    return max(float(text.split()[-1]) for text in printed)


def show(axis: str, about: str, seconds: dict[int, float | None]) -> list[Row]:
    """Prints one line, milliseconds for each value of ``axis``; its rows."""
    parts = [f"{value}: failed" if s is None else f"{value}: {1e3 * s:.2f} ms" for value, s in seconds.items()]
    print(f"  {axis} ({about}): " + ", ".join(parts), flush=True)
    return [
        {"axis": axis, "about": about, "value": value, "milliseconds": 1e3 * s}
        for value, s in seconds.items()
        if s is not None
    ]


def measured(turns: dict[int, Turn], rounds: int, steps: int = STEPS) -> dict[int, float | None]:
    """Seconds of a step of each."""
    found = take_turns({str(value): turn for value, turn in turns.items()}, rounds)
    return {value: found[str(value)].median / steps for value in turns}


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its table."""
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args(arguments)
    print(machine())
    widths = {width: mlp_turn(width, 2, 256) for width in (128, 256, 512, 1024)}
    rows = show("width", "a step, 2 layers, batch 256", measured(widths, chosen.rounds))
    depths = {depth: mlp_turn(256, depth, 256) for depth in (1, 2, 4, 8)}
    rows += show("depth", "a step, width 256, batch 256", measured(depths, chosen.rounds))
    batches = {batch: mlp_turn(256, 2, batch) for batch in (64, 256, 1024, 4096)}
    rows += show("batch", "a step, 2 layers of 256", measured(batches, chosen.rounds))
    data = {samples: fcjax_turn(a3(samples), 128) for samples in (5_000, 10_000, 20_000, 40_000)}
    rows += show("samples", "a pass of A3, batch 128", measured(data, chosen.rounds, steps=1))
    about = "a step of A3, batch 1024, on the same cores"
    rows += show("devices", about, {number: shared(devices=number) for number in (1, 2, 4, 8)})
    rows += show("processes", about, {number: shared(processes=number) for number in (1, 2)})
    save(chosen.json, "growth", rows)


if __name__ == "__main__":
    main()
