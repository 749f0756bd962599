"""Statistics of layers by hand, and the pictures of a run: what is drawn, not only that it is."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fcjax import plots
from fcjax.cli import main
from fcjax.diagnostics import layer_activations, layer_statistics, statistics_table
from fcjax.models import MLP

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype(np.float32)
PNG = b"\x89PNG\r\n\x1a\n"


def by_hand(activation: str) -> tuple[MLP, np.ndarray, np.ndarray]:
    """A net 3-5-2 and what its first layer gives, before and after the activation function."""
    model = MLP((3, 5, 2), activation, dropout=0.5, rngs=nnx.Rngs(0))
    layer = model.layers[0]
    assert layer.bias is not None
    kernel = 4 * np.asarray(layer.kernel[...])
    bias = np.array([0.1, -0.2, 0.3, -50.0, 0.5], np.float32)  # the fourth unit is dead in a ReLU net
    nnx.update(layer, {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)})
    before = X @ kernel + bias
    after = {"relu": np.maximum(before, 0), "tanh": np.tanh(before), "sigmoid": 1 / (1 + np.exp(-before))}
    return model, before, after[activation]


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_statistics_are_those_of_the_forward_pass(activation: str) -> None:
    model, before, after = by_hand(activation)
    first, last = layer_activations(model, jnp.asarray(X))
    assert (first.path, last.path) == ("layers.0", "layers.1")
    np.testing.assert_allclose(first.before, before, rtol=0, atol=1e-4)  # float32 sums of size 50
    np.testing.assert_allclose(first.after, after, rtol=0, atol=1e-5)
    assert np.abs(first.before - after).max() > 0.1
    np.testing.assert_array_equal(last.after, last.before)
    row = layer_statistics([first])[0]
    np.testing.assert_allclose([row.mean, row.std], [before.mean(), before.std()], rtol=1e-4)
    if activation == "relu":
        assert row.zeros == pytest.approx((after == 0).mean())
        assert (row.dead, row.saturated) == (pytest.approx(0.2), 0.0)
    else:
        low = -1 if activation == "tanh" else 0
        expected = ((after > 0.99) | (after < low + 0.01)).mean()
        assert row.saturated == pytest.approx(expected, abs=0.006)  # one of 200 values may lie at the bound
        assert row.saturated >= 0.2
    assert f"{row.path:<16}" in statistics_table([row])


def test_watching_leaves_no_trace() -> None:
    model, _, _ = by_hand("relu")
    call = nnx.Linear.__call__
    layer_activations(model, jnp.asarray(X))
    assert nnx.Linear.__call__ is call
    with pytest.raises(ValueError, match=r"layers\.0"):
        layer_activations(model, jnp.asarray(X[:, :2]))
    assert nnx.Linear.__call__ is call


class Drawn:
    """What a figure shows when it is saved, instead of a file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.figures: list[plots.Figure] = []
        monkeypatch.setattr(plots.Figure, "savefig", lambda figure, *_, **__: self.figures.append(figure))


def test_what_the_pictures_show(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, file = Drawn(monkeypatch), Path("never.png")
    kernel = RNG.normal(size=(4, 7))
    plots.weight_heatmap(kernel, "fc1", file)
    axes, bar = drawn.figures[-1].axes
    image = axes.images[0]
    np.testing.assert_array_equal(image.get_array(), kernel.T)
    assert image.get_cmap().name == "coolwarm"
    assert image.get_clim() == (-np.abs(kernel).max(), np.abs(kernel).max())
    assert bar.get_ylabel() == "weight"

    model, _, _ = by_hand("relu")
    plots.activation_histogram(layer_activations(model, jnp.asarray(X)), file)
    assert [len(axes.containers[0]) for axes in drawn.figures[-1].axes] == [50, 50]
    assert [axes.get_title() for axes in drawn.figures[-1].axes] == ["layers.0", "layers.1"]

    truth, predicted = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 2, 0])
    plots.confusion_matrix(truth, predicted, ("a", "b", "c"), file)
    axes = drawn.figures[-1].axes[0]
    found = {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in axes.texts}
    assert found == {(0, 0): "1", (0, 1): "1", (1, 1): "1", (2, 2): "2", (2, 0): "1"}  # (true, predicted)
    assert axes.get_title() == "Test set: 66.67 % right"

    values = np.array([[1.0], [2.0], [4.0]])
    plots.predicted_against_true(values, values + np.array([[1.0], [-1.0], [1.0]]), file)
    assert drawn.figures[-1].axes[0].get_title() == "Test set: RMSE 1"

    test = {"loss": [1.0, 1.0], "rmse": [5.0, 7.0]}
    train = [{"loss": [1 / k, 2 / k], "rmse": [1.0, 3.0]} for k in (1, 2)]
    entries = [{"epoch": k, "train": train[k - 1], "test": test} for k in (1, 2)]
    plots.curves(entries, file)
    loss, rmse = drawn.figures[-1].axes
    assert np.asarray(loss.lines[0].get_ydata()).tolist() == [1.5, 0.75]  # the mean of the replicas
    assert (loss.get_ylabel(), rmse.get_ylabel()) == ("loss", "RMSE")
    assert np.asarray(rmse.lines[1].get_ydata()).tolist() == [6.0, 6.0]


def test_inspect_writes_all_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--no-cache", "--devices", "1", "--batch-size", "200", "--epochs", "2", "--run-dir", str(tmp_path / "run")]
    main(["train", "housing", *flags])
    capsys.readouterr()
    main(["inspect", str(tmp_path / "run"), "--out", str(tmp_path / "pictures")])
    out = capsys.readouterr().out
    names = ["weights-fc1", "weights-fc2", "weights-fc3", "activations", "curves", "predicted-against-true"]
    for name in names:
        file = tmp_path / "pictures" / f"{name}.png"
        assert file.read_bytes().startswith(PNG)
        assert str(file) in out
    assert len(list((tmp_path / "pictures").iterdir())) == len(names)
    assert "Regressor" in out or "fc1" in out
    assert "saturated" in out
