"""Figures that other modules draw of a run, in the order of the page. To add some, add their function here."""

from collections.abc import Callable

from d3tune.errors import D3TuneError
from d3tune.results.report.figure import Drawn
from d3tune.results.report.winner import winner_figures
from d3tune.search.run import RunDirectory

Provider = Callable[[RunDirectory], list[Drawn]]

PROVIDERS: tuple[Provider, ...] = (winner_figures,)


def provided(run: RunDirectory) -> list[Drawn]:
    """What the providers draw of a run; one that cannot read what it needs says so in the place of its figures."""
    found: list[Drawn] = []
    for provider in PROVIDERS:
        try:
            found += provider(run)
        except D3TuneError as error:
            name = provider.__name__.replace("_", "-")
            found.append(Drawn(name, provider.__name__.replace("_", " "), "", "", None, f"{error}."))
    return found
