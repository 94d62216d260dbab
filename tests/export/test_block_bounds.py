"""How far a value may be from its source: what the encoder makes lies within, the smallest lie does not."""

import numpy as np
import pytest

from dca_export.export.verify.block_bounds import FORMATS, allowed_error
from dca_runtime import blocks

KINDS = sorted(FORMATS, key=lambda kind: kind.name)


def made_up() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    shape = (64, 1024)
    normal = random.standard_normal(shape)
    return {
        "normal": normal,
        "tiny": normal * 1e-6,
        "heavy tails": random.standard_t(2, shape),
        "uniform": random.uniform(-1, 1, shape),
        "positive": random.uniform(0, 1, shape),
        "far from 0": 5 + 0.1 * normal,
        "far below 0": -5 + 0.1 * normal,
        "sparse": np.where(random.random(shape) < 0.97, 0, normal),
        "of two sizes": normal * np.repeat(10.0 ** random.uniform(-4, 0, (64, 64)), 16, axis=1),
        "signs": np.sign(normal),
        "zero": np.zeros(shape),
    }


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", made_up())
def test_what_the_encoder_makes_is_within(kind, name):
    values = made_up()[name].astype(np.float32)
    error = np.abs(blocks.decode(kind, blocks.encode(kind, values)).astype(np.float64) - values)
    assert np.all(error <= allowed_error(kind, values))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_large_values_of_the_wrong_sign_are_not(kind):
    values = made_up()["normal"].astype(np.float32)
    large = np.abs(values) > 2  # Q2_K has steps of about 1.5
    assert np.all(2 * np.abs(values)[large] > allowed_error(kind, values)[large])
