"""`statistics.least_squares`: against solving each problem, and against leaving out each row."""

import torch

from pyro_vae.statistics.least_squares import fit_classifiers

GENERATOR = torch.Generator().manual_seed(0)
FEATURES = torch.randn(40, 5, generator=GENERATOR, dtype=torch.float64)
LABELS = (FEATURES[:, :3] + torch.randn(40, 3, generator=GENERATOR, dtype=torch.float64)).sign()


def solved(features, labels, penalty):
    gram = features.T @ features + penalty * torch.eye(features.shape[1], dtype=torch.float64)
    return torch.linalg.solve(gram, features.T @ labels)


def test_weights_and_left_out_predictions():
    weights, left_out = fit_classifiers(FEATURES, LABELS, 0.1)
    torch.testing.assert_close(weights, solved(FEATURES, LABELS, 4.0))
    for row in range(40):
        others = [i for i in range(40) if i != row]
        torch.testing.assert_close(left_out[row], FEATURES[row] @ solved(FEATURES[others], LABELS[others], 4.0))


def test_more_columns_than_rows():
    weights, left_out = fit_classifiers(FEATURES.T, LABELS[:5], 0.1)
    torch.testing.assert_close(weights, solved(FEATURES.T, LABELS[:5], 0.5))
    assert left_out.isfinite().all()
