import numpy as np
import pytest
from scipy.linalg import sqrtm

from asymtalker.evaluate.measure.frechet import bootstrap, frechet_distance, square_root, statistics


def textbook(first: np.ndarray, second: np.ndarray) -> float:
    """The formula as it is written down, with a general matrix root."""
    one, other = (np.cov(features, rowvar=False) for features in (first, second))
    root = np.real(sqrtm(one @ other))
    return float(((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(one + other - 2 * root))


@pytest.mark.parametrize(("count", "dimensions"), [(200, 8), (60, 24), (10, 24)])
def test_frechet_distance_is_the_textbook_formula(count: int, dimensions: int) -> None:
    rng = np.random.default_rng(count)
    mixing = rng.normal(size=(dimensions, dimensions))
    features = rng.normal(size=(count, dimensions)) @ mixing + 1
    reference = rng.normal(size=(300, dimensions))
    # the general root of a singular product is only accurate to about the root of the rounding error
    assert frechet_distance(features, statistics(reference)) == pytest.approx(textbook(features, reference), rel=1e-5)


def test_frechet_distance_of_gaussians_known_in_closed_form() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(200_000, 3))
    shifted = 2 * rng.normal(size=(200_000, 3)) + np.array([1.0, 0, 0])
    assert frechet_distance(shifted, statistics(reference)) == pytest.approx(1 + 3 * (2 - 1) ** 2, rel=0.02)


def test_frechet_distance_of_a_set_from_itself_is_nothing() -> None:
    features = np.random.default_rng(1).normal(size=(50, 12))
    assert frechet_distance(features, statistics(features)) == pytest.approx(0, abs=1e-6)


def test_square_root_squares_to_the_covariance_even_where_it_is_singular() -> None:
    covariance = statistics(np.random.default_rng(2).normal(size=(5, 9))).covariance
    root = square_root(covariance)
    np.testing.assert_allclose(root @ root, covariance, atol=1e-12)


def test_bootstrap_interval_covers_the_truth_and_narrows_with_more_clips() -> None:
    rng = np.random.default_rng(3)
    reference = statistics(rng.normal(size=(20_000, 4)))
    # clips differ by a common shift of variance 0.09: variance 1 + 4 x 0.09 along (1, 1, 1, 1), 1 elsewhere
    truth = 1 + (np.sqrt(1 + 4 * 0.09) - 1) ** 2

    def measured(clips: int):
        return bootstrap(
            [rng.normal(size=(20, 4)) + [1, 0, 0, 0] + 0.3 * rng.normal() for _ in range(clips)], reference
        )

    several = [measured(40) for _ in range(40)]
    assert sum(distance.low < truth < distance.high for distance in several) >= 32
    few, many = measured(8), measured(200)
    assert few.high - few.low > 2 * (many.high - many.low)
    assert (many.samples, many.reference_samples) == (4000, 20_000)


def test_bootstrap_of_one_clip_has_no_interval_and_one_sample_no_distance() -> None:
    rng = np.random.default_rng(4)
    reference = statistics(rng.normal(size=(100, 4)))
    assert np.isnan(bootstrap([rng.normal(size=(20, 4))], reference).low)
    with pytest.raises(ValueError, match="two samples"):
        frechet_distance(np.zeros((1, 4)), reference)
