"""Weights files: nothing that is read runs code, nothing damaged is taken; a file is written whole or not at all."""

import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compare.result import UsageError
from compare.weight_files import read_weights, write_weights

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.tensor([0.5, -1.5])}


class Hostile:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


def test_a_hostile_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    trace = tmp_path / "it ran"
    plain, within = tmp_path / "plain.pt", tmp_path / "within.pt"
    plain.write_bytes(pickle.dumps(Hostile(trace)))
    torch.save({"fc.weight": torch.ones(2), "evil": Hostile(trace)}, within)
    for path in (plain, within):
        with pytest.raises(UsageError, match="refused"):
            read_weights(path)
        assert not trace.exists()
    pickle.loads(plain.read_bytes())  # the twin: this pickle is live
    assert trace.exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
def test_what_was_written_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    write_weights(path, STATE) if suffix == ".safetensors" else torch.save(STATE, path)
    found = read_weights(path)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in STATE.items())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "a folder", "absent"])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"m{suffix}"
    torch.save(STATE, path) if suffix == ".pt" else write_weights(path, STATE)
    whole = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "absent":
        path.write_bytes({"truncated": whole[: len(whole) // 2], "garbage": b"\x93garbage" * 40, "empty": b""}[damage])
    with pytest.raises(UsageError) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([".pt", ".safetensors"]), st.binary(max_size=200), st.integers(0, 400))
def test_no_bytes_bring_anything_but_a_usage_error(tmp_path: Path, suffix: str, noise: bytes, at: int) -> None:
    path = tmp_path / f"m{suffix}"
    torch.save(STATE, path) if suffix == ".pt" else write_weights(path, STATE)
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + noise + whole[at + len(noise) :])
    try:
        found = read_weights(path)
    except UsageError:
        return
    assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())


@pytest.mark.parametrize("content", [[1, 2], torch.ones(3), {"a": 1.0}, {"model": {"a": torch.ones(2)}}])
def test_a_pickle_of_something_else(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(UsageError, match="expected a state_dict"):
        read_weights(tmp_path / "m.pt")


@pytest.mark.parametrize("name", ["m.npz", "m", "m.pkl", "m.ckpt"])
def test_other_suffixes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match=r"expected a file name that ends in .safetensors, .pt"):
        read_weights(tmp_path / name)
    with pytest.raises(UsageError, match=r"expected a file name that ends in .safetensors"):
        write_weights(tmp_path / name, STATE)
    assert (tmp_path / name).read_bytes() == b"x"


def test_an_unwritable_target(tmp_path: Path) -> None:
    for target in (tmp_path / "absent" / "m.safetensors", tmp_path / "folder.safetensors"):
        if target.name.startswith("folder"):
            target.mkdir()
        with pytest.raises(UsageError, match="can't be written"):
            write_weights(target, STATE)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.safetensors"]


def test_a_failing_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"precious")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("compare.weight_files.save_file", full)
    with pytest.raises(UsageError, match="No space left on device"):
        write_weights(path, STATE)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("m.safetensors", b"precious")]


def test_awkward_arrays(tmp_path: Path) -> None:
    shared = torch.ones(3)
    arrays: dict[str, Any] = {
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "strided": torch.arange(10)[::3],
        "tied": shared,
        "twin": shared,
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 3), np.float32),
        "mask": np.array([True, False]),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    write_weights(tmp_path / "m.safetensors", arrays)
    found = read_weights(tmp_path / "m.safetensors")
    for name, array in arrays.items():
        assert torch.equal(found[name], torch.as_tensor(array)), name
        assert found[name].dtype == torch.as_tensor(array).dtype


def test_others_may_read_what_is_written(tmp_path: Path) -> None:
    write_weights(tmp_path / "m.safetensors", STATE)
    listing = subprocess.run(["ls", "-l", str(tmp_path)], capture_output=True, text=True, check=True).stdout
    assert "-rw-r--r--" in listing
