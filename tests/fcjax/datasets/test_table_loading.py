"""From a file to a learning task: splits, fitted on training rows alone, and every slip named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcjax.datasets import DataError, Dataset, Preprocessing, Split, load_table

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes columns as CSV; None is left blank."""

    def write(**columns: Any) -> Path:
        rows = zip(*columns.values(), strict=True)
        lines = [",".join(columns), *(",".join("" if cell is None else str(cell) for cell in row) for row in rows)]
        file = tmp_path / "houses.csv"
        file.write_text("\n".join(lines))
        return file

    return write


N = 200
RNG = np.random.default_rng(0)
AREA = np.round(RNG.normal(120, 30, N), 2).tolist()
PRICE = np.round(RNG.normal(300, 50, N), 2).tolist()
CITY = RNG.choice(["Oslo", "Bergen", "Tromsø"], N, p=[0.6, 0.3, 0.1]).tolist()


def everything(dataset: Dataset) -> Split:
    parts = dataset.parts().values()
    return Split(
        np.concatenate([part.inputs for part in parts]), np.concatenate([part.targets for part in parts])
    )  # (rows, features), (rows, ...)


def column(dataset: Dataset, preprocessing: Preprocessing, feature: str) -> np.ndarray:
    return everything(dataset).inputs[:, preprocessing.features.index(feature)]


def test_a_regression(write: Write) -> None:
    data, preprocessing = load_table(write(area=AREA, city=CITY, price=PRICE), "price")
    assert (data.name, data.task, data.classes, data.noise_floor) == ("houses", "regression", None, None)
    assert {name: len(part) for name, part in data.parts().items()} == {"train": 140, "validation": 30, "test": 30}
    assert preprocessing.features == ("area", "city=Bergen", "city=Oslo", "city=Tromsø")
    assert sorted(everything(data).targets[:, 0]) == sorted(np.array(PRICE, np.float32))  # in their own unit
    assert data.input_scaling is None
    assert data.target_scaling is not None
    z = data.target_scaling.apply(data.train.targets)
    # Each of some 140 float32 numbers of size 1 is rounded by at most 6e-8; so is their mean, and NumPy sums pairwise.
    assert z.mean() == pytest.approx(0, abs=1e-6)
    assert z.std() == pytest.approx(1, rel=1e-6)


def test_every_row_keeps_its_target(write: Write) -> None:
    """A row's inputs and target must not be shuffled apart."""
    data, preprocessing = load_table(write(area=AREA, price=[2 * area + 1 for area in AREA]), "price")
    rule = preprocessing.rules[0]
    for part in data.parts().values():
        area = part.inputs[:, 0] * rule.std + rule.mean  # type: ignore[union-attr]
        np.testing.assert_allclose(
            part.targets[:, 0], 2 * area + 1, rtol=1e-6
        )  # stored and multiplied in float32: three roundings


def test_scales_medians_and_categories_come_from_the_training_rows_alone(write: Write) -> None:
    file = write(area=AREA, city=CITY, price=PRICE)
    data, preprocessing = load_table(file, "price")
    assert data.train.inputs[:, 0].mean() == pytest.approx(0, abs=1e-6)  # float32, as above
    assert data.train.inputs[:, 0].std() == pytest.approx(1, rel=1e-6)
    assert abs(everything(data).inputs[:, 0].mean()) > 1e-3  # the twin: not fitted on all rows
    # Whatever stands in the test rows, the preprocessing stays the same.
    tested = set(data.test.targets[:, 0].tolist())
    far = [1e6 if np.float32(price) in tested else area for area, price in zip(AREA, PRICE, strict=True)]
    odd = ["Paris" if np.float32(price) in tested else city for city, price in zip(CITY, PRICE, strict=True)]
    assert load_table(write(area=far, city=odd, price=PRICE), "price")[1] == preprocessing


def test_a_classification_is_stratified(write: Write) -> None:
    data, preprocessing = load_table(write(area=AREA, price=PRICE, city=CITY), "city", validation=0.2, test=0.3)
    assert (data.task, data.classes, data.target_scaling) == ("classification", 3, None)
    assert preprocessing.target.classes == ("Bergen", "Oslo", "Tromsø")
    counts = np.array([CITY.count(city) for city in preprocessing.target.classes])
    for name, share in (("test", 0.3), ("validation", 0.2), ("train", 0.5)):
        found = np.bincount(data.parts()[name].targets, minlength=3)
        assert (np.abs(found - share * counts) <= 2).all()  # an even walk, twice, each off by less than a row


