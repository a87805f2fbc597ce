"""How things are put in words for people: numbers of things, and addresses without their passwords."""

import re

# a password in a database's address may hold a slash, one in a server's may not
_PASSWORDS = (
    re.compile(r"""((?:postgresql|mysql|mssql)[\w+]*://[^\s:/@"']*):[^\s"']*@"""),
    re.compile(r"""(\w://[^\s:/@"']*):[^\s/"']*@"""),
)


def plural(count: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def masked(text: str) -> str:
    """A text whose addresses show ``***`` in the place of a password."""
    for pattern in _PASSWORDS:
        text = pattern.sub(r"\1:***@", text)
    return text
