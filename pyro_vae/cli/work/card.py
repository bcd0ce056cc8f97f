"""`pyro-vae card`: a model card in the run."""

import shlex
from pathlib import Path

from jsonargparse import Namespace

from pyro_vae.cli.work.places import wanted
from pyro_vae.cli.work.printing import print_result
from pyro_vae.cli.work.saved_runs import check_folder
from pyro_vae.errors import CheckpointError
from pyro_vae.runs.files import LARGEST_TEXT, has, read
from pyro_vae.sharing.card import MARK, card_of, check_license, check_repo
from pyro_vae.sharing.measured import diagnoses, evaluations
from pyro_vae.sharing.source import Source, source_of

_FILE = "README.md"


def run(options: Namespace) -> int:
    """Run the command with its options; returns the exit code."""
    path = Path(options.run)
    check_folder(path)
    check_repo(options.repo)
    check_license(options.license)
    source = source_of(path, options.trust)
    place = wanted(options.out, path, _FILE)
    if options.out is None:
        _check_own(path)
    place.check()
    place.write(card_of(source, options.repo, options.license).encode(errors="backslashreplace"))
    print_result({"run": options.run, "card": str(place.path), "to_measure": _absent(source)}, as_json=options.json)
    return 0


def _check_own(path: Path) -> None:
    """Refuse to replace a page that is no card of this package."""
    if has(path, _FILE) and MARK.encode() not in read(path, _FILE, LARGEST_TEXT):
        raise CheckpointError(f"{path / _FILE} is not a card of pyro-vae, so it is not replaced: name a file by --out")


def _absent(source: Source) -> list[str]:
    """The commands whose results the card lacks."""
    lacks = []
    if not evaluations(source).rows:
        lacks.append(shlex.join(["pyro-vae", "evaluate", str(source.path)]))
    if not diagnoses(source)[0]:
        lacks.append(shlex.join(["pyro-vae", "diagnose", str(source.path)]))
    return lacks
