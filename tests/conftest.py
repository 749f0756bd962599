"""Eight virtual CPU devices for every test, programs compiled in haste, repeatable examples, long files first."""

import gc
import os
from collections.abc import Iterator

# Nets here are tiny: compiling takes longer than running, and what a program computes does not depend on these.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1",
)

import hypothesis
import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)

# Tracing makes many objects, few of them garbage: looking for it as often as Python does takes a tenth of the time.
gc.set_threshold(100_000)

# The same examples every time, however slow the machine is.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("repeatable")

# Files that take a worker for minutes: started first, so that no worker waits for them at the end.
_LONG = ("test_resume.py", "test_distributed.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the long files first; ``--no-loadscope-reorder`` keeps them there."""
    items.sort(key=lambda item: item.path.name not in _LONG)


@pytest.fixture(scope="module")
def small_programs() -> Iterator[None]:
    """For checks of tiny models: compiling well and computing on many threads both cost more than they save."""
    import torch  # the tests of fcjax alone run without it

    threads, optimised = torch.get_num_threads(), not jax.config.read("jax_disable_most_optimizations")
    torch.set_num_threads(1)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    torch.set_num_threads(threads)
    jax.config.update("jax_disable_most_optimizations", not optimised)


@pytest.fixture(scope="module")
def verdict_only() -> Iterator[None]:
    """Leaves out the search for the place and the cause of a failure, which has tests of its own and takes longer."""
    from compare.diagnose import Diagnosis

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compare.checking.diagnose", lambda *_: Diagnosis(None))
        yield
