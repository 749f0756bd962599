"""All benchmarks, one after the other: ``python -m benchmarks [--json F] [training floor ...]``; each alone too."""

import importlib
import sys

from benchmarks.rounds import missing, options

ALL = ("training", "floor", "replicas", "inference", "growth", "wide", "processes", "comparison")

parser = options(__doc__)
parser.add_argument("chosen", nargs="*", metavar="benchmark", help=", ".join((*ALL, "gpu")))
arguments = parser.parse_args()
if unknown := [name for name in arguments.chosen if name not in (*ALL, "gpu")]:
    sys.exit(f"benchmarks: expected some of {', '.join((*ALL, 'gpu'))}; found {', '.join(unknown)}")
for name in arguments.chosen or ALL:
    print(f"== {name}", flush=True)
    try:
        importlib.import_module(f"benchmarks.{name}").main(["--json", str(arguments.json)] if arguments.json else [])
    except ImportError as error:
        missing(name, error)
