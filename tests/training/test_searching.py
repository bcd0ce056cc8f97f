"""`search`: a planted best wins, a stopped search goes on with an equal result, and what is refused."""

from collections import Counter
from functools import partial

import pytest
import torch

from pyro_vae import VAE, load, search
from pyro_vae.data import Dataset, load_data
from pyro_vae.data.dataset import without_test
from pyro_vae.errors import CheckpointError, NumericalError, UsageError
from pyro_vae.evidence import log_marginal
from pyro_vae.guides import Delta, DiagonalNormal
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP
from pyro_vae.schedules import Cosine
from pyro_vae.training import searching

SMALL = {"encoder": partial(MLP, hidden=(16,)), "decoder": partial(MLP, hidden=(16,))}
RATES = {"lr": [1e-8, 3e-3, 1e-6]}
HOW = {"budget": 12, "factor": 2, "num_particles": 20, "num_data": 40, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def data():
    digits = load_data("digits", binarize="threshold")
    return Dataset("some", digits.split("train")[:300], valid=digits.split("valid"), test=digits.split("test"))


def make(options, **keywords):
    vae = VAE((8, 8), 2, **SMALL)
    return vae, {"optimizer": partial(torch.optim.Adam, lr=options["lr"]), "batch_size": 50, **keywords}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A search that was not stopped."""
    return search(make, RATES, data, run=tmp_path_factory.mktemp("whole"), **HOW)


def without_run(result):
    return {name: value for name, value in result.summary().items() if name != "run"}


def test_the_planted_best_wins(whole):
    """Three candidates with 2 epochs, two of them with 5; learning rates of 1e-8 and 1e-6 learn nothing."""
    assert whole.best == "c1" and whole.options == {"lr": 3e-3} and whole.lengthened
    assert [(r.epochs, len(r.comparison.models), len(r.kept)) for r in whole.rounds] == [(2, 3, 2), (5, 2, 1)]
    assert all(r.kept[0] == "c1" for r in whole.rounds) and whole.spent == whole.budget == 12
    worse = whole.rounds[-1].comparison.models[1]
    assert worse.is_worse and not whole.ties and not whole.undecided


def test_its_numbers_are_those_of_the_run(whole, data):
    """The run of the best is an ordinary one, lengthened from 2 to 5 epochs; log p(x) is that of its weights."""
    vae, x = load(whole.run), data.split("valid")
    rows = torch.arange(40) * len(x) // 40
    found = log_marginal(vae.model, vae.guide, x[rows], num_particles=20)
    assert found.mean == pytest.approx(whole.rounds[-1].comparison.models[0].log_p, abs=1e-9)


class Interrupted(KeyboardInterrupt):
    pass


@pytest.mark.parametrize(
    ("where", "calls", "in_all"),
    [
        *(("fit", calls, 6) for calls in (1, 3, 4, 5)),
        *(("log_marginal", calls, 12 - calls % 2) for calls in (1, 4, 7, 10)),
    ],
)
def test_a_stopped_search_goes_on_with_an_equal_result(whole, data, tmp_path, monkeypatch, where, calls, in_all):
    """Stopped before or after the training of one candidate; what was measured is not measured again.

    For each of the five trainings log p(x) is estimated of one datum before, and of all data after it.
    """
    inner, done = getattr(searching, where), Counter()

    def counted(*args, **options):
        done[where] += 1
        if done[where] == calls:
            raise Interrupted
        return inner(*args, **options)

    monkeypatch.setattr(searching, where, counted)
    with pytest.raises(Interrupted):
        search(make, RATES, data, run=tmp_path, **HOW)
    again = search(make, RATES, data, run=tmp_path, **HOW)
    assert without_run(again) == without_run(whole) and done[where] == in_all
    assert without_run(search(make, RATES, data, run=tmp_path, **HOW)) == without_run(whole) and done[where] == in_all


def test_where_a_schedule_depends_on_the_length_each_round_is_trained_anew(data, tmp_path):
    found = search(partial(make, lr_schedule=Cosine()), RATES, data, run=tmp_path, **HOW)
    assert found.best == "c1" and not found.lengthened and [r.epochs for r in found.rounds] == [2, 3]
    assert found.run == str(tmp_path / "c1-3") and (tmp_path / "c1-2").is_dir() and found.spent == 12


def test_it_stops_where_nothing_tells_the_candidates_apart(data, tmp_path):
    found = search(lambda _: make({"lr": 1e-3}), {"copy": [1, 2, 3, 4]}, data, run=tmp_path, **{**HOW, "budget": 20})
    assert found.undecided and len(found.rounds) == 1 and len(found.rounds[0].kept) == 2 and found.spent == 8
    assert "stopped: the differences of the 2 that are left" in found.verdict


def test_a_candidate_that_fails_is_left_out_with_the_reason(data, tmp_path):
    space = {"lr": [1e30, 3e-3]}
    found = search(make, space, data, run=tmp_path, **{**HOW, "budget": 2})
    assert found.best == "c1" and "finite" in found.rounds[0].failed["c0"] and "failed" in str(found)
    assert without_run(search(make, space, data, run=tmp_path, **{**HOW, "budget": 2})) == without_run(found)
    with pytest.raises(NumericalError, match="no candidate is left"):
        search(make, {"lr": [1e30, 2e30]}, data, run=tmp_path / "other", **{**HOW, "budget": 2})


def test_a_candidate_that_makes_no_sense_is_left_out_before_it_is_trained(data, tmp_path, monkeypatch, caplog):
    """An optimizer that can't be made; a guide of points, of which log p(x) can't be estimated."""
    trained, inner = [], searching.fit
    monkeypatch.setattr(searching, "fit", lambda vae, *args, **more: trained.append(vae) or inner(vae, *args, **more))
    space, how = {"guide": [DiagonalNormal, Delta]}, {**HOW, "budget": 2}
    found = search(lambda o: (VAE((8, 8), 2, **SMALL, **o), {}), space, data, run=tmp_path / "guides", **how)
    assert found.best == "c0" and "site 'z' of the guide is a Delta" in found.rounds[0].failed["c1"]
    assert len(trained) == 1 and "candidate c1 is left out: site 'z'" in caplog.text
    found = search(make, {"lr": [3e-3, -1.0]}, data, run=tmp_path / "rates", **how)
    assert found.best == "c0" and "Invalid learning rate" in found.rounds[0].failed["c1"]
    with pytest.raises(UsageError, match="no candidate is left: can't make the optimizer Adam: Invalid learning rate"):
        search(make, {"lr": [-2.0, -1.0]}, data, run=tmp_path / "none", **how)


def test_the_test_split_is_not_read(data, tmp_path, monkeypatch):
    seen, inner = [], searching.fit
    monkeypatch.setattr(searching, "fit", lambda vae, data, **more: seen.append(data.test) or inner(vae, data, **more))
    labelled = Dataset("some", data.train, data.valid, data.test, {"test": torch.zeros(len(data.test)).long()})
    search(make, {"lr": [1e-3, 3e-3]}, labelled, run=tmp_path, **{**HOW, "budget": 2})
    assert seen == [None, None]
    left = without_test(labelled)
    assert left.test is None and not left.labels and torch.equal(left.split("valid"), data.split("valid"))


def test_the_callers_generator_is_left_alone(data, tmp_path, whole):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    found = search(make, RATES, data, run=tmp_path, **HOW)
    assert torch.equal(state, torch.get_rng_state()) and without_run(found) == without_run(whole)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"budget": 3}, "budget: 3 candidates in 2 rounds need at least 6 epochs, got 3"),
        ({"budget": 1.5}, "budget: expected a whole number"),
        ({"factor": 1}, "factor must be at least 2"),
        ({"num_particles": 0}, "num_particles must be at least 1"),
        ({"num_data": 1}, "num_data must be at least 2"),
        ({"max_rows": 0}, "max_rows must be at least 1"),
        ({"num_candidates": 2.5}, "num_candidates: expected a whole number"),
        ({"run": None}, "run: expected a folder for the search, got None"),
        ({"run": ""}, "run: expected a folder for the search, got ''"),
    ],
)
def test_arguments_that_make_no_sense(data, tmp_path, changed, message):
    with pytest.raises(UsageError, match=message):
        search(make, RATES, data, **{"run": tmp_path / "new", **HOW, **changed})
    assert not (tmp_path / "new").exists()


def test_refusals(data, tmp_path):
    def refused(made, message, given=data):
        with pytest.raises(UsageError, match=message):
            search(made, RATES, given, run=tmp_path / "new", **HOW)

    refused(make, "compares candidates on validation data, and there are none", Dataset("some", data.train))
    refused(make, "one datum gives differences no error", Dataset("some", data.train, data.train[:1]))
    refused(partial(make, epochs=3), "make: epochs is for the search to decide")
    refused(lambda options: VAE((8, 8), 2), "make: expected a VAE and a dictionary")
    kinds = {1e-8: {}, 3e-3: {"likelihood": Normal}, 1e-6: {}}
    refused(lambda o: (VAE((8, 8), 2, **kinds[o["lr"]]), {}), "c0 and c1 can't be compared: one is a density")
    assert not (tmp_path / "new").exists()


def test_the_folder_of_another_search_is_refused(data, tmp_path):
    two, how = {"lr": [1e-3, 3e-3]}, {**HOW, "budget": 2}
    found = search(make, two, data, run=tmp_path, **how)
    with pytest.raises(CheckpointError, match=r"with other settings.*Different: budget$"):
        search(make, two, data, run=tmp_path, **{**how, "budget": 4})
    with pytest.raises(CheckpointError, match=r"Different: candidates$"):
        search(make, {"lr": [1e-3, 4e-3]}, data, run=tmp_path, **how)
    with pytest.raises(CheckpointError, match="holds a run: name another folder"):
        search(make, two, data, run=found.run, **how)
    (tmp_path / "scores/c0-1.npz").write_bytes(b"PK no archive")
    with pytest.raises(CheckpointError, match=r"c0-1.npz is damaged \(delete it, and it is estimated anew\)"):
        search(make, two, data, run=tmp_path, **how)
    (tmp_path / "scores/c0-1.npz").unlink()
    assert without_run(search(make, two, data, run=tmp_path, **how)) == without_run(found)
    (tmp_path / "search.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"search\.json is damaged"):
        search(make, two, data, run=tmp_path, **how)
