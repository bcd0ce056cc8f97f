"""When a training ends: epochs, patience and signals."""

import pytest

from pyro_vae.distributed import World
from pyro_vae.training.ledger import Ledger
from pyro_vae.training.stopping import Signals, Stopping


def ledger(**fields):
    return Ledger("float32", False, None, **fields)


@pytest.mark.parametrize(
    ("patience", "fields", "finished"),
    [
        (None, {"epoch": 4, "waited": 4}, False),
        (None, {"epoch": 5}, True),
        (3, {"epoch": 4, "waited": 2}, False),
        (3, {"epoch": 4, "waited": 3}, True),
    ],
)
def test_finished(patience, fields, finished):
    stopping = Stopping(5, patience, "best")
    assert stopping.is_finished(ledger(**fields)) is finished


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, ""),
        ({"epoch": 1}, "resumed at epoch 2 of 5"),
        ({"step": 2}, "resumed at epoch 1 of 5, after step 2"),
        ({"epoch": 5}, "already complete: 5 of 5 epochs"),
        ({"epoch": 4, "waited": 3}, "already complete: 4 of 5 epochs, stopped early"),
    ],
)
def test_where_it_goes_on(fields, text):
    assert Stopping(5, 3, "best").begun(ledger(**fields)) == text


def test_one_process_stops_at_its_own_signal():
    pending = []
    signals = Signals(pending, World())
    assert signals.number() is None
    pending += [15, 2]
    assert signals.number() == 15


def test_of_several_processes_none_stops_before_all_know():
    signals = Signals([15], World(rank=0, size=2))
    assert signals.number() is None
