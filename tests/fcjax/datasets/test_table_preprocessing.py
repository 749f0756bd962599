"""The same encoding for new files, saved and loaded to the last bit; files of another form are refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcjax.datasets import DataError, Preprocessing, load_table, read_table
from fcjax.datasets.table.encoding import CategoryRule, DateRule, NumberRule
from fcjax.datasets.table.target import TargetRule

names = st.text(min_size=1, max_size=6)
finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=1e-300, max_value=1e300)
number_rules = st.builds(NumberRule, names, finite, finite, positive, st.booleans())
date_rules = st.builds(
    DateRule,
    number_rules,
    st.sampled_from(["day", "month", "open"]),
    st.lists(st.sampled_from(["day", "week", "year"]), unique=True).map(tuple),
)
words = st.lists(names, min_size=2, max_size=5, unique=True).map(tuple)
category_rules = st.builds(CategoryRule, names, words, st.booleans(), st.booleans())
targets = st.one_of(
    st.builds(TargetRule, names, st.just("classification"), words),
    st.builds(TargetRule, names, st.just("regression"), st.just(()), finite, positive),
)
preprocessings = st.builds(
    Preprocessing,
    targets,
    st.lists(number_rules | date_rules | category_rules, max_size=4).map(tuple),
    words,
    st.sampled_from([".", ","]),
    words,
)


@given(preprocessings)
def test_json_gives_back_every_bit(preprocessing: Preprocessing) -> None:
    assert Preprocessing.from_json(preprocessing.to_json()) == preprocessing


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with a number that is sometimes missing, a category, a date and a row number."""
    folder = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(0)
    lines = ["id;area;city;day;rooms;price"]
    for n in range(120):
        area = "" if n % 7 == 0 else f"{rng.normal(120, 30):.3f}"
        city = rng.choice(["Oslo", "Bergen"])
        lines.append(f"{n};{area};{city};2024-01-{1 + n % 28:02d};{rng.integers(1, 6)};{300.5 + 37 * n % 120}")
    (folder / "train.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def fitted(folder: Path) -> Preprocessing:
    return load_table(folder / "train.csv", "price")[1]


def encode(fitted: Preprocessing, folder: Path, text: str) -> np.ndarray:
    (folder / "new.csv").write_text(text)
    return fitted.inputs(fitted.read(folder / "new.csv"))


ROW = "area;city;day;rooms\n131.250;Oslo;2024-02-01;3"


def test_a_file_goes_through_as_it_did_in_training(fitted: Preprocessing, folder: Path) -> None:
    data, again = load_table(folder / "train.csv", "price")
    assert again == fitted
    table = fitted.read(folder / "train.csv")
    inputs, prices = fitted.inputs(table), fitted.targets(table)
    by_price = {float(price): row for price, row in zip(prices[:, 0], inputs, strict=True)}
    for part in data.parts().values():
        np.testing.assert_array_equal(part.inputs, [by_price[float(price)] for price in part.targets[:, 0]])


def test_saved_and_loaded_it_encodes_alike(fitted: Preprocessing, folder: Path) -> None:
    fitted.save(folder / "preprocessing.json")
    loaded = Preprocessing.load(folder / "preprocessing.json")
    assert loaded == fitted
    np.testing.assert_array_equal(encode(loaded, folder, ROW), encode(fitted, folder, ROW))
    scaling = loaded.target.scaling
    assert scaling is not None
    assert scaling.mean.shape == (1,)


def test_one_new_row_by_hand(fitted: Preprocessing, folder: Path) -> None:
    area, _, day, rooms = fitted.rules
    assert isinstance(area, NumberRule)
    assert isinstance(day, DateRule)
    assert isinstance(rooms, NumberRule)
    week = ("day, sine of the week", "day, cosine of the week")
    assert fitted.features == ("area", "area is missing", "city=Bergen", "city=Oslo", "day", *week, "rooms")
    place = 2 * np.pi * (19754 % 7) / 7  # 2024-02-01
    days = [(19754 - day.number.mean) / day.number.std, np.sin(place), np.cos(place)]
    z = [(131.25 - area.mean) / area.std, 0, 0, 1, *days, (3 - rooms.mean) / rooms.std]
    np.testing.assert_allclose(encode(fitted, folder, ROW), [z], rtol=1e-6)  # float32


def test_a_single_row_is_read_with_the_decimal_mark_of_the_training_file(fitted: Preprocessing, folder: Path) -> None:
    """131.250 alone, between semicolons, could be 131250; the training file had points."""
    (folder / "new.csv").write_text(ROW)
    right, wrong = fitted.read(folder / "new.csv"), read_table(folder / "new.csv")
    assert right.columns["area"].numbers == [131.25]
    assert wrong.columns["area"].numbers == [131250]  # the twin


def test_columns_in_another_order_and_others_besides(fitted: Preprocessing, folder: Path) -> None:
    other = "garden;rooms;day;city;area\nyes;3;2024-02-01;Oslo;131.250"
    np.testing.assert_array_equal(encode(fitted, folder, other), encode(fitted, folder, ROW))


def test_unseen_and_missing_values(fitted: Preprocessing, folder: Path) -> None:
    unseen = encode(fitted, folder, ROW.replace("Oslo", "Paris").replace("131.250", "?"))[0]
    area = fitted.rules[0]
    assert isinstance(area, NumberRule)
    assert unseen[0] == np.float32((area.fill - area.mean) / area.std)
    assert unseen[1] == 1
    assert unseen[2:4].tolist() == [0, 0]  # no weight that was never trained


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("area;rooms\n1;2", "expected columns 'city', 'day', found 'area', 'rooms'"),
        (ROW + "\nbig;Oslo;2024-02-01;3", "new.csv, line 3, area: expected a number, found 'big'"),
        (ROW.replace("2024-02-01", "tomorrow"), "line 2, day: expected a date as 2024-05-31, found 'tomorrow'"),
        (ROW.replace("2024-02-01", "7"), "line 2, day: expected a date as 2024-05-31, found '7'"),
        (ROW.replace("131.250", "2024-02-01"), "line 2, area: expected a number, found '2024-02-01'"),
        (ROW.replace("131.250", "inf"), "line 2, area: expected a finite number, found inf"),
        (ROW.replace("131.250", "1e300"), r"line 2, area: 1e\+300 is too far from the training data"),
    ],
)
def test_new_files_that_do_not_fit(fitted: Preprocessing, folder: Path, text: str, message: str) -> None:
    encode(fitted, folder, ROW)
    with pytest.raises(DataError, match=message):
        encode(fitted, folder, text)


