"""Weights between live modules and files: bit for bit, and nothing is written when something does not fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file
from torch import nn

import fcjax
from compare.conversion import convert, convert_files
from compare.models import torch_models
from compare.result import UsageError
from compare.weight_files import read_weights, write_weights

Make = tuple[Callable[[], nn.Module], Callable[[], nnx.Module]]


def rngs() -> nnx.Rngs:
    return nnx.Rngs(1)


class TorchConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.embed = nn.Conv2d(2, 3, (2, 4)), nn.BatchNorm2d(3), nn.Embedding(7, 5)


class FlaxConv(nnx.Module):
    def __init__(self) -> None:
        self.conv, self.norm = nnx.Conv(2, 3, (2, 4), rngs=rngs()), nnx.BatchNorm(3, rngs=rngs())
        self.embed = nnx.Embed(7, 5, rngs=rngs())


PAIRS: dict[str, Make] = {
    "A2": (
        lambda: torch_models.TorchModelWithActivation(3, 5, 2),
        lambda: fcjax.FlaxModelWithActivation(3, 5, 2, rngs=rngs()),
    ),
    "A5": (lambda: torch_models.SparseLinear(7, 4), lambda: fcjax.SparseLinear(7, 4, rngs=rngs())),
    "A6": (lambda: torch_models.LowRankLinear(9, 4, 3), lambda: fcjax.LowRankLinear(9, 4, 3, rngs=rngs())),
    "convolution, norm, embedding": (TorchConv, FlaxConv),
}


@pytest.fixture(params=PAIRS)
def pair(request: Any, seeded: Any) -> tuple[nn.Module, nn.Module, nnx.Module]:
    """A model, another of its class, and its port."""
    make_torch, make_flax = PAIRS[request.param]
    model, other = seeded(make_torch), make_torch()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2.0)
    return model, other, make_flax()


def assert_equal_states(left: nn.Module, right: nn.Module) -> None:
    """Bit for bit, but for the counters that Flax does not have."""
    expected, found = left.state_dict(), right.state_dict()
    for name in expected:
        if not name.endswith("num_batches_tracked"):
            assert expected[name].dtype == found[name].dtype
            assert torch.equal(expected[name], found[name]), name


def arrays(port: nnx.Module) -> dict[str, np.ndarray]:
    return {".".join(map(str, path)): np.array(v[...]) for path, v in nnx.to_flat_state(nnx.state(port))}


def test_live_modules_there_and_back(pair: Any) -> None:
    model, other, port = pair
    assert not torch.equal(next(iter(model.parameters())), next(iter(other.parameters())))
    mapping = convert(model, port)
    assert len(mapping.rules) == len(arrays(port))
    convert(port, other)
    assert_equal_states(model, other)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_there_and_back(pair: Any, tmp_path: Path, suffix: str) -> None:
    model, other, port = pair
    source, there, back = tmp_path / f"torch{suffix}", tmp_path / "flax.safetensors", tmp_path / "back.safetensors"
    if suffix == ".pt":
        torch.save(model.state_dict(), source)
    else:
        write_weights(source, model.state_dict())
    convert_files(source, there, other, port, to="flax")
    stored = load_file(there)
    assert set(stored) == set(arrays(port))
    fresh = type(other)(3, 5, 2) if isinstance(other, torch_models.TorchModelWithActivation) else other
    convert_files(there, back, fresh, port, to="torch")
    assert_equal_states(model, fresh)
    fresh.load_state_dict(read_weights(back))
    assert_equal_states(model, fresh)


def test_a_converted_file_gives_the_same_outputs(seeded: Any, rows: Any, tmp_path: Path) -> None:
    model, port = seeded(PAIRS["A2"][0]), PAIRS["A2"][1]()
    torch.save(model.state_dict(), tmp_path / "m.pt")
    convert_files(tmp_path / "m.pt", tmp_path / "m.safetensors", PAIRS["A2"][0](), port, to="flax")
    x = rows(4, 3)
    # float32, three sums of at most five terms each
    np.testing.assert_allclose(port(x), model(torch.from_numpy(x)).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_nothing_is_written_where_something_does_not_fit(seeded: Any) -> None:
    model = seeded(PAIRS["A2"][0])
    port = fcjax.FlaxModelWithActivation(3, 6, 2, rngs=rngs())
    before = arrays(port)
    with pytest.raises(UsageError, match=r"layer1.kernel: expected shape \(3, 5\)") as caught:
        convert(model, port)
    assert "layer2.kernel" in str(caught.value)
    after = arrays(port)
    assert all(np.array_equal(before[path], after[path]) for path in before)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UsageError, match="weights do not fit"):
        convert(port, model)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in state.items())


@pytest.mark.parametrize("to", ["flax", "torch", "numpy"])
def test_an_existing_target_survives_every_error(seeded: Any, tmp_path: Path, to: str) -> None:
    model, port = seeded(PAIRS["A2"][0]), PAIRS["A2"][1]()
    other = {"layer1.weight": torch.zeros(3, 5), "extra": torch.ones(2)}
    write_weights(tmp_path / "in.safetensors", other)
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"precious")
    with pytest.raises(UsageError, match="expected a new file, found one that exists; --overwrite replaces it"):
        convert_files(tmp_path / "in.safetensors", target, model, port, to=to)
    with pytest.raises(UsageError) as caught:
        convert_files(tmp_path / "in.safetensors", target, model, port, to=to, overwrite=True)
    text = str(caught.value)
    if to == "flax":
        assert "layer1.weight: expected shape (5, 3), found (3, 5): it looks transposed" in text
        assert "extra: unexpected, shape (2,)" in text
        assert "layer2.bias: missing, expected shape (2,)" in text
    assert target.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors", "out.safetensors"]


def test_another_mapping_and_its_inverse(seeded: Any) -> None:
    model, port, back = seeded(PAIRS["A2"][0]), PAIRS["A2"][1](), PAIRS["A2"][0]()
    mapping = {"layer1.bias": ("layer1.bias", lambda b: 2 * b)}
    convert(model, port, mapping=mapping)
    assert np.array_equal(arrays(port)["layer1.bias"], 2 * model.layer1.bias.detach().numpy())
    with pytest.raises(UsageError, match="no known inverse"):
        convert(port, back, mapping=mapping)


@pytest.mark.parametrize("pairing", [(nn.Linear(2, 3), nn.Linear(2, 3)), ("a.pt", nn.Linear(2, 3)), (None, None)])
def test_anything_but_a_pair_is_wrong_usage(pairing: Any) -> None:
    with pytest.raises(UsageError, match=r"expected a torch.nn.Module and a flax.nnx.Module, either way round"):
        convert(*pairing)


def test_wider_and_narrower_dtypes(seeded: Any) -> None:
    """A double model loses nothing but its extra digits, a bfloat16 one nothing at all."""
    model, port, back = seeded(PAIRS["A2"][0]), PAIRS["A2"][1](), PAIRS["A2"][0]()
    convert(model.double(), port)
    convert(port, back)
    assert_equal_states(model.float(), back)
    half = seeded(PAIRS["A2"][0]).to(torch.bfloat16)
    convert(half, port)
    convert(port, back)
    assert_equal_states(half.float(), back)


def test_bfloat16_parameters_come_back_and_are_stored(tmp_path: Path) -> None:
    port = nnx.Linear(3, 4, param_dtype=jnp.bfloat16, rngs=rngs())
    model = nn.Linear(3, 4, dtype=torch.bfloat16)
    convert(port, model)
    assert np.array_equal(model.weight.detach().float().numpy().T, np.asarray(port.kernel[...], np.float32))
    torch.save(model.state_dict(), tmp_path / "m.pt")
    convert_files(tmp_path / "m.pt", tmp_path / "m.safetensors", model, port, to="flax")
    assert read_weights(tmp_path / "m.safetensors")["kernel"].dtype == torch.bfloat16


def test_floats_are_not_written_into_integers() -> None:
    class Whole(nnx.Module):
        def __init__(self) -> None:
            self.scale = nnx.Param(jnp.zeros(3, jnp.int32))

    class TorchScale(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor([0.3, 0.7, 1.9]))

    target = Whole()
    with pytest.raises(UsageError, match="scale: expected int32, found float32"):
        convert(TorchScale(), target)
    assert not target.scale[...].any()
