"""The pictures of README.md and docs/: those that are shown are there, small, and need no network."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_BYTES = 300_000
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
IMAGES = sorted((ROOT / "docs" / "images").iterdir())
# ![text](file "title"), [text]: file.png, <img src="file"> and <source srcset="file 2x">
SHOWN = re.compile(
    r"""!\[[^\]]*\]\(\s*<?([^\s)>]+)"""
    r"""|^\[[^\]]+\]:\s*<?(\S+\.(?:png|svg|jpe?g|gif|webp))>?"""
    r"""|<(?:img|source)\b[^>]*?\bsrc(?:set)?\s*=\s*["']?([^"'\s>]+)""",
    re.MULTILINE,
)


def shown(text: str) -> list[str]:
    """The addresses of the images of a Markdown text, without those in code."""
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    return [next(filter(None, found)) for found in SHOWN.findall(prose)]


def outside(svg: str) -> list[str]:
    """What an SVG names that is neither in itself nor a namespace."""
    content = re.sub(r"""\bxmlns(:\w+)?\s*=\s*("[^"]*"|'[^']*')""", "", svg)
    used = re.findall(r"""(?:\bhref|\bsrc)\s*=\s*["']([^"']*)|url\(\s*["']?([^"')]*)""", content)
    named = [first or second for first, second in used]
    return re.findall(r"(?:https?|ftp|wss?):\S+|@import\b.*", content) + [
        address for address in named if not address.startswith(("#", "data:"))
    ]


def test_every_way_to_show_an_image_is_found() -> None:
    page = """![a](docs/a.png) [![b](b.svg "title")](https://x) `![no](no.png)`
[c]: c.png
<picture><source media="dark" srcset="d.svg 2x"><img alt="e" src='e.png' width=3></picture>
```text
![no](no.png)
```
[no](no.md)"""
    assert shown(page) == ["docs/a.png", "b.svg", "c.png", "d.svg", "e.png"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_images_that_a_page_shows_are_in_the_repository(page: Path) -> None:
    for address in shown(page.read_text(encoding="utf-8")):
        image = (page.parent / address).resolve()
        assert image.is_file(), f"{page.name} shows {address}, which is not there"
        assert image.is_relative_to(ROOT)
        assert image.stat().st_size < MOST_BYTES


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_images_are_small_and_an_svg_needs_no_network(image: Path) -> None:
    assert image.stat().st_size < MOST_BYTES
    if image.suffix == ".svg":
        assert outside(image.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "part",
    [
        '<style>@font-face {src: url("https://host/font.woff2")}</style>',
        '<image href="//host/a.png"/>',
        "<style>@import 'a.css';</style>",
        "<image xlink:href='a.png'/>",
    ],
)
def test_what_an_svg_would_load_is_found(part: str) -> None:
    kept = '<svg xmlns="http://www.w3.org/2000/svg" clip-path="url(#a)"><use href="#b"/>'
    assert outside(f"{kept}</svg>") == []
    assert outside(f"{kept}{part}</svg>")
