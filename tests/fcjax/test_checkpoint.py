"""Checkpoints on disk: which are kept, what damage is noticed, what a full disk does."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fcjax.checkpoint import CheckpointError, Checkpoints, Snapshot, named_leaves, restored

RNG = np.random.default_rng(0)


def snapshot(step: int, score: float | None = None) -> Snapshot:
    arrays = {"state.fc1.kernel": RNG.normal(size=(3, 5)).astype(np.float32), "state.step": np.array(step, np.int32)}
    return Snapshot(step, arrays, {"history": [{"loss": 0.1 + step, "r2": [float("nan"), 1e-300]}]}, score)


def unexpected(message: str) -> None:
    raise AssertionError(message)


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir())


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path / "checkpoints")
    assert store.newest(unexpected) is None
    saved = snapshot(7, score=0.25)
    store.save(saved)
    store.wait()
    found = Checkpoints(tmp_path / "checkpoints").newest(unexpected)
    assert found is not None
    assert (found.step, found.score, repr(found.facts)) == (7, 0.25, repr(saved.facts))  # repr: NaN is not itself
    assert found.digest() == saved.digest()
    assert all(found.arrays[name].tobytes() == array.tobytes() for name, array in saved.arrays.items())


def test_the_last_and_the_best_are_kept_and_nothing_else(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, keep=2)
    for step, score in [(1, 0.5), (2, 0.1), (3, None), (4, 0.3), (5, 0.2)]:
        store.save(snapshot(step, score))
    store.wait()
    assert steps(tmp_path) == [2, 4, 5]
    again = Checkpoints(tmp_path, keep=1)  # another process, which learns the scores from the files
    assert again.newest(unexpected).step == 5  # type: ignore[union-attr]
    again.save(snapshot(6, 0.4))
    again.wait()
    assert steps(tmp_path) == [2, 6]


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)


# Orbax leaves a coroutine behind where a file is missing.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
def test_damage_to_any_file_is_noticed_or_does_no_harm(damage: Callable[[Path], Any], tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, keep=9)
    first, last = snapshot(1), snapshot(2)
    for one in (first, last):
        store.save(one)
    store.wait()
    names = [file.relative_to(tmp_path / "000000002") for file in (tmp_path / "000000002").rglob("*") if file.is_file()]
    untouched = {name: (tmp_path / "000000002" / name).read_bytes() for name in names}
    fallen_back = 0
    for name in names:
        if not untouched[name]:
            continue
        damage(tmp_path / "000000002" / name)
        warnings: list[str] = []
        found = Checkpoints(tmp_path).newest(warnings.append)
        assert found is not None
        assert found.digest() == (first if warnings else last).digest(), name
        if warnings:
            fallen_back += 1
            assert "000000002 is damaged and left aside" in warnings[0]
            (tmp_path / "000000002.damaged").rename(tmp_path / "000000002")
        for other, content in untouched.items():
            (tmp_path / "000000002" / other).write_bytes(content)
    assert fallen_back >= 3  # Orbax keeps some files that it does without


def test_changed_numbers_that_still_read_well_are_noticed(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    store.save(snapshot(1))
    store.wait()
    about = tmp_path / "000000001" / "_CHECKPOINT_METADATA"
    about.write_text(about.read_text().replace("1.1", "1.2"))
    warnings: list[str] = []
    assert Checkpoints(tmp_path).newest(warnings.append) is None
    assert "its contents have changed since it was written" in warnings[0]


def test_rests_of_a_killed_process_are_cleared(tmp_path: Path) -> None:
    for rest in ("000000003.orbax-checkpoint-tmp", "000000001.deleted"):
        (tmp_path / rest / "arrays").mkdir(parents=True)
    assert Checkpoints(tmp_path).newest(unexpected) is None
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_error_and_spares_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orbax.checkpoint import v1

    store = Checkpoints(tmp_path, keep=1)
    store.save(snapshot(1))
    store.wait()

    class Full:
        def result(self) -> None:
            raise ValueError('RESOURCE_EXHAUSTED: Error writing "kernel" in OCDBT database\n[lines and lines]')

    with monkeypatch.context() as patched:
        patched.setattr(v1, "save_checkpointables_async", lambda *_, **__: Full())
        store.save(snapshot(2))
        with pytest.raises(CheckpointError) as caught:
            store.save(snapshot(3))
    expected = "the checkpoint of step 2 can't be written (no space left on the device); the last good one is of step 1"
    assert str(caught.value) == f"{tmp_path}: {expected}"
    assert steps(tmp_path) == [1]
    assert Checkpoints(tmp_path).newest(unexpected).step == 1  # type: ignore[union-attr]


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"step 1 can't be written \(.*\); there is none before it"):
        Checkpoints(tmp_path / "file" / "checkpoints").save(snapshot(1))

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CheckpointError, match="Read-only file system"):
        Checkpoints(tmp_path / "checkpoints").save(snapshot(1))


def test_a_tree_of_any_leaves_comes_back() -> None:
    tree: dict[str, Any] = {
        "k": jax.random.key(3),
        "a": (jnp.arange(3, dtype=jnp.bfloat16), jnp.zeros((0, 2))),
        "n": None,
    }
    arrays = named_leaves(tree)
    assert sorted(arrays) == ["a.0", "k"]
    back = restored(tree, arrays)
    assert back.keys() == tree.keys()
    assert back["n"] is None
    np.testing.assert_array_equal(jax.random.key_data(back["k"]), jax.random.key_data(tree["k"]))
    assert back["a"][0].dtype == jnp.bfloat16
    assert back["a"][1].shape == (0, 2)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "kernel: expected in the checkpoint, not found"),
        ({"kernel": np.zeros((5, 3), np.float32)}, r"kernel: expected float32 of shape \(3, 5\), found .* \(5, 3\)"),
        ({"kernel": np.zeros((3, 5))}, "found float64"),
        ({"kernel": np.zeros((3, 5), np.float32), "bias": np.zeros(3)}, "bias: found in the checkpoint, but"),
    ],
)
def test_arrays_of_another_model_are_refused(arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        restored({"kernel": jnp.zeros((3, 5))}, arrays)


def test_processes_that_see_other_checkpoints_rename_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Checkpoints(tmp_path)
    store.save(snapshot(1))
    store.wait()
    monkeypatch.setattr("fcjax.checkpoint.everyone", lambda number: [number, 0])  # process 1 finds it damaged
    with pytest.raises(CheckpointError, match=r"000000001: expected the same in every process, .* all machines share"):
        Checkpoints(tmp_path).newest(unexpected)
    assert steps(tmp_path) == [1]
