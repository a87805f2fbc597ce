"""Names of classes in figures and captions."""

from collections.abc import Iterable

from d3tune.method.analysis import ClassResult
from d3tune.results.report.style import drawable

LONGEST = 28


def shown_name(name: str, longest: int = LONGEST) -> str:
    """A class's name as a figure can show it: what the font lacks is written as its code, U+4F0E."""
    signs = [sign if drawable(f"{sign}.") == f"{sign}." else f"U+{ord(sign):04X} " for sign in " ".join(name.split())]
    return shortened("".join(signs).strip(), longest)


def codes(names: Iterable[str]) -> str:
    """A sentence on which code stands for which name, for a caption; empty where a figure shows all as they are."""
    pairs = {shown_name(name): shortened(" ".join(name.split())) for name in names}
    told = [f"{code} is {name}" for code, name in pairs.items() if code != name]
    return f"In the figure {', '.join(told)}." if told else ""


def shortened(text: str, longest: int = LONGEST) -> str:
    """A text of at most so many signs."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def right_of(item: ClassResult) -> str:
    """How many of a class's rows are right."""
    return f"{round((item.accuracy or 0) * item.rows)} of {item.rows}"


def kind(seen: bool) -> str:
    """What a class is."""
    return "seen" if seen else "unseen"
