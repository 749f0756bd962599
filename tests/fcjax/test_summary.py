"""B2 and B3: shapes and counts in the table, against the formula and by hand."""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from fcjax import layers, models
from fcjax.summary import fully_connected_count, growth_table, parameter_count, summary


def spec(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_three_five_two() -> None:
    table = summary(models.FlaxModel(3, 5, 2, rngs=nnx.Rngs(0)), jnp.ones((4, 3)))
    assert [(r.path, r.type, r.input_shape, r.output_shape, r.parameters) for r in table.rows] == [
        ("layer1", "Linear", (4, 3), (4, 5), 20),
        ("layer2", "Linear", (4, 5), (4, 2), 12),
    ]
    assert table.parameters == 32


def test_the_table_as_text() -> None:
    text = str(summary(models.FlaxModel(3, 5, 2, rngs=nnx.Rngs(0)), spec(4, 3)))
    assert text.splitlines() == [
        "layer   type    input  output  parameters",
        "-----------------------------------------",
        "layer1  Linear  4 x 3  4 x 5           20",
        "layer2  Linear  4 x 5  4 x 2           12",
        "total                                  32",
    ]


Make = Callable[[], nnx.Module]
BY_HAND: dict[str, tuple[Make, tuple[int, ...], int]] = {
    "A3": (lambda: models.MNISTClassifier(rngs=nnx.Rngs(0)), (2, 28, 28), 401_920 + 131_328 + 2_570),
    "A4": (lambda: models.Regressor(8, rngs=nnx.Rngs(0)), (2, 8), 576 + 2_080 + 33),
    "A5, mask not counted": (lambda: layers.SparseLinear(7, 5, rngs=nnx.Rngs(0)), (2, 7), 7 * 5 + 5),
    "A6": (lambda: layers.LowRankLinear(7, 5, 2, rngs=nnx.Rngs(0)), (2, 7), 14 + 10 + 5),
    "A7": (lambda: layers.AdaptiveWidthLinear(7, 5, 9, rngs=nnx.Rngs(0)), (2, 7), 63 + 1),
    "MLP, running statistics and keys not counted": (
        lambda: models.MLP((4, 6, 6, 3), norm="batch", dropout=0.5, rngs=nnx.Rngs(0)),
        (2, 4),
        30 + 12 + 42 + 12 + 21,
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_parameters_by_hand(name: str) -> None:
    make, shape, expected = BY_HAND[name]
    model = make()
    assert parameter_count(model) == expected
    assert summary(model, spec(*shape)).parameters == expected


def test_twin_a_buffer_that_slips_into_the_parameters_is_counted() -> None:
    layer = layers.SparseLinear(7, 5, rngs=nnx.Rngs(0))
    layer.wrong = nnx.Param(jnp.ones((7, 5)))  # type: ignore[attr-defined]
    assert parameter_count(layer) == summary(layer, spec(2, 7)).parameters == 40 + 35


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from([1, 4, 7]), min_size=2, max_size=4))
def test_formula_table_and_state_agree_for_any_sizes(sizes: list[int]) -> None:
    model = models.MLP(sizes, rngs=nnx.Rngs(0))
    table = summary(model, spec(3, sizes[0]))
    assert fully_connected_count(sizes) == parameter_count(model) == table.parameters
    linear = [row for row in table.rows if row.type == "Linear"]
    assert [(r.input_shape, r.output_shape) for r in linear] == [((3, m), (3, n)) for m, n in itertools.pairwise(sizes)]


def test_the_formula_counts_biases() -> None:
    assert fully_connected_count((3, 5, 2)) == 32
    assert fully_connected_count((3, 5, 2)) != 3 * 5 + 5 * 2  # the twin: without them 25


class Odd(nnx.Module):
    """A layer used twice, a tied parameter, one layer never called, and a parameter of the model's own."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.twice = nnx.Linear(4, 4, rngs=rngs)
        self.spare = nnx.Linear(4, 9, rngs=rngs)
        self.tied = nnx.Linear(4, 4, use_bias=False, rngs=rngs)
        self.tied.kernel = self.twice.kernel
        self.scale = nnx.Param(jnp.ones(4))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.tied(self.twice(self.twice(x))) * self.scale[...]


def test_odd_models_are_counted_once_and_completely() -> None:
    model = Odd()
    table = summary(model, spec(2, 4))
    rows = {row.path: row for row in table.rows}
    assert [row.path for row in table.rows] == ["", "twice", "tied", "spare"]
    assert rows["spare"].input_shape is None
    assert rows["spare"].parameters == 45
    assert rows["twice"].parameters + rows["tied"].parameters == 20
    assert rows[""].parameters == 4
    assert table.parameters == parameter_count(model) == 20 + 45 + 4
    assert "-" in str(table).splitlines()[-2].split()


def test_a_call_inherited_from_a_base_class_is_seen() -> None:
    class Child(models.FlaxModel):
        """Nothing of its own."""

    assert [r.path for r in summary(Child(3, 5, 2, rngs=nnx.Rngs(0)), spec(2, 3)).rows] == ["layer1", "layer2"]

    class Narrow(nnx.Linear):
        """Inherits its call."""

    class Holder(nnx.Module):
        def __init__(self) -> None:
            self.only = Narrow(3, 2, rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.only(x)

    (row,) = summary(Holder(), spec(5, 3)).rows
    assert (row.path, row.type, row.output_shape) == ("only", "Narrow", (5, 2))


def test_the_model_and_its_classes_are_left_as_they_were() -> None:
    model = models.MLP((4, 6, 3), norm="batch", dropout=0.5, rngs=nnx.Rngs(0))
    call, before = nnx.Linear.__call__, jax.tree.leaves(nnx.state(model))
    summary(model, spec(2, 4))
    with pytest.raises(ValueError, match=r"layers\.0: expected input of shape \(\.\.\., 4\), found \(2, 5\)"):
        summary(model, spec(2, 5))
    assert nnx.Linear.__call__ is call
    assert not model.dropout.deterministic
    for old, new in zip(before, jax.tree.leaves(nnx.state(model)), strict=True):
        np.testing.assert_array_equal(old, new)


def test_thousands_are_set_apart() -> None:
    assert growth_table(784, 10, [512], [1]).split()[-1] == f"{785 * 512 + 513 * 10:,}" == "407,050"


def test_growth_is_linear_in_depth_and_quadratic_in_width() -> None:
    lines = growth_table(10, 2, widths=(100, 200), depths=(1, 2, 3)).splitlines()
    assert lines[0].split() == ["hidden", "layers", "width", "100", "width", "200"]
    rows = [[int(cell.replace(",", "")) for cell in line.split()] for line in lines[2:]]
    assert rows == [[d, *(fully_connected_count((10, *[w] * d, 2)) for w in (100, 200))] for d in (1, 2, 3)]
    assert rows[2][1] - rows[1][1] == rows[1][1] - rows[0][1] == 100 * 101
    # w (w + 1) parameters in a layer between two hidden ones: 200 * 201 / (100 * 101), which is 4 but for the biases.
    assert (rows[1][2] - rows[0][2]) / (rows[1][1] - rows[0][1]) == 200 * 201 / (100 * 101)
