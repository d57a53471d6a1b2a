"""The settings of the documentation site, which ``make site`` builds with Sphinx."""

import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.util import inspect

import interop

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent
GENERATED = DOCS / "generated"

project = "interop"
author = copyright = "The authors of interop"  # noqa: A001  (Sphinx's name)
release = version = interop.__version__
html_title = "interop"
html_theme = "furo"
html_theme_options = {"navigation_with_keys": True}
pygments_dark_style = "github-dark"
html_copy_source = html_show_sourcelink = False
html_static_path = ["static"]
html_css_files = ["site.css"]
templates_path = ["templates"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["templates"]
copybutton_exclude = ".linenos, .gp, .go"

myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
nb_execution_mode = "off"
nb_merge_streams = True

autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
# Of ExternalStream and its like, the methods are in several classes.
autodoc_default_options = {"members": True, "inherited-members": "object, BaseException, int, tuple, str"}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True

# A reference that leads nowhere is an error. The site has no pages for Python, for other libraries, for what is private
# here, and for the parts of the modules that are public.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", rf"({'|'.join(sys.stdlib_module_names)}|_pytest|jax|matplotlib|numpy|pytest)\..*"),
    (r"py:.*", r"interop\._.*|interop\.\w+\.\w+\.\w+|interop\.timeline\._Open|Executor|Figure|Row|T|Tensor"),
    (r"py:.*", r"EyeShut|Window|Watch"),  # of the driver's eye
    (r"py:.*", r"LEGACY|PER_THREAD|POISON|__await__|library|only_addresses|Reading\.notes|interop\.\w+\.owner"),
]
suppress_warnings = ["ref.python"]  # the simulator has a Gate too

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:)([^)#\s]+)(#[^)\s]*)?\)")
_CODE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_GENERATED_PAGES = {
    ROOT / "CONTRIBUTING.md": "contributing.md",
    ROOT / "CHANGELOG.md": "changelog.md",
    ROOT / "benchmarks" / "results.md": "measurements.md",
}


def linked(text: str, folder: Path, page_folder: Path) -> str:
    """The text of a page that was written in *folder*, with links that lead somewhere from *page_folder* of the site.

    A link to another page goes there; one to any other file offers the file. Nothing is left of one to a folder.
    """

    def link(found: re.Match[str]) -> str:
        image, words, target, heading = found.groups(default="")
        path = (folder / target).resolve()
        if path.is_dir():
            return words
        if path.suffix == ".ipynb":
            path = GENERATED / path.name
        elif path == ROOT / "README.md":
            path = DOCS / "index.md"
        elif path in _GENERATED_PAGES:
            path = GENERATED / _GENERATED_PAGES[path]
        return f"{image}[{words}]({os.path.relpath(path, page_folder)}{heading})"

    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in _CODE.split(text))


def bring_pages(_: "Sphinx") -> None:
    """Copy what stands elsewhere in the repository, and is shown here too: Sphinx reads one folder only."""
    GENERATED.mkdir(exist_ok=True)
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy2(notebook, GENERATED)
    for path, page in _GENERATED_PAGES.items():
        (GENERATED / page).write_text(linked(path.read_text(), path.parent, GENERATED))


def mend_links(app: "Sphinx", page: str, source: list[str]) -> None:
    """Make the links of a page lead somewhere on the site, as they do in the repository."""
    path = Path(app.env.doc2path(page))
    if path.suffix == ".md" and not path.is_relative_to(GENERATED):
        source[0] = linked(source[0], path.parent, path.parent)


def parse(docstring: GoogleDocstring) -> None:
    """Napoleon, but that the docstring of an attribute is read like any other, and not as ``type: description``."""
    if docstring._what in {"attribute", "data", "property"}:
        docstring._what = "method"
    napoleons_parse(docstring)


def arguments_of_init(*event: Any) -> tuple[str, str] | None:  # noqa: ANN401  (Sphinx gives seven of many types)
    """The signature of a stream or an event: without the extension, these have a ``__new__`` that takes anything."""
    _, _, _, obj, _, signature, _ = event
    if not signature or "_arguments" not in signature:
        return None
    of_init = inspect.signature(obj.__init__, bound_method=True)
    return inspect.stringify_signature(of_init, show_return_annotation=False, unqualified_typehints=True), ""


napoleons_parse = GoogleDocstring._parse
GoogleDocstring._parse = parse


def setup(app: "Sphinx") -> None:
    """Tell Sphinx of these."""
    app.connect("builder-inited", bring_pages)
    app.connect("source-read", mend_links)
    app.connect("autodoc-process-signature", arguments_of_init)
