"""Every figure of one run, in the order of the page."""

from collections.abc import Callable

from d3tune.results.report.coordinates import coordinates
from d3tune.results.report.curves import curves
from d3tune.results.report.figure import Drawn
from d3tune.results.report.front import front
from d3tune.results.report.history import history
from d3tune.results.report.importance import importance
from d3tune.results.report.material import Material
from d3tune.results.report.plane import plane
from d3tune.results.report.providers import provided
from d3tune.results.report.resources import seconds, timeline
from d3tune.results.report.sensitivity import sensitivity
from d3tune.results.report.slices import slices
from d3tune.results.report.terms import terms

FIGURES: tuple[Callable[[Material], Drawn], ...] = (
    history,
    curves,
    plane,
    importance,
    sensitivity,
    terms,
    slices,
    coordinates,
    seconds,
    timeline,
)


def figures_of(material: Material) -> list[Drawn]:
    """Draw them; under `style.styled`."""
    return [*front(material), *(draw(material) for draw in FIGURES), *provided(material.run)]
