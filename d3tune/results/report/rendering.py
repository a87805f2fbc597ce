"""Figures as bytes: PNG, SVG, and SVG that is part of a page; the same figure gives the same bytes."""

import io
import re

from matplotlib.figure import Figure

from d3tune.results.markup import html_text

# what is before the root of an SVG file, what is about it and not in it, and comments
AROUND = re.compile(r"^.*?(?=<svg)|<metadata>.*?</metadata>|<!--.*?-->", re.DOTALL)
ROOT = re.compile(r"<svg[^>]*>")
BOX = re.compile(r'viewBox="([\d. -]+)"')
IDENTITY = re.compile(r'(\bid="|xlink:href="#|url\(#)')
BLANKS = re.compile(r"\n\s*")


def png(figure: Figure) -> bytes:
    """The figure as a PNG file of 150 dots an inch."""
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def svg(figure: Figure) -> str:
    """The figure as an SVG file."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def inline(file: str, name: str, alt: str) -> str:
    """An SVG file as an element of an HTML page.

    Args:
        file: from `svg`.
        name: unique on the page; its identities begin with it, since those of several figures may be equal.
        alt: for whoever cannot see it.
    """
    text = AROUND.sub("", file)
    (box,) = BOX.findall(ROOT.findall(text)[0])
    width = float(box.split()[2])
    root = f'<svg role="img" aria-label="{html_text(alt)}" viewBox="{box}" style="max-width: {width * 4 / 3:.0f}px">'
    text = ROOT.sub(lambda _: root, text, count=1)
    return BLANKS.sub("\n", IDENTITY.sub(rf"\g<1>{name}-", text)).strip()