def test_targets_of_a_new_file(folder: Path) -> None:
    fitted = load_table(folder / "train.csv", "city")[1]
    (folder / "new.csv").write_text("city\nOslo\nBergen\n")
    assert fitted.targets(fitted.read(folder / "new.csv")).tolist() == [1, 0]
    for city, message in (
        ("Paris", "expected one of 2 classes .*found 'Paris'"),
        ("?", "expected a target, found none"),
    ):
        (folder / "new.csv").write_text(f"city\nOslo\n{city}\n")
        with pytest.raises(DataError, match=f"line 3, city: {message}"):
            fitted.targets(fitted.read(folder / "new.csv"))


def changed(fitted: Preprocessing, *path: str | int, to: Any) -> str:
    record = json.loads(fitted.to_json())
    place = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return json.dumps(record)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), "another", "expected a file of the format 'fcjax preprocessing 2', found another"),
        (("extra",), 1, r"expected the fields \['mark', .*'extra'"),
        (("mark",), ";", "mark: expected .*found ';'"),
        (("rules",), {}, "rules: expected a list, found dict"),
        (("rules", 0), 7, r"rules\[0\]: expected kind number or date or category, found None"),
        (("rules", 0, "kind"), "pickle", "expected kind number or date or category, found 'pickle'"),
        (("rules", 0, "mean"), "0", r"rules\[0\], mean: expected float, found '0'"),
        (("rules", 0, "mean"), True, r"rules\[0\], mean: expected float, found True"),
        (("rules", 0, "mean"), float("nan"), "area: expected finite numbers and a positive std"),
        (("rules", 0, "std"), 0, "area: expected finite numbers and a positive std"),
        (("rules", 1, "categories"), ["Oslo", "Oslo"], "city: expected every category once"),
        (("rules", 1, "categories"), "Oslo", r"rules\[1\], categories: expected"),
        (("rules", 1, "other"), 1, r"rules\[1\], other: expected bool, found 1"),
        (("rules", 2, "number"), None, r"rules\[2\], number: expected the fields"),
        (("rules", 2, "cycles"), ["month"], r"rules\[2\], cycles: expected"),
        (("rules", 2, "slashes"), None, r"rules\[2\], slashes: expected"),
        (("target",), None, "target: expected the fields .*found NoneType"),
        (("target", "task"), "ranking", "target, task: expected"),
        (("target", "classes"), ["a", "b"], "expected different classes in classification only"),
        (("target", "std"), -1.0, "expected a finite mean and a positive, finite std"),
    ],
)
def test_a_changed_file_is_refused(fitted: Preprocessing, path: tuple[Any, ...], value: Any, message: str) -> None:
    assert Preprocessing.from_json(fitted.to_json()) == fitted
    with pytest.raises(DataError, match=message):
        Preprocessing.from_json(changed(fitted, *path, to=value))


@given(st.text(max_size=40))
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(DataError):
        Preprocessing.from_json(text)


def test_files_that_cant_be_read(folder: Path) -> None:
    (folder / "bytes").write_bytes(b"\xff\xfe\xfd")
    for name in ("none", "bytes"):
        with pytest.raises(DataError, match=f"{name}: can't be read"):
            Preprocessing.load(folder / name)


def test_equal_only_if_all_is_equal(fitted: Preprocessing) -> None:
    """Equality is what the round trip rests on: it must see the last bit."""
    area = fitted.rules[0]
    assert isinstance(area, NumberRule)
    nudged = dataclasses.replace(area, mean=float(np.nextafter(area.mean, np.inf)))
    assert dataclasses.replace(fitted, rules=(nudged, *fitted.rules[1:])) != fitted
