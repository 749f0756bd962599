"""All benchmarks, one after the other: ``python -m benchmarks [training floor ...]``; each also runs alone."""

import importlib
import sys

from benchmarks.rounds import missing

ALL = ("training", "floor", "replicas", "inference", "growth", "processes", "comparison")

chosen = sys.argv[1:] or ALL
if unknown := [name for name in chosen if name not in ALL]:
    sys.exit(f"benchmarks: expected some of {', '.join(ALL)}; found {', '.join(unknown)}")
for name in chosen:
    print(f"== {name}", flush=True)
    try:
        importlib.import_module(f"benchmarks.{name}").main([])
    except ImportError as error:
        missing(name, error)
