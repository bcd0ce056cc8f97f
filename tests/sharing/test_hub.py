"""A run on a hub that this machine serves: uploaded, downloaded, and hostile repositories refused."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from pyro_vae.autoencoders import VAE
from pyro_vae.data import load_data
from pyro_vae.errors import CheckpointError, FileError, MissingPackage, UsageError
from pyro_vae.runs.loading import load
from pyro_vae.runs.packing import pack
from pyro_vae.sharing import from_pretrained, push_to_hub, save_pretrained
from pyro_vae.sharing.hub import pretrained_class
from pyro_vae.testing.modules import small_mlp
from pyro_vae.training.fitting import fit
from tests.support.hub import Hub, serving

TOKEN = "hf_test"
FILES = {"README.md", "config.json", "config.yaml", "manifest.json", "metrics.csv"}
MINE = '''
import pathlib

pathlib.Path({mark!r}).write_text("executed")

from pyro_vae.likelihoods import Bernoulli


class Mine(Bernoulli):
    """Zeros and ones of my own."""
'''


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on digits, whose data has a path of this machine."""
    folder = tmp_path_factory.mktemp("hub")
    run = folder / "run"
    data = load_data("digits", binarize="threshold")
    fit(VAE((8, 8), 2, encoder=small_mlp, decoder=small_mlp), data, epochs=2, run=run, progress=False)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config |= {
        "data": "/home/somebody/secret/digits.npz",
        "data_root": "/home/somebody/data",
        "start_from": "/home/a/b",
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


@pytest.fixture
def hub(monkeypatch):
    """A hub, whose address the hub's library takes."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="the extra `hub` is not installed")
    hub = Hub()
    with serving(hub) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield hub


def same(vae, other):
    pairs = zip(vae.state_dict().items(), other.state_dict().items(), strict=True)
    return all(n == m and torch.equal(v, w) for (n, v), (m, w) in pairs)


def test_there_and_back(run, hub, tmp_path):
    address = push_to_hub(run, "me/digits", license="apache-2.0", token=TOKEN)
    files = hub.files("me/digits")
    weights = next(path.name for path in run.glob("best-*"))
    assert address.endswith("/me/digits/commit/" + list(hub.repos["me/digits"])[-1])
    assert set(files) == {*FILES, weights} and files[weights] == (run / weights).read_bytes()
    assert files["manifest.json"] == (run / "manifest.json").read_bytes()
    assert all(token in (None, f"Bearer {TOKEN}") for _, _, token in hub.requests)
    before = torch.get_rng_state()
    vae = from_pretrained("me/digits", cache_dir=tmp_path / "cache")
    assert same(vae, load(run)) and not vae.training and torch.equal(torch.get_rng_state(), before)
    asked = len(hub.requests)
    assert same(from_pretrained("me/digits", cache_dir=tmp_path / "cache", local_files_only=True), vae)
    assert len(hub.requests) == asked


def test_nothing_of_this_machine_is_uploaded(run, hub):
    push_to_hub(run, "me/digits", token=TOKEN)
    for name, content in hub.files("me/digits").items():
        assert b"/home/" not in content and b"somebody" not in content and str(run.parent).encode() not in content, name
    config = yaml.safe_load(hub.files("me/digits")["config.yaml"])
    assert config["data"] == "digits.npz" and config["data_root"] is None and config["start_from"] == "b"


def test_a_later_upload_replaces_the_weights(run, hub, tmp_path):
    first = push_to_hub(run, "me/digits", token=TOKEN).rpartition("/")[2]
    longer = tmp_path / "run"
    data = load_data("digits", binarize="threshold")
    fit(VAE((8, 8), 2, encoder=small_mlp, decoder=small_mlp), data, epochs=3, run=longer, progress=False)
    push_to_hub(longer, "me/digits", token=TOKEN)
    assert [name for name in hub.files("me/digits") if name.endswith(".safetensors")] == [
        "best-000003-000000.safetensors"
    ]
    assert same(from_pretrained("me/digits", cache_dir=tmp_path / "cache"), load(longer))
    assert same(from_pretrained("me/digits", revision=first, cache_dir=tmp_path / "cache"), load(run))


def test_an_archive_is_uploaded_like_a_run(run, hub, tmp_path):
    archive = pack(run, tmp_path / "digits.zip")
    push_to_hub(archive, "me/digits", token=TOKEN)
    assert same(from_pretrained("me/digits", cache_dir=tmp_path / "cache"), load(run))


def test_a_folder_needs_no_extra(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    folder = save_pretrained(run, tmp_path / "shared", repo="me/digits")
    weights = next(path.name for path in run.glob("best-*"))
    assert {path.name for path in folder.iterdir()} == {*FILES, weights}
    assert same(from_pretrained(folder), load(run)) and same(from_pretrained(str(folder)), load(run))
    assert same(load(save_pretrained(run, folder)), load(run))  # written again
    assert 'from_pretrained("user/name")' in (folder / "README.md").read_text()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match=r"holds other files \(thesis.tex\)"):
        save_pretrained(run, tmp_path / "other")


def test_a_run_is_not_a_place_for_a_copy(run, tmp_path):
    """A copy has not the state of the optimizer, and another manifest: the training would be lost."""
    other = Path(shutil.copytree(run, tmp_path / "other"))
    before = {path.name: path.read_bytes() for path in other.iterdir()}
    for folder in (other, run):
        with pytest.raises(UsageError, match="holds a run: name a new folder"):
            save_pretrained(run, folder)
    assert {path.name: path.read_bytes() for path in other.iterdir()} == before


def test_a_later_copy_replaces_the_weights(run, tmp_path):
    folder, data = save_pretrained(run, tmp_path / "shared"), load_data("digits", binarize="threshold")
    small = VAE((8, 8), 2, encoder=small_mlp, decoder=small_mlp)
    fit(small, data, epochs=3, run=tmp_path / "run", progress=False)
    assert same(from_pretrained(save_pretrained(tmp_path / "run", folder)), load(tmp_path / "run"))
    assert [path.name for path in folder.glob("*.safetensors")] == ["best-000003-000000.safetensors"]


def test_weights_without_validation_data(hub, tmp_path):
    x = torch.rand(30, 4).round()
    fit(VAE((4,), 2, encoder=small_mlp, decoder=small_mlp), x, epochs=1, run=tmp_path / "run", progress=False)
    push_to_hub(tmp_path / "run", "me/array", token=TOKEN)
    assert same(from_pretrained("me/array", cache_dir=tmp_path / "cache"), load(tmp_path / "run"))


# ---- trust -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def foreign(run, hub, tmp_path, monkeypatch):
    """A repository whose likelihood is of a module `mine`, which leaves a mark when it is imported."""
    mark = tmp_path / "mark"
    (tmp_path / "mine.py").write_text(MINE.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    files = {path.name: path.read_bytes() for path in save_pretrained(run, tmp_path / "shared").iterdir()}
    config = yaml.safe_load(files["config.yaml"])
    config["vae"]["likelihood"] = {"class_path": "mine.Mine"}
    hub.commit("you/theirs", {**files, "config.yaml": yaml.safe_dump(config).encode()})
    return mark, tmp_path / "cache"


def test_nothing_is_imported_without_trust(foreign):
    mark, cache = foreign
    with pytest.raises(CheckpointError, match=r"refused to import 'mine.Mine'"):
        from_pretrained("you/theirs", cache_dir=cache)
    assert not mark.exists()
    assert type(from_pretrained("you/theirs", cache_dir=cache, trust=["mine"]).likelihood).__name__ == "Mine"
    assert mark.read_text() == "executed"


def test_a_repository_cannot_trust_itself(foreign, hub):
    """The mixin of the hub's library would take arguments from config.json."""
    mark, cache = foreign
    own = {"trust": ["mine"], "which": "last", "device": "meta", "run": "/etc", "repo": "x", "license": "y"}
    hub.commit("you/theirs", {**hub.files("you/theirs"), "config.json": json.dumps(own).encode()})
    with pytest.raises(CheckpointError, match=r"refused to import 'mine.Mine'"):
        from_pretrained("you/theirs", cache_dir=cache)
    with pytest.raises(CheckpointError, match=r"refused to import 'mine.Mine'"):
        pretrained_class().from_pretrained("you/theirs", cache_dir=cache)
    assert not mark.exists()


def test_the_card_says_whom_one_trusts(foreign, hub, tmp_path):
    _, cache = foreign
    shutil.copytree(tmp_path / "shared", tmp_path / "copy")
    (tmp_path / "copy" / "config.yaml").write_bytes(hub.files("you/theirs")["config.yaml"])
    push_to_hub(tmp_path / "copy", "me/again", token=TOKEN, trust=["mine"])
    card = hub.files("me/again")["README.md"].decode()
    assert "from_pretrained(\"me/again\", trust=['mine'])" in card and "Zeros and ones of my own." in card
    assert from_pretrained("me/again", cache_dir=cache, trust=["mine"]).shapes.latent == 2


# ---- hostile and damaged repositories --------------------------------------------------------------------------------


def spoiled(files, what):
    """The files of a repository with a fault."""
    weights = next(name for name in files if name.startswith("best-"))
    manifest = json.loads(files["manifest.json"])
    if what == "weights":
        return {**files, weights: files[weights][:-1] + b"!"}
    if what == "a pickle":
        return {**files, weights: b"\x80\x04cos\nsystem\n(S'touch mark'\ntR."}
    if what == "a path":
        manifest["files"]["best"]["name"] = "../../etc/passwd"
    if what == "no manifest":
        return {name: data for name, data in files.items() if name != "manifest.json"}
    if what == "yaml":
        return {**files, "config.yaml": b"!!python/object/apply:os.system ['touch mark']"}
    if what == "a class":
        config = yaml.safe_load(files["config.yaml"])
        config["vae"]["likelihood"] = {"class_path": "subprocess.Popen", "init_args": {"args": "touch mark"}}
        return {**files, "config.yaml": yaml.safe_dump(config).encode()}
    return {**files, "manifest.json": json.dumps(manifest).encode()}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("weights", "its sha256 is not the one in manifest.json"),
        ("a pickle", "its sha256 is not the one in manifest.json"),
        ("a path", "files.best.name: expected the name of a .safetensors file"),
        ("no manifest", "can't download you/bad: .*it holds no run of pyro_vae"),
        ("yaml", "config.yaml"),
        ("a class", "refused to import 'subprocess.Popen'"),
    ],
)
def test_bad_repositories(run, hub, tmp_path, monkeypatch, what, message):
    monkeypatch.chdir(tmp_path)
    files = {path.name: path.read_bytes() for path in save_pretrained(run, tmp_path / "shared").iterdir()}
    hub.commit("you/bad", spoiled(files, what))
    with pytest.raises(CheckpointError, match=message) as refused:
        from_pretrained("you/bad", cache_dir=tmp_path / "cache")
    assert "/tmp" not in str(refused.value)  # nor any other folder that is gone
    assert not (tmp_path / "mark").exists()


