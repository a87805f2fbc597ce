"""The page of a report: everything in one file, which needs no network, no other file and no script."""

from collections.abc import Sequence
from dataclasses import dataclass

from d3tune.results.markup import html_text
from d3tune.results.report.figure import Drawn
from d3tune.results.report.material import Material
from d3tune.results.report.rendering import inline, png, svg
from d3tune.results.report.tables import about, configuration, outcome

# nothing may be fetched, whatever a page could say
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; padding: 0 1.2em; max-width: 62em; color: #111;
  background: #fff }
h1 { font-size: 1.6em } h2 { font-size: 1.3em; border-bottom: 2px solid; margin-top: 2em } h3 { font-size: 1.05em }
nav ul { columns: 2; padding-left: 1.2em }
.wide { overflow-x: auto }
table { border-collapse: collapse; margin: 0 0 1.5em; font-size: .93em; font-variant-numeric: tabular-nums }
caption { text-align: left; font-weight: bold; padding: .4em 0 }
th, td { text-align: left; padding: .2em .8em .2em 0; font-weight: normal; vertical-align: top }
tbody th { white-space: nowrap }
td { overflow-wrap: break-word }
thead { border-top: 2px solid; border-bottom: 1px solid }
tbody { border-bottom: 2px solid }
figure { margin: 1.5em 0 2.5em }
figure svg { display: block; width: 100%; height: auto }
figcaption, .missing { font-size: .93em; max-width: 52em }
.files { color: #444; font-family: monospace }
@page { margin: 14mm }
@media print {
  body { margin: 0; max-width: none; font-size: 10pt }
  nav { display: none }
  figure, table { break-inside: avoid }
  h2, h3 { break-after: avoid }
  .wide { overflow: visible }
  table { font-size: 8pt }
}
"""


@dataclass(frozen=True)
class Rendered:
    """A figure with its bytes.

    Attributes:
        drawn: what it is.
        name: of its files, unique in the report.
        png: the PNG file; empty where there is no figure.
        svg: the SVG file; likewise.
    """

    drawn: Drawn
    name: str
    png: bytes = b""
    svg: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: of its place, unique on the page.
        title: its heading.
        parts: HTML above its figures.
        figures: below.
    """

    name: str
    title: str
    parts: Sequence[str]
    figures: Sequence[Rendered]


def rendered(drawn: Drawn, name: str) -> Rendered:
    """Make a figure's bytes; under `style.styled`."""
    if drawn.figure is None:
        return Rendered(drawn, name)
    vector = svg(drawn.figure)
    # it is laid out now, which takes as long as drawing it
    drawn.figure.set_layout_engine("none")
    return Rendered(drawn, name, png(drawn.figure), vector)


def run_section(material: Material, figures: Sequence[Rendered], name: str) -> Section:
    """The part of one run: what it is, its winner, its figures."""
    tables = [f'<div class="wide">{part}</div>' for part in (about(material), *outcome(material))]
    return Section(name, f"Run {material.run.name}", [*tables, *configuration(material)], figures)


def report_page(title: str, sections: Sequence[Section]) -> str:
    """The page as HTML."""
    name = html_text(title)
    head = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        # without one a browser would ask a server for it
        '<link rel="icon" href="data:,">',
        f"<title>{name}</title>",
        f"<style>{STYLE}</style>",
        "</head>",
        "<body>",
        f"<h1>{name}</h1>",
    ]
    body = [_contents(sections), *(_section(section) for section in sections)]
    return "\n".join([*head, *body, "</body>\n</html>\n"])


def _contents(sections: Sequence[Section]) -> str:
    """Links to the sections, and to the figures of a page that is about one run."""
    places = [(section.name, section.title) for section in sections]
    if len(sections) == 1:
        places += [(figure.name, figure.drawn.title) for figure in sections[0].figures]
    links = "\n".join(f'<li><a href="#{place}">{html_text(title)}</a></li>' for place, title in places)
    return f"<nav>\n<ul>\n{links}\n</ul>\n</nav>"


def _section(section: Section) -> str:
    lines = [
        f'<section id="{section.name}">',
        f"<h2>{html_text(section.title)}</h2>",
        *section.parts,
        *map(_figure, section.figures),
    ]
    return "\n".join([*lines, "</section>"])


def _figure(figure: Rendered) -> str:
    heading = f"<h3>{html_text(figure.drawn.title)}</h3>"
    if not figure.svg:
        reason = html_text(figure.drawn.missing)
        return f'<div id="{figure.name}">\n{heading}\n<p class="missing">No figure: {reason}</p>\n</div>'
    files = f'<span class="files">figures/{figure.name}.svg, .png</span>'
    caption = f"<figcaption>{html_text(figure.drawn.caption)} {files}</figcaption>"
    drawing = inline(figure.svg, figure.name, figure.drawn.alt)
    return f'<figure id="{figure.name}">\n{heading}\n{drawing}\n{caption}\n</figure>'
