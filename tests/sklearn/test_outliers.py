"""VAEOutlierDetector: scikit-learn's checks, its scores against `score`, and what its threshold promises."""

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from pyro_vae import score
from pyro_vae.errors import DataError, UsageError
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.sklearn import VAEOutlierDetector
from pyro_vae.sklearn.outliers import USABLE
from tests.sklearn.test_transformer import FAILING, SMALL


@parametrize_with_checks([VAEOutlierDetector(**SMALL, contamination=0.1)], expected_failed_checks=lambda _: FAILING)
def test_scikit_learn_s_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(150, 4)) * [1, 2, 3, 4]


@pytest.mark.parametrize("method", ["evidence", "elbo", "reconstruction", "rate"])
def test_scores_are_those_of_the_package(x, method):
    detector = VAEOutlierDetector(**SMALL, method=method, random_state=0).fit(x)
    expected = score(detector.vae_, detector._tensor(x), method, num_particles=10, seed=detector.seed_)
    np.testing.assert_array_equal(detector.score_samples(x), -expected.values.numpy())
    np.testing.assert_array_equal(detector.predict(x), np.where(detector.threshold_.alarms(expected), -1, 1))


def test_options_of_a_method(x):
    """A background model that is the model itself makes every ratio 0; the regret takes the fields of its search."""
    settings = {**SMALL, "contamination": 0.5, "random_state": 0}
    detector = VAEOutlierDetector(**settings).fit(x)
    ratio = VAEOutlierDetector(**settings, method="ratio", score_options={"background": detector.vae_})
    np.testing.assert_allclose(ratio.fit(x).score_samples(x), 0, atol=1e-4)
    few = {"max_steps": 1, "particles": 2, "selection": 4, "num_particles": 4}
    regret = VAEOutlierDetector(**settings, method="regret", score_options=few)
    assert regret.fit(x[:20]).score_samples(x[:20]).shape == (20,)


def test_the_threshold_is_of_rows_that_were_held_out(x):
    settings = {**SMALL, "validation_fraction": 0, "random_state": 0}
    detector = VAEOutlierDetector(**settings, false_alarms=0.1, calibration_fraction=0.3).fit(x)
    held_out, rest = detector._held_out(len(x))
    assert len(held_out) == 45 and sorted([*held_out, *rest]) == list(range(150))
    assert detector.threshold_.num_calibration == 45 and detector.threshold_.rank == 4
    scores = detector._scores(x[held_out])
    assert detector.offset_ == np.sort(scores)[3] and (scores < detector.offset_).sum() == 3
    np.testing.assert_allclose(detector.vae_.data_mean, x[rest].mean(0), atol=1e-4)


def test_the_rate_of_false_alarms_is_the_promise():
    """Mean over 25 fits of the alarms among 100 new rows; the rate of one fit is Beta(2, 28), with a standard deviation
    of 0.045: within 4.5 standard errors, false alarm below 1e-5.
    """
    draw, rates = np.random.default_rng(0), []
    tiny = {**SMALL, "validation_fraction": 0, "num_particles": 2, "method": "elbo"}
    for seed in range(25):
        data = draw.normal(size=(158, 2))
        detector = VAEOutlierDetector(1, **tiny, false_alarms=2 / 30, calibration_fraction=0.5, random_state=seed)
        rates.append((detector.fit(data[:58]).predict(data[58:]) == -1).mean())
    error = (0.045**2 + 0.07 / 100) ** 0.5 / 25**0.5
    assert detector.threshold_.expected_rate == 2 / 30 and abs(np.mean(rates) - 2 / 30) < 4.5 * error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "evidense"}, "needs no further data, got 'evidense'.*evidence"),
        ({"method": "typicality"}, "method: expected a score that needs no further data, got 'typicality'"),
        ({"method": "ratio"}, "background"),
        ({"contamination": 0.6}, "contamination: expected 'auto' or a share above 0 and at most 0.5, got 0.6"),
        ({"contamination": 0.0}, "contamination: expected 'auto' or a share"),
        ({"contamination": "some"}, "contamination"),
        ({"false_alarms": 0.01}, "false_alarms=0.01 takes at least 99 rows for the threshold, and .* of 150 is 30"),
        ({"calibration_fraction": 1.0}, "expected shares between 0 and 1, got 1.0 and 0.05"),
        ({"score_options": {"particles": 3}}, "method 'evidence' has no option 'particles'"),
    ],
)
def test_wrong_parameters_are_refused(x, options, message):
    with pytest.raises(UsageError, match=message):
        VAEOutlierDetector(**SMALL, **options).fit(x)


def test_data_outside_the_support_are_refused(x):
    detector = VAEOutlierDetector(**SMALL, likelihood=Bernoulli, random_state=0).fit((x > 0).astype(float))
    with pytest.raises(DataError, match=r"X: .* outside the support of Bernoulli"):
        detector.predict(x)


def test_outliers_are_found_in_a_pipeline_and_after_a_save(x, tmp_path):
    detector = VAEOutlierDetector(**{**SMALL, "epochs": 3}, random_state=0)
    pipeline = make_pipeline(StandardScaler(), detector).fit(x)
    far = x.mean(0) + 30 * x.std(0)
    assert (pipeline.predict(far[None]) == -1).all() and (pipeline.predict(x) == 1).mean() > 0.7
    pipeline[-1].save(tmp_path / "run")
    again, scaled = VAEOutlierDetector.load(tmp_path / "run"), pipeline[0].transform(x)
    np.testing.assert_array_equal(again.decision_function(scaled), pipeline.decision_function(x))
    assert again.threshold_ == pipeline[-1].threshold_ and again.offset_ == pipeline[-1].offset_


def test_methods_are_those_that_need_no_more_data():
    assert USABLE == ("evidence", "elbo", "reconstruction", "rate", "regret", "complexity", "ratio")
