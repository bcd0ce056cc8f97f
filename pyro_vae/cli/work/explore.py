"""`pyro-vae explore`: a run and its data on a page in the browser."""

import webbrowser
from pathlib import Path

from jsonargparse import Namespace

from pyro_vae.cli.streams import say
from pyro_vae.cli.work.places import Place
from pyro_vae.cli.work.saved_runs import Chosen, SavedRun, load_split, open_saved
from pyro_vae.errors import UsageError
from pyro_vae.explore.answers import Answers
from pyro_vae.explore.export import exported
from pyro_vae.explore.server import Server, serve
from pyro_vae.explore.subject import Explored
from pyro_vae.messages import printable


def run(options: Namespace) -> int:
    """Run `pyro-vae explore` with its options; it ends by Ctrl-C."""
    if not 0 <= options.port <= 65535:
        raise UsageError(f"--port: expected a number from 0 to 65535, got {options.port}")
    place = None if options.export is None else Place(Path(options.export))
    if place is not None:
        place.check()
    saved = open_saved(options)
    answers = Answers(explored(saved, load_split(saved, options, options.num)))
    if place is not None:
        made = exported(answers)
        place.write(made.text.encode())
        say(f"{made.weights}\nsaved {printable(str(place.path))}")
        return 0
    server = Server(answers, options.port)
    say(f"{server.address}   (Ctrl-C ends it)")
    if not options.no_browser:
        webbrowser.open_new_tab(server.address)
    serve(server)
    return 0


def explored(saved: SavedRun, chosen: Chosen) -> Explored:
    """What the page shows of a run and some data."""
    vae = saved.vae
    code = "k" if vae.has_one_code and vae.code_site is None else "z"
    words = {f"p(x|{code})": "likelihood", f"p({code})": "prior", "q(z|x)": "posterior"}
    facts = {
        "run": saved.path.name,
        "model": type(vae).__name__,
        **{word: type(getattr(vae, name)).__name__ for word, name in words.items() if hasattr(vae, name)},
        "data": f"{len(chosen)} of {chosen.split}, {chosen.data.name}",
        "weights": saved.weights,
    }
    return Explored(vae, chosen.x, chosen.inputs, chosen.labels, saved.table, facts)
