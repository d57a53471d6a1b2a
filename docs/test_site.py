"""The check of the site that ``make site`` has built: its links, pictures and its search."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

SITE = Path(__file__).parents[1] / "build" / "site"
PAGES = sorted(SITE.rglob("*.html"))


class Page(HTMLParser):
    """What one page of the site refers to, and what can be referred to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: set[str] = set()
        self.pictures = 0
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids |= {value for name, value in attrs if name in ("id", "name") and value}
        self.targets += [value for name, value in attrs if name in ("href", "src") and value]
        self.pictures += tag == "img"


READ = {path: Page(path) for path in PAGES}


def test_there_is_a_site() -> None:
    assert len(PAGES) > 30


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(SITE)))
def test_what_a_page_refers_to_is_there(path: Path) -> None:
    for target in READ[path].targets:
        if re.match(r"[a-z]+:", target) or (path.name == "search.html" and target == "#"):
            continue
        name, heading = urlsplit(target).path, urlsplit(target).fragment
        found = (path.parent / unquote(name)).resolve() if name else path
        assert found.is_file(), target
        if heading and found in READ:
            assert unquote(heading) in READ[found].ids, target


@pytest.mark.parametrize("name", ["index.html", "architecture.html", "generated/02_wait_across_libraries.html"])
def test_pages_with_pictures_have_them(name: str) -> None:
    assert READ[SITE / name].pictures > 0


@pytest.mark.parametrize("word", ["handoff", "gate", "wait_stream", "race"])
def test_the_search_knows(word: str) -> None:
    index = (SITE / "searchindex.js").read_text()
    assert re.search(rf'"?\b{word}\b"?:', index)


@pytest.mark.parametrize("name", ["as_stream", "ExternalStream", "Event"])
def test_signatures_have_their_types(name: str) -> None:
    text = re.sub(r"<[^>]+>", "", (SITE / "generated" / "api" / f"interop.{name}.html").read_text())
    signature, *_ = text.partition(f"interop.{name}(")[2].partition("\n")
    assert "device: int | str |" in signature