def test_the_seed_decides(write: Write) -> None:
    file = write(area=AREA, price=PRICE)
    first, again, other = (load_table(file, "price", seed=seed)[0] for seed in (1, 1, 2))
    assert (first.test.inputs == again.test.inputs).all()
    assert (first.test.targets != other.test.targets).any()


def test_without_validation(write: Write) -> None:
    data, _ = load_table(write(area=AREA, price=PRICE), "price", validation=0, test=0.25)
    assert (data.validation, len(data.train), len(data.test)) == (None, 150, 50)


@pytest.mark.parametrize(
    ("target", "task", "classes"),
    [
        (CITY, "classification", 3),
        (["true", "FALSE"] * (N // 2), "classification", 2),
        ([3, 10, 5, 4] * (N // 4), "classification", 4),
        ([n % 20 for n in range(N)], "classification", 20),
        ([n % 21 for n in range(N)], "regression", None),
        ([0.5, 1.5] * (N // 2), "regression", None),
        (PRICE, "regression", None),
    ],
)
def test_the_task_is_found_from_the_target(write: Write, target: list[Any], task: str, classes: int | None) -> None:
    data, preprocessing = load_table(write(area=AREA, y=target), "y")
    assert (data.task, data.classes) == (task, classes)
    assert preprocessing.notes[0].startswith(f"y: {task}")


def test_the_task_can_be_set_and_numbers_are_ordered_as_numbers(write: Write) -> None:
    grades = [10, 9, 3, 4.0] * (N // 4)
    assert load_table(write(area=AREA, y=grades), "y", task="regression")[0].task == "regression"
    assert load_table(write(area=AREA, y=grades), "y")[1].target.classes == ("3", "4", "9", "10")
    halves = [0.5, 1.5] * (N // 2)
    assert load_table(write(area=AREA, y=halves), "y", task="classification")[1].target.classes == ("0.5", "1.5")


def test_missing_numbers_get_the_training_median_and_a_mark(write: Write) -> None:
    area = [None if n % 4 == 0 else 1000.0 if n % 9 == 0 else float(n) for n in range(N)]
    data, preprocessing = load_table(write(area=area, y=range(N)), "y")
    rule = preprocessing.rules[0]
    assert preprocessing.features == ("area", "area is missing")
    known = [area[int(row)] for row in data.train.targets[:, 0] if area[int(row)] is not None]
    assert rule.fill == np.median(known) != np.mean(known)  # type: ignore[union-attr,arg-type]
    both = everything(data)
    absent = both.targets[:, 0] % 4 == 0
    np.testing.assert_array_equal(both.inputs[:, 1], absent)
    fill = (rule.fill - rule.mean) / rule.std  # type: ignore[union-attr]
    np.testing.assert_allclose(
        both.inputs[absent, 0], fill, rtol=1e-6
    )  # stored in float32, and computed there once more


def test_rare_values_share_one_input_and_missing_ones_another(write: Write) -> None:
    street = [None if n % 10 == 0 else "Main" if n % 3 else f"street {n}" for n in range(N)]
    data, preprocessing = load_table(write(street=street, y=range(N)), "y")
    assert preprocessing.features == ("street=Main", "street=(other)", "street=(missing)")
    rows = everything(data).targets[:, 0].astype(int)
    expected = [[street[n] == "Main", street[n] not in ("Main", None), street[n] is None] for n in rows]
    np.testing.assert_array_equal(everything(data).inputs, expected)


def test_thousands_of_categories_stay_bounded(write: Write) -> None:
    n = 20_000
    names = [f"c{int(value)}" for value in np.random.default_rng(0).zipf(1.3, n) % 5000]
    _, preprocessing = load_table(write(name=names, y=range(n)), "y")
    assert len(preprocessing.features) == 65
    assert {"name=c1", "name=c2", "name=(other)"} < set(preprocessing.features)


def test_codes_are_text_when_asked(write: Write) -> None:
    file = write(zip=["0150", "5003"] * (N // 2), area=AREA, price=PRICE)
    assert load_table(file, "price")[1].features == ("zip", "area")
    assert load_table(file, "price", categorical=["zip"])[1].features == ("zip=0150", "zip=5003", "area")


def test_what_says_nothing_is_left_out_with_a_note(write: Write) -> None:
    file = write(
        id=range(1, N + 1),
        index=range(N),
        year=[2024] * N,
        country=["NO"] * N,
        blank=[None] * N,
        name=[f"house {n}" for n in range(N)],
        area=AREA,
        price=[None if n % 10 == 0 else price for n, price in enumerate(PRICE)],
    )
    data, preprocessing = load_table(file, "price")
    assert preprocessing.features == ("area",)
    assert sum(map(len, data.parts().values())) == 180
    for start, note in zip(
        ("id: left out, it only counts", "index: left out, it only counts", "price: 20 of 200 rows have none"),
        preprocessing.notes,
        strict=False,
    ):
        assert note.startswith(start)
    rest = "; ".join(preprocessing.notes[4:])
    assert "year: left out, it is 2024 in every training row" in rest
    assert "country: left out, it is 'NO' in every training row" in rest
    assert "blank: left out" in rest
    assert "name: left out, no value of it is in 5 training rows ('house " in rest


def test_large_numbers_with_small_differences_keep_them(write: Write) -> None:
    """Seconds since 1970: float32 alone would round them to steps of 128 s before the mean is taken off."""
    seconds = [1_700_000_000 + n * n % 977 for n in range(N)]
    data, _ = load_table(write(t=seconds, y=range(N)), "y")
    assert len(np.unique(everything(data).inputs[:, 0])) == len(set(seconds))
    assert len(np.unique(np.array(seconds, np.float32))) < 20  # the twin


def table(**changes: Any) -> dict[str, Any]:
    return {"area": AREA, "price": PRICE} | changes


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (table(), {"target": "prize"}, "expected column 'prize', found 'area', 'price'"),
        (table(), {"categorical": ["x"], "ignore": ["y"]}, "expected columns 'x', 'y', found 'area', 'price'"),
        (table(), {"ignore": ["price"]}, "the target 'price' can't be ignored"),
        (table(), {"ignore": ["area"]}, "expected a column to predict from, found none of use"),
        (table(area=[7] * N), {}, "found none of use .*it is 7 in every training row"),
        (table(price=[5] * N), {"task": "regression"}, "price: expected a target that varies, found 5 in every row"),
        (table(price=["a"] * N), {}, "expected a target that varies, found 'a' in every row"),
        (table(price=[1e9 + n / 1e4 for n in range(N)]), {}, "float32 can't tell its training values apart"),
        (table(price=CITY), {"task": "regression"}, "line 2, price: expected a number, found '"),
        (table(price=[*PRICE[1:], "sold"]), {"task": "regression"}, "line 201, price: expected a number, found 'sold'"),
        (table(price=[*PRICE[1:], "sold"]), {}, "price: expected classes, found .* is it an identifier"),
        (table(price=[None] * N), {}, "price: expected a target, found none in any row"),
        (table(price=["inf", *PRICE[1:]]), {}, "line 2, price: expected a finite number, found inf"),
        (table(price=["1e39", *PRICE[1:]]), {}, "line 2, price: expected a number that float32 can hold"),
        (table(area=[*AREA[1:], "-inf"]), {}, "line 201, area: expected a finite number, found -inf"),
        (table(area=[*AREA[2:], "1e308", "-1e308"]), {"seed": 3}, "area: .*too large|too far"),
        (table(area=[*AREA[2:], "12 m2", "about 9"]), {}, "found mixtures: area \\('12 m2' in line 200\\)"),
        (table(area=[*AREA[1:], "x"], b=["y", *AREA[1:]]), {}, "area \\('x' in line 201\\); b \\('y' in line 2\\)"),
        (table(), {"test": 0}, "expected test > 0 and validation"),
        (table(), {"test": 0.5, "validation": 0.5}, "expected test > 0 and validation"),
        ({"area": [1, 2], "price": [0.5, 1.5]}, {}, "expected at least 10 rows with a target, found 2"),
    ],
)  # fmt: skip
def test_each_slip_is_named(write: Write, columns: dict[str, Any], options: dict[str, Any], message: str) -> None:
    file = write(**columns)
    with pytest.raises(DataError, match=message):
        load_table(file, **{"target": "price"} | options)


def test_a_mark_of_a_missing_entry_can_be_named(write: Write) -> None:
    file = write(area=[*AREA[1:], "unknown"], price=PRICE)
    with pytest.raises(DataError, match="found mixtures: area \\('unknown' in line 201\\)"):
        load_table(file, "price")
    _, preprocessing = load_table(file, "price", missing=["unknown"])
    assert preprocessing.rules[0].name == "area"
