"""`push_to_hub`, `from_pretrained`: a run on a hub of models, as safetensors, our manifest and its card.

What is shared of a run has no path of the machine on which it was trained: of the data only their name is left.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

from pyro_vae.arguments.values import shown
from pyro_vae.errors import CheckpointError, FileError, PyroVaeError, UsageError
from pyro_vae.process.isolation import isolated
from pyro_vae.runs.derived import MADE_BY
from pyro_vae.runs.files import has, read, regular_files, remove, write_all
from pyro_vae.runs.formats import KINDS, TENSORS
from pyro_vae.runs.loading import load
from pyro_vae.runs.safe_yaml import dump_yaml
from pyro_vae.runs.texts import read_manifest
from pyro_vae.sharing.card import SAMPLES, card_of, check_license, check_repo
from pyro_vae.sharing.extras import extra
from pyro_vae.sharing.source import Source, source_of

_TEXTS = ("config.yaml", "manifest.json")
_ABOUT = "config.json"
"""What a copy has and a run has not."""
_PACKAGE = "huggingface_hub"
_REPLACED = [f"{kind}-*.safetensors" for kind in KINDS]
"""What an upload removes of earlier ones: weights whose names have another epoch."""


@isolated
def push_to_hub(
    run: str | Path,
    repo: str,
    *,
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    message: str = "A run of pyro_vae",
    trust: Sequence[str] = (),
) -> str:
    """Upload a run: its weights, its manifest and configuration, and its card as README.md (`model_card`).

    The weights are those that `load` gives; those of an earlier upload are removed. Left out are the state of the
    optimizer, so that the copy can be used and evaluated but not trained on, the arrays of evaluations, and the paths
    of this machine.

    Args:
        run: the run directory, or an archive of one.
        repo: where to, `"user/name"`; it is made if it is not there.
        license: of the weights, an identifier of the hub such as `"apache-2.0"`; None to state none.
        private: whether a new repository is private; None for the hub's default.
        token: for the hub; None for the one that `hf auth login` has saved.
        message: of the commit.
        trust: as for `load`.

    Returns:
        The address of the commit.

    Raises:
        MissingPackage: without the extra `hub`.
        CheckpointError: as `load`.
        UsageError: for a name of another form.
        FileError: if the hub refuses or can't be reached.

    Example:
        >>> push_to_hub("runs/digits", "digits")
        Traceback (most recent call last):
            ...
        pyro_vae.errors.UsageError: repo: expected 'user/name', of letters, digits, '-', '_' and '.', got 'digits'
    """
    check_repo(_given(repo))
    check_license(license)
    _hub("push_to_hub")
    with _hub_errors(f"upload to {repo}"):
        pretrained = pretrained_class()(run, repo=repo, license=license, trust=trust)
        options = {"private": private, "token": token, "commit_message": message, "delete_patterns": _REPLACED}
        return str(pretrained.push_to_hub(repo, **options))


@isolated
def save_pretrained(
    run: str | Path,
    folder: str | Path,
    *,
    repo: str | None = None,
    license: str | None = None,
    trust: Sequence[str] = (),
) -> Path:
    """Write to a folder what `push_to_hub` would upload; `load` and `from_pretrained` read it. It needs no extra.

    Args:
        run: the run directory, or an archive of one.
        folder: a new or an empty folder, or one that this function wrote.
        repo: the name for the card; None for a placeholder.
        license: as for `push_to_hub`.
        trust: as for `load`.

    Returns:
        The folder.

    Raises:
        CheckpointError: as `load`.
        UsageError: if the folder holds something else.
        FileError: if it can't be written.

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, fit
        >>> folder = Path(tempfile.mkdtemp())
        >>> history = fit(VAE((4,), latent_dim=2), torch.ones(20, 4), epochs=1, run=folder / "run", progress=False)
        >>> shared = save_pretrained(folder / "run", folder / "shared")
        >>> (shared / "README.md").exists(), from_pretrained(shared).shapes.latent
        (True, 2)
    """
    check_repo(repo)
    check_license(license)
    source, folder = source_of(_a_path(run), trust), Path(folder)
    _check_folder(folder)
    files = shared_files(source, repo, license)
    write_all({folder / name: data for name, data in files.items()})
    remove(folder, re.compile(TENSORS), keep={*files})  # weights of an earlier copy
    return folder


@isolated
def from_pretrained(
    repo: str | Path,
    *,
    trust: Sequence[str] = (),
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    device: str = "cpu",
) -> Any:
    """Download a run and build its VAE, in evaluation mode; from a folder of `save_pretrained` without the extra.

    Three files are downloaded: configuration, manifest, and the weights that it names. Their checksum, names, shapes
    and types are checked as by `load`. Nothing is unpickled, and no class is imported unless its module is trusted,
    whatever the repository says.

    Args:
        repo: `"user/name"`, or the path of a folder.
        trust: further modules whose classes may be imported and built; `pyro_vae` always is.
        revision: a branch, a tag or a commit, to be sure of the same weights; None for the main branch.
        token: for the hub, if the repository is private.
        cache_dir: where the hub's library keeps downloads.
        local_files_only: whether to use only what was downloaded before.
        device: where to put the VAE.

    Returns:
        The VAE, of the class that it was trained as.

    Raises:
        MissingPackage: without the extra `hub`, for a repository.
        CheckpointError: if the repository holds no run, is damaged, or names a class outside the trusted modules.
        UsageError: for a name of another form.
        FileError: if the hub can't be reached, or does not have the repository or the revision.

    Example:
        >>> from_pretrained("digits")
        Traceback (most recent call last):
            ...
        pyro_vae.errors.UsageError: repo: expected 'user/name', of letters, digits, '-', '_' and '.', got 'digits'
    """
    if isinstance(repo, PathLike) or (isinstance(repo, str) and Path(repo).is_dir()):
        return load(Path(repo), trust=trust, device=device)
    check_repo(_given(repo))
    _hub("from_pretrained")
    options = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    return pretrained_class().from_pretrained(repo, trust=trust, device=device, **options).vae


@cache
def pretrained_class() -> Any:
    """The class by which the hub's library saves, uploads and downloads a run; it derives from its mixin."""
    hub = _hub("Pretrained")

    class Pretrained(hub.ModelHubMixin):
        """A run with its VAE, as `huggingface_hub` handles models."""

        def __init__(
            self,
            run: str | Path,
            repo: str | None = None,
            license: str | None = None,
            trust: Sequence[str] = (),
            device: str = "cpu",
        ) -> None:
            self._source = source_of(_a_path(run), trust)
            self._repo, self._license = repo, license
            self._hub_mixin_config = None  # our configuration is config.yaml, and paths are nobody's business
            self.vae = self._source.vae.to(device)

        def _save_pretrained(self, save_directory: Path) -> None:
            for name, data in shared_files(self._source, self._repo, self._license).items():
                place = Path(save_directory) / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)

        @classmethod
        def from_pretrained(cls, repo: str, *, trust: Sequence[str] = (), device: str = "cpu", **options: Any) -> Any:
            """Without the mixin's own, which takes arguments from a file of the repository: one could be `trust`."""
            with _downloaded(repo, options) as folder:
                return cls(folder, trust=trust, device=device)

    return Pretrained


