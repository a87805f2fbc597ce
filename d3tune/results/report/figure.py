"""What a figure of the report is, whoever draws it."""

from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawn:
    """A figure, or why there is none.

    Attributes:
        name: of its files, e.g. ``learning-curves``; letters, digits, ``. _ -``.
        title: its heading on the page.
        caption: what is shown, with units and protocol.
        alt: what it shows, for whoever cannot see it.
        figure: made with matplotlib's object interface, see `style.figure`; None where there is none.
        missing: why there is none, as a sentence.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure | None
    missing: str = ""
