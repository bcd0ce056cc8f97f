"""What each model is measured by, on the same test data; None where it can't compute what the measure needs."""

from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from other_models.common import Data, LogP, Trained
from pyro_vae import seeded
from pyro_vae.statistics.averages import standard_error
from pyro_vae.tasks.scores import detection

Number = dict[str, float]
"""A value and its standard error."""


def measure(model: Trained, data: Data, seed: int) -> dict[str, Any]:
    """All measures of a model by name, and what is known of its log p(x)."""
    with seeded(seed, "measure"):
        found = model.log_p and model.log_p(data.test)
        return {
            "name": model.name,
            "family": model.family,
            "parameters": model.parameters,
            "code": model.encode and model.encode(data.test[:2]).shape[1],
            "seconds": model.seconds,
            "log_p": found and described(found),
            "reconstruction": model.reconstruct and squared(model.reconstruct(data.test), data.test),
            "accuracy": model.encode and accuracy(model.encode(data.train), model.encode(data.test), data),
            "imputation": model.impute and halves(model, data),
            "auroc": model.anomaly and area(model.anomaly(data.test), model.anomaly(data.joined)),
            "two_sample": model.sample and two_sample(model, data),
        }


def described(found: LogP) -> dict[str, Any]:
    """An estimate of log p(x) as plain numbers."""
    low, high = found.ends
    return {
        "kind": found.kind,
        "value": found.values.mean().item(),
        "error": standard_error(found.values.double()),
        "monte_carlo": found.monte_carlo,
        "low": low,
        "high": high if high < float("inf") else None,
        "how": found.how,
        "each": [round(value, 4) for value in found.values.tolist()],
    }


def number(values: Tensor) -> Number:
    """A mean over data and its standard error."""
    return {"value": values.double().mean().item(), "error": standard_error(values.double())}


def squared(expected: Tensor, x: Tensor) -> Number:
    """Squared error of expected bits, mean over pixels (Brier's score)."""
    return number((expected - x).square().mean(1))


def halves(model: Trained, data: Data) -> Number:
    """Squared error of the lower half of each image, given the upper half."""
    mask = (torch.arange(64) < 32).expand_as(data.test)
    assert model.impute is not None
    given = torch.where(mask, data.test, 0.0)  # so that no model can see what it is asked for
    return squared(model.impute(given, mask)[:, 32:], data.test[:, 32:])


def accuracy(train: Tensor, test: Tensor, data: Data) -> Number:
    """Accuracy of a logistic regression of the digit on the codes."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(train.numpy().astype(np.float64), data.train_labels.numpy())
    right = classifier.predict(test.numpy().astype(np.float64)) == data.test_labels.numpy()
    return number(torch.from_numpy(right))


def area(normal: Tensor, anomalies: Tensor) -> Number:
    """Area under the ROC curve: images joined of halves of two digits against whole ones; 0.5 for chance."""
    found = detection(normal, anomalies).auroc
    return {"value": found.value, "error": found.standard_error}


def two_sample(model: Trained, data: Data, sets: int = 5) -> Number:
    """Accuracy of the nearest neighbour at telling draws from test data: 0.5 if they are alike.

    Lopez-Paz & Oquab 2017, Revisiting classifier two-sample tests. The error is that of `sets` sets of draws; the test
    data are the same in all.
    """
    assert model.sample is not None
    found = [nearest(data.test, model.sample(len(data.test))) for _ in range(sets)]
    return number(torch.stack(found))


def nearest(x: Tensor, y: Tensor) -> Tensor:
    """The share of rows of both whose nearest other row is of the same kind; ties are broken at random."""
    both = torch.cat([x, y])
    distance = torch.cdist(both, both, p=1) + 0.01 * torch.rand(len(both), len(both))
    neighbour = distance.fill_diagonal_(float("inf")).argmin(1)
    kind = torch.arange(len(both)) < len(x)
    return (kind == kind[neighbour]).double().mean()


def paired(row: dict[str, Any], best: dict[str, Any]) -> Number | None:
    """The log p(x) of `best` minus that of another row, paired by datum."""
    if row["log_p"] is None or row is best:
        return None
    return number(torch.tensor(best["log_p"]["each"]) - torch.tensor(row["log_p"]["each"]))
