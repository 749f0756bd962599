"""A program that trains the same tiny run again and again in forked children and kills them; started by test_resume.py.

    python killing.py FOLDER '{"mode": "point", "values": [20, 40]}' '{"mode": "delay", "values": [0.5]}' ...

kills the first run before its 20th change of the file system and, resumed, before its 40th, and the second one half
a second after its start.

One interpreter imports everything once; each attempt is a fork of it, so that an attempt costs compiling and training
only. Prints a JSON line per scenario.
"""

import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from orbax.checkpoint import v1  # noqa: F401  (here, so that no child has to load it)

from fcjax.compilation_cache import use_compilation_cache
from fcjax.config import TrainConfig
from fcjax.datasets import Dataset, Split
from fcjax.models import MLP
from fcjax.trainer import fit

CONFIG = TrainConfig(
    epochs=6, batch_size=4, devices="2", segments=2, checkpoint_seconds=0.0, learning_rate=1e-2, keep_checkpoints=2
)


def make_data() -> Dataset:
    rng = np.random.default_rng(1)
    parts = []
    for rows in (15, 7):  # 4 steps, the last uneven; both segments of an epoch are one program
        x = rng.normal(size=(rows, 3)).astype(np.float32)
        parts.append(Split(x, (x @ [[1.0], [-2.0], [0.5]] + 0.3).astype(np.float32)))
    return Dataset("line", "regression", parts[0], parts[1])


def model(rngs: nnx.Rngs) -> MLP:
    return MLP((3, 5, 1), dropout=0.2, norm="batch", rngs=rngs)


def die_at(count: int) -> None:
    """Kills this process just before its ``count``-th change of the file system from Python."""
    left = [count]

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def one(*arguments: Any, **keywords: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **keywords)

        return one

    for name in ("rename", "replace", "mkdir", "rmdir", "unlink", "open"):
        setattr(os, name, watched(getattr(os, name)))


def attempt(folder: Path, *, at: int | None = None, delay: float | None = None) -> bool:
    """One process that begins or resumes the run; whether it came to its end."""
    child = os.fork()
    if child == 0:
        try:
            jax.config.update("jax_num_cpu_devices", 2)
            use_compilation_cache()
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            if at is not None:
                die_at(at)
            fit(model, make_data(), replace(CONFIG, run_dir=folder, resume=True), progress=False)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        return False
    assert os.waitstatus_to_exitcode(status) == 0, "the run failed instead of going on"
    return True


def scenario(folder: Path, mode: str, values: list[float]) -> dict[str, Any]:
    """Kills at each of ``values`` in turn, then lets the run come to its end."""
    kills = 0
    for value in values:
        if attempt(folder, at=int(value)) if mode == "point" else attempt(folder, delay=value):
            break
        kills += 1
    else:
        assert attempt(folder)
    return {"folder": str(folder), "kills": kills}


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=r".*os\.fork\(\)")
    base = Path(sys.argv[1])
    for number, given in enumerate(sys.argv[2:]):
        task = json.loads(given)
        print(json.dumps(scenario(base / str(number), task["mode"], task["values"])), flush=True)
