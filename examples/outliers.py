"""Outliers by scores of a VAE, beside isolation forests and PCA, all as estimators of scikit-learn.

Each detector is fitted to normal rows alone, and sees new normal rows and anomalies: of the breast cancer data benign
tumours are normal and malignant ones are anomalies; of the digits each class in turn is the anomaly. The area under the
ROC curve (AUROC) is averaged over random divisions of the normal rows, half of them to fit and half to test. The VAE's
threshold promises at most 5 % false alarms; the others are set by `contamination=0.05`, which promises nothing.

    python examples/outliers.py                                        # some minutes
    python examples/outliers.py --data digits --anomalies 0 1 2 3 4 5 6 7 8 9 --latent_dim 8
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import OutlierMixin
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pyro_vae.networks import MLP
from pyro_vae.sklearn import VAEOutlierDetector


class PCADetector(OutlierMixin, PCA):
    """Log p(x) of probabilistic PCA, with the 5 % quantile of the fitted rows as the threshold."""

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803 - scikit-learn's name
        """-1 for outliers, 1 for others."""
        return np.where(self.score_samples(X) >= self.offset_, 1, -1)

    def fit(self, X: Any, y: Any = None) -> "PCADetector":  # noqa: N803 - scikit-learn's name
        """Fit PCA, and take the quantile of its scores."""
        super().fit(X)
        self.offset_ = np.percentile(self.score_samples(X), 5)
        return self


def main(options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Fit and measure every detector on every division; returns, prints and saves the table."""
    torch.set_num_threads(options.threads)
    table: dict[str, dict[str, list[float]]] = {}
    for anomaly in options.anomalies if options.data == "digits" else [0]:
        x, y = (load_digits if options.data == "digits" else load_breast_cancer)(return_X_y=True)
        normal, anomalies = x[y != anomaly], x[y == anomaly]
        for division in range(options.divisions):
            train, test = train_test_split(normal, test_size=0.5, random_state=division)
            for name, detector in _detectors(options, division).items():
                row = table.setdefault(name, {"auroc": [], "false_alarms": [], "found": []})
                _measure(make_pipeline(StandardScaler(), detector).fit(train), test, anomalies, row)
                print(anomaly, division, name, {measure: values[-1] for measure, values in row.items()}, flush=True)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.json").write_text(json.dumps(table, indent=1))
    print("\n| detector | AUROC | false alarms | anomalies found |\n|---|---:|---:|---:|")
    for name, row in table.items():
        area, spread = np.mean(row["auroc"]), np.std(row["auroc"], ddof=1) if len(row["auroc"]) > 1 else 0.0
        alarms, found = (np.mean(row[measure]) for measure in ("false_alarms", "found"))
        print(f"| {name} | {area:.3f} ± {spread:.3f} | {alarms:.1%} | {found:.1%} |")
    return table


def _detectors(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    network = partial(MLP, hidden=tuple(options.hidden))
    settings = {"epochs": options.epochs, "batch_size": options.batch_size, "learning_rate": options.lr}
    shared: dict[str, Any] = {**settings, "encoder": network, "decoder": network, "random_state": seed}
    found: dict[str, Any] = {
        f"VAE, `{method}`": VAEOutlierDetector(options.latent_dim, method=method, num_particles=200, **shared)
        for method in options.methods
    }
    found["IsolationForest"] = IsolationForest(n_estimators=options.trees, contamination=0.05, random_state=seed)
    found["PCA, log p(x)"] = PCADetector(options.latent_dim)
    return found


def _measure(pipeline: Any, test: np.ndarray, anomalies: np.ndarray, row: dict[str, list[float]]) -> None:
    """Add the AUROC and the rates of one fitted detector."""
    scores = [-pipeline.score_samples(x) for x in (test, anomalies)]
    labels = np.repeat([0, 1], [len(test), len(anomalies)])
    row["auroc"].append(float(roc_auc_score(labels, np.concatenate(scores))))
    row["false_alarms"].append(float((pipeline.predict(test) == -1).mean()))
    row["found"].append(float((pipeline.predict(anomalies) == -1).mean()))


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("breast_cancer", "digits"), default="breast_cancer")
    parser.add_argument("--anomalies", type=int, nargs="+", default=[1, 8], help="of the digits: which, in turn")
    parser.add_argument("--methods", nargs="+", default=["elbo", "reconstruction"])
    parser.add_argument("--divisions", type=int, default=5)
    parser.add_argument("--latent_dim", type=int, default=5)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=25)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--trees", type=int, default=300, help="of the isolation forest")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="runs/outliers")
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
