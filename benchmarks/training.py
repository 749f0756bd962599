"""Training A3 and A4: fcjax against PyTorch and against the common JAX loops, samples per second.

    python -m benchmarks.training [--models A3 A4] [--batch-sizes 32 128 1024 8192] [--samples 20000] [--rounds 5]

All contenders train the same network by Adam on the same data, which all can learn, and take turns of one pass each;
compilation is left out. Ratios are medians over rounds, to the best PyTorch loop; each row ends with the mean loss of
the last pass, which shows that all do the same work.
"""

import math
import statistics

from benchmarks.contenders import Work, a3, a4, fcjax_turn, jax_loops, torch_loops
from benchmarks.rounds import Measured, Row, Turn, machine, missing, options, rates_table, ratio, save, take_turns

__all__ = ["compare_training", "main", "same_work"]


def contenders(work: Work, batch_size: int, compiled: bool) -> dict[str, Turn]:
    """All that can run here."""
    turns = {f"fcjax, {s}": fcjax_turn(work, batch_size, s) for s in ("pmap", "jit", "shard")}
    turns["fcjax, pmap, bfloat16"] = fcjax_turn(work, batch_size, precision="bfloat16")
    turns |= jax_loops(work, batch_size)
    try:
        turns |= torch_loops(work, batch_size, compiled)
    except ImportError as error:
        missing("PyTorch", error)
    return turns


def same_work(measured: dict[str, Measured]) -> list[str]:
    """Contenders whose loss is not what the others' is: they train something else.

    Orders and masks are drawn differently, so losses agree to some per cent; a loop that leaves something out, or
    learns at another rate, is off by far more.
    """
    middle = statistics.median(found.figure for found in measured.values())
    return [name for name, found in measured.items() if not math.isclose(found.figure, middle, rel_tol=0.2)]


def compare_training(work: Work, batch_size: int, rounds: int, compiled: bool) -> list[Row]:
    """Measures and prints one table; its rows."""
    print(f"{work.name}, batch {batch_size}, dropout {work.dropout if work.classifies else 0}", flush=True)
    turns = contenders(work, batch_size, compiled)
    try:
        measured = take_turns(turns, rounds)
    except Exception as error:  # torch.compile needs a C++ compiler, and says so only when it is first called
        if not compiled:
            raise
        missing("torch.compile", error)
        return compare_training(work, batch_size, rounds, compiled=False)
    best = min((name for name in measured if name.startswith("torch")), key=lambda n: measured[n].median, default=None)
    print(rates_table(measured, len(work.inputs), "samples", best), flush=True)
    different = same_work(measured)
    for name in different:
        print(f"  {name}: its loss is not the others'; its speed says nothing")
    return [
        {
            "model": work.name,
            "batch_size": batch_size,
            "contender": name,
            "samples_per_second": len(work.inputs) / found.median,
            "lowest": len(work.inputs) / max(found.seconds),
            "highest": len(work.inputs) / min(found.seconds),
            "times_best_torch": None if best is None else ratio(found, measured[best]),
            "loss": found.figure,
            "same_work": name not in different,
        }
        for name, found in measured.items()
    ]


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its tables."""
    parser = options(__doc__)
    parser.add_argument("--models", nargs="+", default=["A3", "A4"], choices=["A3", "A4"])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 128, 1024, 8192])
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out: it takes minutes to start")
    chosen = parser.parse_args(arguments)
    print(machine())
    for name in chosen.models:
        work = {"A3": a3, "A4": a4}[name](chosen.samples)
        for batch_size in chosen.batch_sizes:
            rows = compare_training(work, batch_size, chosen.rounds, not chosen.no_compile)
            save(chosen.json, "training", rows)


if __name__ == "__main__":
    main()
