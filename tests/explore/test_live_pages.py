"""The live pages of the course: what is in docs/live is what the package makes and reads today."""

import base64
import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.explore.answers import Answers
from pyro_vae.explore.export import exported_start
from pyro_vae.explore.page import page
from pyro_vae.explore.subject import Explored
from pyro_vae.networks import MLP
from tests.explore.test_export import WHERE, check_numbers, in_node, same, values
from tests.support import browser
from tests.support.packed import unpacked

DOCS = Path(__file__).parents[2] / "docs"
WIDTHS = {"digits": ((64,), (64,)), "small-encoder": ((16,), (64, 64))}
"""Of encoder and decoder, as docs/make_live.py has them."""
SHOWN = {"01-integral": "digits", "04-elbo": "digits", "07-amortisation": "small-encoder"}


def start_of(name):
    return json.loads((DOCS / "live" / f"{name}.json").read_text())


def vae_of(name):
    encoder, decoder = (partial(MLP, hidden=hidden) for hidden in WIDTHS[name])
    return VAE((8, 8), 2, encoder=encoder, decoder=decoder)


def array(packed):
    if "float16" not in packed:
        return torch.from_numpy(unpacked(packed).copy())
    numbers = np.frombuffer(base64.b64decode(packed["float16"]), "<f2").astype("f4")
    return torch.from_numpy(numbers.reshape(packed["shape"]))


def restored(name):
    """The model of a page, from the page alone."""
    vae, described = vae_of(name), start_of(name)["model"]
    with torch.no_grad():
        for role in ("encoder", "decoder"):
            maps = [layer for layer in getattr(vae, role).modules() if isinstance(layer, torch.nn.Linear)]
            of_page = [layer for layer in described[role] if layer["kind"] == "linear"]
            for layer, theirs in zip(maps, of_page, strict=True):
                layer.weight.copy_(array(theirs["weight"]))
                layer.bias.copy_(array(theirs["bias"]))
    return vae


def form(value):
    """Names and types of plain data, without the numbers."""
    if isinstance(value, dict):
        return {key: form(item) for key, item in value.items()}
    if isinstance(value, list):
        return sorted({json.dumps(form(item)) for item in value})
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


@pytest.mark.parametrize(("learn", "name"), SHOWN.items())
def test_pages_of_the_course_have_one_each(learn, name):
    text = (DOCS / "learn" / f"{learn}.md").read_text()
    assert re.findall(r"^```\{live-page\} (\S+)$", text, re.MULTILINE) == [name]
    assert len(page(start_of(name), "page", alone=True)) < 400_000


def test_no_other_is_there():
    assert {path.stem for path in (DOCS / "live").iterdir()} == set(SHOWN.values())


@pytest.mark.parametrize("name", WIDTHS)
def test_the_form_is_that_of_today(name):
    start = start_of(name)
    x = torch.from_numpy(np.frombuffer(base64.b64decode(start["model"]["x"]["uint8"]), "u1").reshape(-1, 8, 8).copy())
    shown = Explored(restored(name), x.float(), labels=torch.tensor(start["labels"]), facts=start["facts"])
    made, weights = exported_start(Answers(shown))
    assert weights.startswith("weights in 16 bits") and form(made) == form(start)
    assert made["model"]["seeds"] == start["model"]["seeds"] and made["model"]["x"] == start["model"]["x"]
    theirs = array(made["places"]["coordinates"]), array(start["places"]["coordinates"])
    assert torch.allclose(*theirs, atol=1e-4)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not on this machine")
@pytest.mark.parametrize("name", WIDTHS)
def test_numbers_are_torchs(name):
    text = (DOCS / "live" / f"{name}.json").read_text()
    found = in_node(text, f'ask("datum", {json.dumps({"index": 5, **WHERE})})')
    x = torch.from_numpy(values(found["x"]))[None].float()
    exact = Answers(Explored(restored(name), x))("datum", {"index": 0, **WHERE})
    check_numbers(found["numbers"], exact["numbers"])
    assert same(found["place"], exact["place"])


@pytest.mark.skipif(browser.PROGRAM is None, reason="chromium is not on this machine")
@pytest.mark.parametrize("name", WIDTHS)
def test_it_opens_without_a_fault(name, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page(start_of(name), "page", alone=True))
    with browser.browser() as tab:
        tab.size(736, 830)
        tab.open(f"{path.as_uri()}#datum=5&zoom")
        tab.wait("datum.answer && !datum.answer.pending && !looking.busy")
        assert tab.evaluate("[datum.index, plane.zoomed]") == [5, True] and tab.faults == []
        assert {address.split("#")[0] for address in tab.requests} <= {path.as_uri(), "data:,"}
        assert tab.evaluate("document.documentElement.scrollWidth") <= 736
