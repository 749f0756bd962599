"""No false alarm: right ports, written the way people write them, pass. All of them run in ``make check-corpus``."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import jax
import pytest

import compare
from tests.corpus import ports

pytestmark = pytest.mark.usefixtures("small_programs", "verdict_only")

FAMILIES = {
    found.name: importlib.import_module(f"{ports.__name__}.{found.name}")
    for found in pkgutil.iter_modules(ports.__path__)
}
BUILDERS: dict[str, Callable[[], compare.Port]] = {
    build.__name__: build for family in FAMILIES.values() for build in family.BUILDERS
}
# One port of each kind, the cheapest that shows it: the suite has six minutes for everything.
QUICK = (
    "sequential",
    "large_inputs",
    "two_towers",
    "tied_autoencoder",
    "cross_attention",
    "pooling",
    "gru",
    "contrastive",
    "quantiser",
    "autocast",
    "fno",
    "cached_decoder",
    "latents",
    "policy",
)


@pytest.mark.parametrize("name", QUICK)
def test_a_right_port_passes(name: str) -> None:
    report = compare.check(BUILDERS[name]())
    assert report.passed, report.text()


def scaled(value: Any) -> Any:
    """A millionth too much, in every output: far above float64's rounding, far below what an eye would notice."""
    return jax.tree.map(lambda leaf: leaf * (1 + 1e-6), value)


@pytest.mark.parametrize("name", ["tied_autoencoder", "pooling", "revin"])
def test_the_same_port_a_millionth_off_fails(name: str) -> None:
    port = BUILDERS[name]()
    report = compare.check(dataclasses.replace(port, outputs=(port.torch_select, scaled)))
    assert report.status == "failed", report.text()


def test_every_family_lists_its_ports() -> None:
    assert len(BUILDERS) == sum(len(family.BUILDERS) for family in FAMILIES.values()), "two builders share a name"
    assert len(BUILDERS) >= 20  # what the corpus is to hold at least
    assert all(callable(family.ports) for family in FAMILIES.values())
    assert set(QUICK) <= set(BUILDERS)
