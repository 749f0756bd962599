"""JAX's persistent compilation cache in the user's cache folder: the second start of a program needs no compiling."""

import os
from pathlib import Path

import jax

__all__ = ["cache_folder", "use_compilation_cache"]


def cache_folder() -> Path:
    """``$FCJAX_CACHE``, or ``fcjax/compiled`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    own = os.environ.get("FCJAX_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return (Path(own) if own else base / "fcjax" / "compiled").expanduser()


def use_compilation_cache() -> bool:
    """Turns the cache on for this process.

    Returns:
        False where the folder can't be written: the run then goes on without a cache.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return False
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Small programs too: a start runs some forty of them, such as those that draw the first weights.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return True
