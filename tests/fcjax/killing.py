"""A program that trains the same tiny run again and again in forked children and kills them; started by test_resume.py.

    python killing.py FOLDER KILLS SEED

FOLDER/0 is a run that nothing disturbs. FOLDER/1 is killed, resumed and killed again until it comes to its end, then
FOLDER/2, and so on until KILLS kills have landed. Moments are drawn in units of the run's own progress, its changes of
the file system, so that they don't depend on the machine's speed: every other kill comes exactly before a change, the
others at any time after one.

One interpreter imports everything once; each attempt is a fork of it, so that an attempt costs compiling and training
only. Prints how many runs there are besides FOLDER/0, and how many kills.
"""

import json
import os
import random
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
from fcjax.layers import drop
from fcjax.trainer import fit

CONFIG = TrainConfig(
    epochs=3, batch_size=4, devices="2", segments=2, checkpoint_seconds=0.0, learning_rate=1e-2, keep_checkpoints=2
)
CHANGES = ("rename", "replace", "mkdir", "rmdir", "unlink", "open")  # functions of os


def make_data() -> Dataset:
    rng = np.random.default_rng(1)
    parts = []
    for rows in (15, 7):  # 4 steps, the last uneven; both segments of an epoch are one program
        x = rng.normal(size=(rows, 3)).astype(np.float32)
        parts.append(Split(x, (x @ [[1.0], [-2.0], [0.5]] + 0.3).astype(np.float32)))
    return Dataset("line", "regression", parts[0], parts[1])


class Line(nnx.Module):
    """A layer with dropout before it. Its first weights need no compiling: an attempt costs mostly its start."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(np.linspace(-1, 1, 3, dtype=np.float32)[:, None])
        self.bias = nnx.Param(np.ones(1, np.float32))

    def __call__(self, x: jax.Array, rngs: jax.Array | None = None) -> jax.Array:
        return (x if rngs is None else drop(x, 0.2, rngs)) @ self.kernel[...] + self.bias[...]


def tell_changes(pipe: int, fatal: int | None) -> None:
    """Writes a byte to ``pipe`` before each change of the file system; before change number ``fatal`` dies instead."""
    count = 0

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def one(*arguments: Any, **keywords: Any) -> Any:
            nonlocal count
            count += 1
            if count == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(pipe, b".")
            return function(*arguments, **keywords)

        return one

    for name in CHANGES:
        setattr(os, name, watched(getattr(os, name)))


def train(folder: Path, pipe: int, fatal: int | None) -> None:
    """What a child does."""
    try:
        jax.config.update("jax_num_cpu_devices", 2)
        use_compilation_cache()
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        tell_changes(pipe, fatal)
        fit(Line, make_data(), replace(CONFIG, run_dir=folder, resume=True), progress=False)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def attempt(
    folder: Path, fatal: int | None = None, after: int | None = None, delay: float = 0.0
) -> tuple[bool, list[float]]:
    """One process that begins or resumes the run; whether it came to its end, and when it made its changes.

    Args:
        folder: of the run.
        fatal: it dies before this change.
        after, delay: it is killed so many seconds after this change.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        train(folder, writing, fatal)
    os.close(writing)
    changes: list[float] = []
    while len(changes) != after and os.read(reading, 1):
        changes.append(time.monotonic())
    if len(changes) == after:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        return False, changes
    assert os.waitstatus_to_exitcode(status) == 0, "the run failed instead of going on"
    return True, changes


def main(base: Path, wanted: int, draw: random.Random) -> dict[str, int]:
    """All attempts."""
    ended, times = attempt(base / "0")
    assert ended
    changes = len(times)
    pace = (times[-1] - times[changes // 2]) / (changes / 2)  # seconds a change, when all is compiled
    kills, run = 0, 1
    while kills < wanted:
        moment = draw.randrange(1, changes // 3)
        if kills % 2:
            ended, _ = attempt(base / str(run), fatal=moment)
        else:
            ended, _ = attempt(base / str(run), after=moment, delay=draw.uniform(0, 5 * pace))
        kills += not ended
        run += ended
    while not ended:
        ended, _ = attempt(base / str(run))
        run += ended
    return {"runs": run - 1, "kills": kills}


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=r".*os\.fork\(\)")
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3])))))
