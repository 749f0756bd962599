"""Splits hold every row once, keep the classes' shares, and never test a class that was not trained on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcjax.datasets import DataError
from fcjax.datasets.splitting import split_rows


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    shares=st.tuples(st.floats(0, 0.45), st.floats(0, 0.45)),
    seed=st.integers(0, 2**63),
)
def test_every_row_once_in_proportion(counts: list[int], shares: tuple[float, float], seed: int) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    free = len(labels) - len(counts)
    validation, test = (int(share * free) for share in shares)
    rows = split_rows(len(labels), validation=validation, test=test, seed=seed, labels=labels)
    assert sorted(np.concatenate(rows)) == list(range(len(labels)))
    assert (len(rows.validation), len(rows.test)) == (validation, test)
    assert set(labels[rows.train]) == set(range(len(counts)))
    tested = np.bincount(labels[rows.test], minlength=len(counts))
    expected = (np.array(counts) - 1) * test / max(free, 1)
    assert (np.abs(tested - expected) <= 1).all()  # an even walk is off by less than one step


def test_the_seed_decides_and_the_file_order_does_not_show() -> None:
    first, again = (split_rows(1000, validation=100, test=200, seed=3) for _ in range(2))
    other = split_rows(1000, validation=100, test=200, seed=4)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first.test != other.test).any()
    # 200 of 1000 rows: the mean row number is 499.5 with a deviation of 18.3 (289/√200, times √0.8).
    assert abs(first.test.mean() - 499.5) < 5 * 18.3
    assert first.test[:6].tolist() == [7, 15, 20, 22, 31, 33]  # the same on every platform and version


def test_neighbours_are_no_likelier_to_share_a_part() -> None:
    """The even walk goes over a shuffled order: a plain walk over the file would test every fifth row."""
    gaps = np.diff(split_rows(5000, validation=0, test=1000, seed=0).test)
    assert (gaps == 1).sum() > 150  # 1000 * 0.2 are expected


@pytest.mark.parametrize(("validation", "test"), [(0, 10), (5, 5), (-1, 2)])
def test_too_few_rows_for_the_parts(validation: int, test: int) -> None:
    with pytest.raises(DataError, match=r"at most 9 rows.*of 10 rows"):
        split_rows(10, validation=validation, test=test)
