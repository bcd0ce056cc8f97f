"""The page in a browser: numbers are torch's, an exported file works from disk, a drag is quick, keys are enough."""

import threading
from functools import partial

import numpy as np
import pytest
import torch

from pyro_vae.autoencoders import VAE, VQVAE, SemiSupervisedVAE
from pyro_vae.explore.answers import Answers
from pyro_vae.explore.export import exported
from pyro_vae.explore.halved import halved
from pyro_vae.explore.server import Server, serve
from pyro_vae.explore.subject import Explored
from pyro_vae.networks import MLP, ConvNet
from pyro_vae.priors import MixtureOfNormals, StandardNormal
from tests.support import browser
from tests.support.packed import unpacked

pytestmark = pytest.mark.skipif(browser.PROGRAM is None, reason="chromium is not on this machine")
X = (torch.rand(30, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()
SMALL = {"encoder": partial(MLP, hidden=(8,)), "decoder": partial(MLP, hidden=(8,))}
CLOSE = 1e-5
DONE = "datum.answer && !datum.answer.pending && !looking.busy && !decoding.busy && !planeAsked.busy"
CONTROLS = """[...document.querySelectorAll("button, input, select, canvas[tabindex], summary")]
  .filter((e) => e.checkVisibility() && !(e.type === "radio" && !e.checked))
  .map((e) => [e.id || e.getAttribute("aria-label") || "",
    e.getAttribute("aria-label") || (e.labels && e.labels[0] && e.labels[0].textContent) || e.textContent])"""
"""What a user of the keyboard is to reach, each with its name."""
WHERE = {"frame": "coordinates", "axes": [0, 1]}


@pytest.fixture(scope="module")
def tab():
    with browser.browser() as page:
        yield page


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    monkeypatch.setattr("pyro_vae.explore.datum.STEPS", 100)


def explored(vae=None, x=X, amount=0.3, **more):
    torch.manual_seed(0)
    vae = vae or VAE((4, 4), 2, **SMALL)
    with torch.no_grad():
        for weight in vae.parameters():
            weight.add_(amount * torch.randn_like(weight))
    return Explored(vae, x, labels=torch.arange(len(x)) % 3, facts={"run": "r"}, **more)


@pytest.fixture(params=["served", "alone"])
def shown(request, tab, tmp_path):
    """A function that opens the page of a model, of a server or a file; gives the answers that it shows."""
    servers = []

    def show(model):
        answers = Answers(model)
        if request.param == "alone":
            path = tmp_path / "page.html"
            made = exported(answers)
            path.write_text(made.text)
            tab.open(path.as_uri())
            return Answers(halved(model)) if "16 bits" in made.weights[:20] else answers
        server = Server(answers)
        servers.append((server, threading.Thread(target=serve, args=(server,), daemon=True)))
        servers[-1][1].start()
        tab.open(server.address)
        return answers

    yield show
    for server, thread in servers:
        server.shutdown()
        thread.join(5)


def array(tab, expression):
    """A packed array that the page holds."""
    found = tab.evaluate(f"(() => {{ const a = unpack({expression}); return [a.shape, [...a.data]]; }})()")
    return np.array(found[1]).reshape(found[0])


def same(ours, theirs):
    return np.allclose(ours, theirs, rtol=CLOSE, atol=CLOSE)


def test_numbers_are_torchs(tab, shown):
    answers = shown(explored())
    tab.wait(DONE)
    tab.evaluate("choose(4)")
    tab.wait(f"{DONE} && datum.index === 4")
    exact = answers("datum", {"index": 4, **WHERE})
    ours = tab.evaluate("datum.answer.numbers")
    for name in ("elbo", "elbo_error", "log_p", "importance", "importance_error", "gap", "gap_error", "kl", "pareto_k"):
        assert same(ours[name], exact["numbers"][name]), name
    assert same(array(tab, "datum.answer.reconstruction.x"), unpacked(exact["reconstruction"]["x"]))
    cells = tab.evaluate("[...document.querySelectorAll('#numbers tbody tr')].map((row) => row.cells[1].textContent)")
    assert cells[1].startswith(f"{exact['numbers']['elbo']:.2f}".replace("-", "\N{MINUS SIGN}"))
    tab.click("#refine")
    tab.wait("plane.refined")
    refined = answers("refine", {"index": 4, **WHERE})["numbers"]
    assert same(tab.evaluate("plane.refined.numbers.elbo"), refined["elbo"])
    assert refined["elbo"] > exact["numbers"]["elbo"]
    tab.click("#draws")
    tab.wait("plane.draws")
    assert same(array(tab, "plane.draws.shares"), unpacked(answers("draws", {"index": 4, **WHERE})["shares"]))
    tab.click("#hide-half")
    tab.wait(f"{DONE} && datum.answer.mask && document.querySelectorAll('#restored figure').length === 9")
    x = [*X[4].flatten().tolist()[:8], *[None] * 8]
    hidden = answers("datum", {"index": 4, "x": x, **WHERE})["numbers"]
    assert same(tab.evaluate("datum.answer.numbers.log_p"), hidden["log_p"])
    assert tab.faults == []


def test_a_point_under_the_mouse_is_decoded(tab, shown):
    answers = shown(explored())
    tab.wait(DONE)
    x, y = tab.middle("#plane")
    tab.mouse("moved", x + 30, y - 20)
    tab.wait("!decoding.busy && !traversing.busy")
    w = tab.evaluate("plane.w")
    exact = answers("decode", {"places": [w], "frame": "coordinates"})
    assert same(array(tab, "datum.decoded.x"), unpacked(exact["x"])) and tab.faults == []


def test_a_mouse_that_moves_before_the_first_answer(tab):
    server = Server(Answers(explored()))
    thread = threading.Thread(target=serve, args=(server,), daemon=True)
    thread.start()
    with server.work:  # no question is answered yet
        tab.open(server.address)
        x, y = tab.middle("#plane")
        tab.mouse("moved", x, y)
        tab.mouse("pressed", x, y, down=True)
        tab.mouse("released", x, y)
        tab.evaluate("byId('plane').focus()")
        tab.key("ArrowLeft")
        tab.click("#editor")
        assert tab.evaluate("plane.answer") is None
    tab.wait(DONE)
    assert tab.faults == []
    server.shutdown()
    thread.join(5)


def test_an_exported_file_asks_nobody(tab, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(exported(Answers(explored())).text)
    tab.open(path.as_uri())
    tab.wait(DONE)
    assert tab.requests == [path.as_uri(), "data:,"] or tab.requests == [path.as_uri()]
    assert tab.faults == [] and "16 bits" in tab.evaluate("byId('alone-weights').textContent")
    assert tab.evaluate("byId('problem').hidden && !byId('alone-card').hidden")


def test_all_can_be_done_by_keys(tab, shown):
    """Every control is reached by Tab and has a name; arrow keys move the point and the pixel."""
    shown(explored())
    tab.wait(DONE)
    tab.evaluate("byId('plane').focus()")
    before = tab.evaluate("[...plane.w]")
    tab.key("ArrowRight")
    tab.key("ArrowUp", shift=True)
    after = tab.evaluate("[...plane.w]")
    assert after[0] > before[0] and after[1] - before[1] == pytest.approx(5 * (after[0] - before[0]))
    tab.key("Enter")
    nearest = tab.evaluate("datum.index")
    codes = array(tab, "plane.answer.codes")
    assert nearest == np.square(codes - after).sum(1).argmin()
    tab.wait(f"{DONE} && datum.answer.place")
    tab.evaluate("byId('editor').focus()")
    tab.key("ArrowRight")
    tab.key("ArrowDown")
    tab.key(" ")
    tab.wait(f"{DONE} && datum.x")
    assert tab.evaluate("datum.cursor") == [1, 1] and tab.evaluate("datum.x[5]") == 1
    tab.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    seen = set()
    for _ in range(200):
        tab.key("Tab")
        seen.add(tab.evaluate("(document.activeElement.id || document.activeElement.getAttribute('aria-label') || '')"))
    controls = tab.evaluate(CONTROLS)
    assert len(controls) > 20 and all(name.strip() for _, name in controls)
    assert {own for own, _ in controls} <= seen
    tab.wait("byId('said-numbers').textContent.includes('ELBO')")


def test_it_fits_a_phone(tab, shown):
    shown(explored())
    for dark in (False, True):
        tab.size(390, 844, dark)
        tab.wait(DONE)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.size(1280, 900)


def test_components_of_a_mixture(tab, shown):
    answers = shown(explored(VAE((4, 4), 2, prior=partial(MixtureOfNormals, components=4, spread=2.0), **SMALL)))
    tab.wait(f"{DONE} && document.querySelectorAll('#components button').length === 4")
    exact = answers("plane", WHERE)["components"]["largest"]
    tab.click("#components button:nth-child(2)")
    assert same(tab.evaluate("plane.w"), exact[1]["place"])
    ours = tab.evaluate("plane.answer.components.largest.map((c) => [c.weight, ...c.mean, ...c.covariance.flat()])")
    assert same(ours, [[c["weight"], *c["mean"], *np.ravel(c["covariance"])] for c in exact])
    assert "components of the prior" in tab.evaluate("byId('legend').textContent") and tab.faults == []


@pytest.mark.parametrize("prior", [StandardNormal, partial(MixtureOfNormals, components=4, spread=2.0)])
def test_a_code_of_one_dimension(tab, shown, prior):
    """Densities in place of a plane; each has a mass of 1 under its curve, but for what is out of view."""
    shown(explored(VAE((4, 4), 1, prior=prior, **SMALL)))
    tab.wait(f"{DONE} && plane.draws")
    masses = tab.evaluate(
        """(() => {
          const { low, high } = box(), limits = [low[0] - 1, high[0] + 1];
          const steps = 4000, width = (limits[1] - limits[0]) / steps;
          const at = Array.from({ length: steps }, (_, i) => limits[0] + (i + 0.5) * width);
          return densities(limits).map(([density]) => at.reduce((sum, v) => sum + density(v) * width, 0));
        })()"""
    )
    assert len(masses) == 3 and np.allclose(masses, 1, atol=0.02)
    x, y = tab.middle("#plane")
    tab.mouse("moved", x + 60, y)
    tab.wait("!decoding.busy")
    assert tab.evaluate("plane.w[1]") == 0 and "prior p(z)" in tab.evaluate("byId('legend').textContent")
    tab.click("#refine")
    tab.wait("plane.refined && !refining.busy")
    assert tab.evaluate("densities([-3, 3]).length") == 4 and tab.faults == []


def test_a_slow_decoder_does_not_hold_the_page(tab, tmp_path):
    """Of an exported convolutional model: while the posterior of a 28 x 28 image is computed, points are decoded."""
    net = dict.fromkeys(("encoder", "decoder"), partial(ConvNet, channels=(16, 32), hidden=(128,)))
    x = (torch.rand(4, 28, 28, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    answers = Answers(explored(VAE((28, 28), 2, **net), x, amount=0.0))
    path = tmp_path / "page.html"
    made = exported(answers)
    path.write_text(made.text)
    tab.open(path.as_uri())
    tab.wait("datum.answer && datum.answer.pending && !decoding.busy")
    x, y = tab.middle("#plane")
    for step in range(5):
        tab.mouse("moved", x + 10 * step, y)
    tab.wait("!decoding.busy")
    answers = Answers(halved(answers.explored)) if "16 bits" in made.weights[:20] else answers
    exact = answers("decode", {"places": [tab.evaluate("plane.w")], "frame": "coordinates"})
    assert same(array(tab, "datum.decoded.x"), unpacked(exact["x"]))
    assert tab.evaluate("datum.answer.pending") and tab.faults == []


def test_classes(tab, tmp_path):
    model = explored(SemiSupervisedVAE((4, 4), 3, 2, classifier=partial(MLP, hidden=(8,)), **SMALL))
    server = Server(Answers(model))
    thread = threading.Thread(target=serve, args=(server,), daemon=True)
    thread.start()
    tab.open(server.address)
    tab.wait(DONE)
    texts = tab.evaluate("[...document.querySelectorAll('#classes .level')].map((e) => e.lastChild.textContent)")
    exact = server.answers("datum", {"index": 0})["classes"]
    assert len(texts) == 3 and np.allclose([float(text) for text in texts], exact, atol=0.006)
    tab.evaluate("byId('class').value = '2'; byId('class').dispatchEvent(new Event('change'))")
    tab.wait(f"{DONE} && datum.chosenClass === 2")
    exact = server.answers("datum", {"index": 0, "class": 2})["numbers"]
    assert same(tab.evaluate("datum.answer.numbers.elbo"), exact["elbo"]) and tab.faults == []
    server.shutdown()
    thread.join(5)


def test_discrete_codes(tab, tmp_path):
    vae = VQVAE((4, 4), codes=(2, 2), codebook_size=5, embedding_dim=3)
    server = Server(Answers(Explored(vae, X, facts={"run": "r"})))
    thread = threading.Thread(target=serve, args=(server,), daemon=True)
    thread.start()
    tab.open(server.address)
    tab.wait("datum.answer && datum.decoded && document.querySelectorAll('#entries button').length === 5")
    tab.click("#entries button:nth-child(4)")
    tab.wait("codes.k[0] === 3 && !decodingCodes.busy")
    exact = server.answers("decode_codes", {"k": [tab.evaluate("codes.k")]})
    assert same(array(tab, "datum.decoded.x"), unpacked(exact["x"])) and tab.faults == []
    server.shutdown()
    thread.join(5)
