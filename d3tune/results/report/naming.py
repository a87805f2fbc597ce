"""Names of classes in figures and captions."""

from collections.abc import Iterable

from d3tune.method.analysis import ClassResult
from d3tune.results.report.style import drawable

LONGEST = 28


def plain_name(name: str) -> str:
    """A class's name as a caption has it: one line, printable, not too long."""
    return _shortened(_printable(name))


def shown_name(name: str) -> str:
    """A class's name as a figure can show it: what the font lacks is written as its code, U+4F0E."""
    signs = (sign if sign == " " or drawable(sign) == sign else f"U+{ord(sign):04X} " for sign in _printable(name))
    return _shortened("".join(signs).strip())


def codes(names: Iterable[str]) -> str:
    """A sentence on which code stands for which name, for a caption; empty where a figure shows all as they are."""
    pairs = {shown_name(name): plain_name(name) for name in names}
    told = [f"{shown} is {name}" for shown, name in pairs.items() if shown != name]
    return f"In the figure {', '.join(told)}." if told else ""


def right_of(item: ClassResult) -> str:
    """How many of a class's rows are right."""
    return f"{round((item.accuracy or 0) * item.rows)} of {item.rows}"


def kind(seen: bool) -> str:
    """What a class is."""
    return "seen" if seen else "unseen"


def _printable(name: str) -> str:
    text = "".join(sign if sign.isprintable() else " " for sign in name)
    return " ".join(text.split()) or "(no name)"


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
