"""Settings of the site that `make docs` builds. The build needs no network, and nor does a reader of its pages."""

import hashlib
import os
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))

import inventories  # noqa: E402


def fingerprint() -> str:
    """Changes whenever the package does."""
    texts = b"".join(path.read_bytes() for path in sorted((HERE.parent / "pyro_vae").rglob("*.py")))
    return hashlib.sha256(texts).hexdigest()[:16]


project = "pyro_vae"
author = "the authors of pyro_vae"
version = release = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["version"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    # MathJax and its fonts come with this package, so formulas need no network. MathML written at build time would need
    # no script at all, but its look depends on whether the reader's machine has a mathematical font.
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
    "sphinx_sitemap",
    "sphinx_llms_txt",
    "alternative_texts",
    "api_pages",
    "command_pages",
    "docstring_markup",
    "example_pages",
    "live_pages",
    "notebook_downloads",
    "repository_links",
]
exclude_patterns = ["_build", "_extensions", "_inventories", "**.ipynb_checkpoints"]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb"}  # autosummary writes pages of the first kind

# Pages
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 4  # links to headings as in the view of the repository
myst_links_external_new_tab = False

# Notebooks: every `code-cell` runs when the site is built, and an error ends the build. Their models are so small that
# a second thread only waits for the first: beside two busy processes on two cores page 5 took 101 s, with one 18 s.
os.environ.setdefault("OMP_NUM_THREADS", "1")
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 180
nb_execution_cache_path = str(
    HERE / "_build" / "executed" / fingerprint()
)  # outputs of another state of the package are not reused
nb_merge_streams = True
nb_ipywidgets_js = {}  # its default is a script from elsewhere
os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")  # tqdm's, on every page without ipywidgets

# Reference
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
default_role = "py:obj"  # `fit` in a docstring: a link if it is a public name, code otherwise
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# Links to other projects
intersphinx_mapping = inventories.mapping(HERE / "_inventories", HERE / "_build" / "inventories")

# Look
html_theme = "furo"
html_title = f"pyro_vae {version}"
html_baseurl = os.environ.get("DOCS_URL", "http://localhost:8000/")  # where the site is published, for its sitemap
sitemap_url_scheme = "{link}"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["site.css"]
templates_path = ["_templates"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = True
llms_txt_summary = "Variational autoencoders as Pyro programs, with log p(x) and an honest error bar."
llms_txt_uri_template = "_sources/{docname}{suffix}{sourcelink_suffix}"
llms_txt_exclude = ["reference/api/*", "reference/examples/*", "genindex", "search"]  # their sources are no text
pygments_style = "friendly"
pygments_dark_style = "monokai"
