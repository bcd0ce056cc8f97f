"""AUROC, average precision and FPR at 95 % TPR against scikit-learn; bootstrap errors against their law."""

import numpy as np
import pytest
import torch

from pyro_vae.errors import DataError, UsageError
from pyro_vae.tasks.scores import detection
from pyro_vae.tasks.scores.detection import Measure
from tests.tasks.scores.test_thresholds import scores


def drawn(seed, shift=1.0, num=(60, 40), decimals=6):
    stream = torch.Generator().manual_seed(seed)
    normal, anomalies = (torch.randn(n, generator=stream, dtype=torch.float64) for n in num)
    return normal.round(decimals=decimals), (anomalies + shift).round(decimals=decimals)


@pytest.mark.parametrize("decimals", [6, 0])  # 0: many ties
@pytest.mark.parametrize("shift", [-1.0, 0.0, 2.0])
def test_as_scikit_learn(decimals, shift):
    metrics = pytest.importorskip("sklearn.metrics", reason="the extra 'sklearn' is not installed")
    normal, anomalies = drawn(1, shift, decimals=decimals)
    truth = np.r_[np.zeros(len(normal)), np.ones(len(anomalies))]
    values = torch.cat([normal, anomalies]).numpy()
    found = detection(normal, anomalies, num_resamples=2)
    assert found.auroc.value == pytest.approx(metrics.roc_auc_score(truth, values))
    assert found.average_precision.value == pytest.approx(metrics.average_precision_score(truth, values))
    false, true, _ = metrics.roc_curve(truth, values, drop_intermediate=False)
    assert found.fpr_at_95.value == pytest.approx(false[np.argmax(true >= 0.95)])


def test_resamples_are_those_of_the_data():
    """Each resample's measures, computed from the data that it drew."""
    normal, anomalies = drawn(2, decimals=0, num=(8, 5))
    found = detection(normal, anomalies, num_resamples=4000)
    stream = torch.Generator().manual_seed(9)
    direct = []
    for _ in range(4000):
        n = normal[torch.randint(8, (8,), generator=stream)]
        a = anomalies[torch.randint(5, (5,), generator=stream)]
        higher = (a[:, None] > n).double() + (a[:, None] == n).double() / 2
        direct.append(higher.mean())
    direct = torch.stack(direct)
    assert abs(found.auroc.standard_error / direct.std() - 1) < 0.06  # 4 standard errors of a ratio of two
    ends = direct.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    assert abs(found.auroc.low - ends[0]) < 0.03 and abs(found.auroc.high - ends[1]) < 0.03


def test_intervals_cover():
    """AUROC of two unit normals 1 apart is Phi(1 / sqrt 2) = 0.7602; of 300 intervals at 90 %, 255 to 285: 3 sd."""
    inside = 0
    for seed in range(300):
        found = detection(*drawn(seed, num=(100, 100)), level=0.9, num_resamples=200, seed=seed)
        inside += found.auroc.low <= 0.76025 <= found.auroc.high
    assert 252 <= inside <= 288


def test_perfect_and_inverted():
    normal, anomalies = torch.arange(10.0), torch.arange(10.0) + 20
    best, worst = detection(normal, anomalies), detection(anomalies, normal)
    assert (best.auroc, best.average_precision) == (Measure(1, 1, 1, 0), Measure(1, 1, 1, 0))
    assert best.fpr_at_95.value == 0 and worst.auroc.value == 0 and worst.fpr_at_95.value == 1
    assert best.prevalence == 0.5 and best.summary()["num_normal"] == 10
    assert repr(best).startswith("Detection(AUROC 1.0000 (1.000 to 1.000), average precision")


def test_seeds_and_infinite_scores():
    normal, anomalies = drawn(3)
    a, b, c = (detection(normal, anomalies, num_resamples=50, seed=s) for s in (0, 0, 1))
    assert a == b != c
    infinite = detection(scores([0.0, 1.0]), scores([float("inf"), 2.0]), num_resamples=10)
    assert infinite.auroc.value == 1


def test_refusals():
    ones = torch.ones(3)
    for bad in (torch.tensor([]), torch.tensor([float("nan")])):
        with pytest.raises(DataError, match="anomalies: expected scores"):
            detection(ones, bad)
    with pytest.raises(UsageError, match="'elbo' and 'rate'"):
        detection(scores([1.0]), scores([1.0], "rate"))
    with pytest.raises(UsageError, match="level"):
        detection(ones, ones, level=1.0)
    with pytest.raises(UsageError, match="num_resamples"):
        detection(ones, ones, num_resamples=1)
