"""The ledger: what a checkpoint holds of a training besides the weights and the optimizer."""

import json
from math import inf, isnan, nan

import pytest
import torch

from pyro_vae.runs.formats import SUMS, check_progress
from pyro_vae.training.ledger import Ledger, Sums, translated


def begun():
    """Two epochs of three steps are complete, and one step of the third."""
    ledger = Ledger("float32", False, "abc", onednn=True)
    for loss in (3.0, 2.0):
        ledger.sums.add(loss=30.0, seen=10)
        ledger.judge(loss, settled=True)
        ledger.keep({"w": torch.tensor([loss])})
        ledger.close_epoch({"train_elbo": -loss}, steps=3, lr=0.1)
    ledger.sums.add(loss=8.0, seen=4)
    ledger.sums.add(train_reconstruction=-6.0, train_kl=2.0, probed=4)
    ledger.step, ledger.last_loss = 1, 2.0
    return ledger


def test_plain_data_and_back():
    ledger = begun()
    plain = json.loads(json.dumps(ledger.to_plain({"0/mu": 0.5})))
    check_progress(plain, Ledger.names(), ledger.rows, epochs=5, steps=3, where="here")
    assert set(plain) == Ledger.names() and plain["optimizer"] == {"0/mu": 0.5} and set(plain["sums"]) == SUMS
    again = Ledger("float32", True, None).resumed(plain, ledger.rows, ledger.best)
    for name in ("epoch", "step", "best_loss", "best_epoch", "waited", "last_loss", "sums", "rows", "best", "compile"):
        assert getattr(again, name) == getattr(ledger, name)
    assert again.before == plain["seconds"] and again.seconds >= again.before


def test_between_epochs_there_are_no_sums():
    ledger = begun()
    ledger.close_epoch({}, steps=3, lr=0.1)
    assert ledger.to_plain({})["sums"] == {} and ledger.sums == Sums() and (ledger.epoch, ledger.step) == (3, 0)


def test_rows():
    row = begun().rows[1]
    assert list(row) == ["epoch", "step", "loss", "train_elbo", "lr", "seconds"]
    assert {name: row[name] for name in ("epoch", "step", "loss")} == {"epoch": 2, "step": 6, "loss": 3.0}


def test_means():
    sums = begun().sums
    assert sums.means(True) == {"elbo": -2.0, "reconstruction": -1.5, "kl": 0.5}
    assert sums.means(False) == {"reconstruction": -1.5}


@pytest.mark.parametrize(
    ("loss", "settled", "better", "best", "waited"),
    [
        (1.9, True, True, 1.9, 0),
        (2.0, True, False, 2.0, 1),
        (2.1, False, False, 2.0, 0),
        (nan, True, False, 2.0, 1),
        (-inf, True, False, 2.0, 1),
    ],
)
def test_the_lowest_finite_value_is_the_best(loss, settled, better, best, waited):
    ledger = begun()
    assert ledger.judge(loss, settled) is better
    assert (ledger.best_loss, ledger.waited) == (best, waited)


def test_kept_weights_are_a_copy():
    ledger, weight = begun(), torch.ones(2)
    ledger.keep({"w": weight})
    weight.zero_()
    assert ledger.best_epoch == 3 and torch.equal(ledger.best["w"], torch.ones(2))


def test_a_progress_that_was_chosen_by_the_elbo():
    old = {"epoch": 1, "best_elbo": -4.0}
    progress, rows = translated(old, [{"valid_elbo": -4.0}, {"train_elbo": -5.0}], "bf16")
    assert progress == {"epoch": 1, "best_loss": -4.0, "precision": "bf16"} and "best_elbo" in old
    assert isnan(rows[0]["valid_loss"]) and rows[1] == {"train_elbo": -5.0}
    assert translated({**old, "precision": "float32"}, [], "bf16")[0]["precision"] == "float32"