def test_what_is_not_there(hub, tmp_path):
    options = {"cache_dir": tmp_path, "token": False}
    with pytest.raises(FileError, match="can't download me/nothing: RepositoryNotFoundError"):
        from_pretrained("me/nothing", **options)
    hub.commit("me/empty", {})
    with pytest.raises(CheckpointError, match=r"can't download me/empty: .*it holds no run of pyro_vae"):
        from_pretrained("me/empty", **options)
    with pytest.raises(FileError, match="can't download me/empty: RevisionNotFoundError"):
        from_pretrained("me/empty", revision="v2", **options)
    with pytest.raises(FileError, match="can't download me/empty"):
        from_pretrained("me/empty", local_files_only=True, **options)


def test_a_hub_that_is_down(run, hub, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # it is asked again and again
    hub.down = True
    with pytest.raises(FileError, match="can't upload to me/digits: "):
        push_to_hub(run, "me/digits", token=TOKEN)
    with pytest.raises(FileError, match="can't download me/digits: "):
        from_pretrained("me/digits", cache_dir=tmp_path)


@pytest.mark.parametrize("repo", ["digits", "a/b/c", "../up", "me/dig its", "me/", None, 3, "me/.."])
def test_names_of_repositories(run, hub, repo):
    with pytest.raises(UsageError, match="repo: expected 'user/name'"):
        push_to_hub(run, repo, token=TOKEN)
    with pytest.raises(UsageError, match="repo: expected 'user/name'"):
        from_pretrained(repo)
    assert not hub.requests


def test_mistakes(run, hub, tmp_path):
    with pytest.raises(UsageError, match="license: expected an identifier"):
        push_to_hub(run, "me/digits", license="my own!", token=TOKEN)
    with pytest.raises(UsageError, match="run: expected the path of a run directory, got VAE"):
        push_to_hub(VAE((4,), 2), "me/digits", token=TOKEN)
    with pytest.raises(CheckpointError, match="there is no run directory"):
        push_to_hub(tmp_path / "nope", "me/digits", token=TOKEN)
    assert not hub.requests


@pytest.mark.parametrize("call", [lambda run: push_to_hub(run, "me/digits"), lambda run: from_pretrained("me/digits")])
def test_without_the_extra(run, monkeypatch, call):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingPackage, match=r"needs huggingface_hub.*pip install 'pyro-vae\[hub\]'"):
        call(run)


def test_the_class_is_of_the_hubs_library(run, hub, tmp_path):
    """It saves, and uploads, as that library's users are used to."""
    from huggingface_hub import ModelHubMixin

    pretrained = pretrained_class()(run)
    assert isinstance(pretrained, ModelHubMixin) and isinstance(pretrained.vae, VAE)
    pretrained.save_pretrained(tmp_path / "saved")
    assert same(load(tmp_path / "saved"), load(run))
    about = json.loads(Path(tmp_path / "saved" / "config.json").read_text())
    assert about == {"library": "pyro_vae", "class": "VAE", "event_shape": [8, 8], "latent_dim": 2}
