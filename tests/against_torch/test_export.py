"""Exported weights, loaded into the PyTorch references, give the same outputs."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.torch import load_file

from compare.models import torch_models
from fcjax.config import UsageError
from fcjax.export import export_weights
from fcjax.layers import AdaptiveWidthLinear, LowRankLinear, SparseLinear
from fcjax.models import MLP, MNISTClassifier, Regressor

SIZES = (6, 9, 5, 3)
PAIRS: dict[str, tuple[Callable[[nnx.Rngs], nnx.Module], Callable[[], torch.nn.Module], int]] = {
    "A3": (lambda rngs: MNISTClassifier(rngs=rngs), torch_models.MNISTClassifier, 784),
    "A4": (lambda rngs: Regressor(8, rngs=rngs), lambda: torch_models.Regressor(8), 8),
    "A5": (lambda rngs: SparseLinear(7, 4, rngs=rngs), lambda: torch_models.SparseLinear(7, 4), 7),
    "A6": (lambda rngs: LowRankLinear(7, 4, 3, rngs=rngs), lambda: torch_models.LowRankLinear(7, 4, 3), 7),
    "MLP": (lambda rngs: MLP(SIZES, rngs=rngs), lambda: torch_models.MLP(SIZES), 6),
    "layer norm": (lambda rngs: MLP(SIZES, norm="layer", rngs=rngs), lambda: torch_models.MLP(SIZES, norm="layer"), 6),
    "batch norm": (lambda rngs: MLP(SIZES, norm="batch", rngs=rngs), lambda: torch_models.MLP(SIZES, norm="batch"), 6),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_torch_reference_loads_it_and_agrees(name: str, tmp_path: Path) -> None:
    make, make_torch, features = PAIRS[name]
    model = make(nnx.Rngs(0))
    rng = np.random.default_rng(0)
    for kind in (nnx.Param, nnx.BatchStat):  # norms start at 1 and 0, where much is hidden
        state = nnx.state(model, kind)
        nnx.update(model, jax.tree.map(lambda a: jnp.asarray(rng.uniform(0.1, 1.0, a.shape), a.dtype), state))
    model.eval()
    export_weights(model, tmp_path / "w.safetensors")
    reference = make_torch().eval()
    arrays = load_file(tmp_path / "w.safetensors")
    reference.load_state_dict(arrays)  # strict: all of them, and no other
    x = rng.normal(size=(5, features)).astype(np.float32)
    ours = np.asarray(model(jnp.asarray(x)))
    with torch.no_grad():
        theirs = reference(torch.tensor(x)).numpy()
        # float32: sums of up to 784 products; relative to the largest output.
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
        wrong = {key: a.roll(1, -1) if a.is_floating_point() else a for key, a in arrays.items()}
        reference.load_state_dict(wrong)
        assert np.abs(ours - reference(torch.tensor(x)).numpy()).max() > 1e-3 * np.abs(theirs).max()


def test_a_layer_without_a_rule_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no PyTorch counterpart is known for .*selector of AdaptiveWidthLinear"):
        export_weights(AdaptiveWidthLinear(3, 2, 4, rngs=nnx.Rngs(0)), tmp_path / "w.safetensors")
