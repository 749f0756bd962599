"""Synthetic houses: a price for every feature, and noise of known size, so that the best reachable error is known."""

import numpy as np
from numpy.typing import NDArray

from fcjax.datasets.dataset import Dataset, Scaling, Split

__all__ = ["FEATURES", "NOISE", "fair_price", "load_housing"]

FEATURES = ("area", "rooms", "bathrooms", "lot", "age", "distance", "school", "garage")

NOISE = 20.0
"""Standard deviation of what the features don't explain, in $1,000."""

ROWS = {"train": 16_384, "validation": 2_048, "test": 4_096}


def fair_price(houses: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the features of a house are worth, in $1,000.

    ``area p(distance) w(age) + 6 rooms + 14 bathrooms + 30 √lot + 8 (school - 5) + 16 garage (1 + school/10) + 40``

    with the price of a square metre ``p = 0.9 + 1.4 exp(-distance/8)``, which falls towards the outskirts, and the wear
    ``w = 0.7 + 0.3 exp(-age/30)``.

    Args:
        houses: shape ``(n, 8)``, columns as ``FEATURES``: living area in m², rooms, bathrooms, lot in 1,000 m², age in
            years, distance to the centre in km, school rating 0 to 10, garage 0 or 1.

    Returns:
        Shape ``(n,)``.
    """
    area, rooms, bathrooms, lot, age, distance, school, garage = houses.T
    metre = 0.9 + 1.4 * np.exp(-distance / 8)
    wear = 0.7 + 0.3 * np.exp(-age / 30)
    comfort = 6 * rooms + 14 * bathrooms + 30 * np.sqrt(lot)
    return area * metre * wear + comfort + 8 * (school - 5) + 16 * garage * (1 + school / 10) + 40


def load_housing(seed: int = 0) -> Dataset:
    """Draws houses and their prices, ``price = fair_price(house) + N(0, NOISE²)``.

    No predictor does better than ``fair_price``, whose expected squared error is the noise's variance: ``noise_floor``
    is ``NOISE``. On a test part of n rows the error of this best predictor spreads around it by ``NOISE / √(2n)``,
    1.1 % for the 4,096 rows here.

    Args:
        seed: of the draw; each part has its own stream.

    Returns:
        Regression with 8 float32 features; targets in $1,000.
    """
    streams = np.random.SeedSequence(seed).spawn(len(ROWS))
    train, validation, test = (_draw(rows, stream) for rows, stream in zip(ROWS.values(), streams, strict=True))
    return Dataset(
        name="housing",
        task="regression",
        train=train,
        validation=validation,
        test=test,
        input_scaling=Scaling.fit(train.inputs),
        target_scaling=Scaling.fit(train.targets),
        noise_floor=NOISE,
    )


def _draw(n: int, stream: np.random.SeedSequence) -> Split:
    rng = np.random.Generator(np.random.PCG64(stream))
    area = np.clip(120 * np.exp(0.35 * rng.standard_normal(n)), 30, 400)
    # Bigger houses have more rooms: the features are correlated, as real ones are.
    rooms = np.clip(np.rint(area / 28 + rng.standard_normal(n)), 1, 12)
    bathrooms = np.clip(np.rint(rooms / 2.5 + 0.5 * rng.standard_normal(n)), 1, 5)
    distance = np.minimum(-9 * np.log1p(-rng.random(n)), 40)
    lot = 0.2 + 0.05 * distance * rng.random(n)
    age = 90 * rng.random(n) ** 1.5
    school = 10 * rng.random(n)
    garage = np.floor(rng.random(n) + 0.6)
    houses = np.stack([area, rooms, bathrooms, lot, age, distance, school, garage], axis=1)
    price = fair_price(houses) + NOISE * rng.standard_normal(n)
    return Split(houses.astype(np.float32), price.astype(np.float32)[:, None])