# ---- what is shared --------------------------------------------------------------------------------------------------


def shared_files(source: Source, repo: str | None, license: str | None) -> dict[str, bytes]:
    """The files of a run that are shared, by name.

    Args:
        source: the run.
        repo: for the card.
        license: for the card.
    """
    path = _path(source)
    files = {name: read(path, name) for name in ("manifest.json", *_weights(source.manifest))}
    files["config.yaml"] = dump_yaml(without_paths(source.config)).encode()
    shapes = {"event_shape": list(source.vae.shapes.event), "latent_dim": source.vae.shapes.latent}
    about = {"library": "pyro_vae", "class": type(source.vae).__name__, **shapes}
    files[_ABOUT] = json.dumps(about, indent=1).encode()
    for name in ("metrics.csv", SAMPLES):
        if has(path, name):
            files[name] = read(path, name)
    files["README.md"] = card_of(source, repo, license).encode(errors="backslashreplace")
    return files


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration without the folders of the machine: of files and of other runs the names alone."""
    shared = dict(config)
    for key in ("data", "start_from"):
        if isinstance(shared.get(key), str):
            shared[key] = Path(shared[key]).name
    if shared.get("data_root") is not None:
        shared["data_root"] = None
    if isinstance(shared.get(MADE_BY), Mapping):
        made = {key: Path(v).name if key in ("run", "data") and v else v for key, v in shared[MADE_BY].items()}
        shared[MADE_BY] = made
    return shared


def _weights(manifest: Mapping[str, Any]) -> list[str]:
    """The files that `load` reads: the best weights, and the last ones where there are no best."""
    kinds = ["best"] if manifest["progress"]["best_epoch"] else ["best", "weights"]
    return [manifest["files"][kind]["name"] for kind in kinds]


def _path(source: Source) -> Path:
    assert source.path is not None
    return source.path


def _check_folder(folder: Path) -> None:
    """Refuse a folder with other things than an earlier copy: also a run, whose state a copy would take away."""
    if folder.is_dir() and (names := regular_files(folder)) and not has(folder, _ABOUT):
        what = "a run" if has(folder, "config.yaml") else f"other files ({', '.join(names[:3])})"
        raise UsageError(f"{folder} holds {what}: name a new folder")


# ---- the hub ---------------------------------------------------------------------------------------------------------


def _hub(what: str) -> Any:
    return extra("hub", _PACKAGE, what=what)


def _given(repo: Any) -> Any:
    if repo is None:
        raise UsageError("repo: expected 'user/name', got None")
    return repo


def _a_path(run: Any) -> Any:
    if not isinstance(run, str | PathLike):
        raise UsageError(f"run: expected the path of a run directory, got {shown(run)}: fit(..., run=...) makes one")
    return run


@contextmanager
def _downloaded(repo: str, options: Mapping[str, Any]) -> Iterator[Path]:
    """A folder with what `load` needs of a run. They are copies, since the cache of the hub's library is of links."""
    download: Callable[..., str] = _hub("from_pretrained").hf_hub_download
    with tempfile.TemporaryDirectory(prefix="pyro_vae-") as made, _hub_errors(f"download {repo}"):
        folder = Path(made) / repo.replace("/", "-")
        folder.mkdir()

        def fetch(name: str) -> None:
            shutil.copyfile(download(repo, name, **options), folder / name)

        for name in _TEXTS:
            fetch(name)
        try:
            for name in _weights(read_manifest(folder)):
                fetch(name)
            yield folder
        except CheckpointError as error:  # of files that are gone when the message is read
            raise CheckpointError(str(error).replace(str(folder), repo)) from error


@contextmanager
def _hub_errors(doing: str) -> Iterator[None]:
    """Errors of the hub and of the connection become one line."""
    try:
        yield
    except PyroVaeError:
        raise
    except Exception as error:
        if not _is_of_the_hub(error):
            raise
        first = " ".join(str(error).split())[:300]
        raise _as_ours(error, f"can't {doing}: {type(error).__name__}: {first}") from error


def _is_of_the_hub(error: Exception) -> bool:
    """Whether an exception is raised by the hub's library, by what it connects with, or by the system."""
    modules = {cls.__module__.partition(".")[0] for cls in type(error).__mro__}
    return isinstance(error, OSError) or not modules.isdisjoint({_PACKAGE, "httpx", "httpx2", "httpcore", "requests"})


def _as_ours(error: Exception, message: str) -> PyroVaeError:
    if type(error).__name__ in ("EntryNotFoundError", "RemoteEntryNotFoundError"):
        return CheckpointError(f"{message}: it holds no run of pyro_vae")
    return FileError(message)
