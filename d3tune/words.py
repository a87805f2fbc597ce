"""How things are put in words for people: numbers of things, and addresses without their passwords."""

import re

TEST_SELECTED = "test-selected"
# what a newcomer types first: no download, a minute or two
FIRST_SEARCH = "d3tune search --dataset hanzi --backbone gan --trials 12"

# what --warm-start knows beside files and runs
WARM_STARTS = ("shipped", "none", "leaderboard")

_PASSWORDS = (
    # a password in a database's address may hold a slash and quotes, one in a server's may not
    (re.compile(r"""((?:postgresql|mysql|mssql)[\w+]*://[^\s:/@"']*):\S*@"""), r"\1:***@"),
    (re.compile(r"""(\w://[^\s:/@"']*):[^\s/"']*@"""), r"\1:***@"),
    # a token in the place of a user
    (re.compile(r"""(https?://)[^\s:/@"']+@"""), r"\1***@"),
    # in a query, and in an ODBC string there, which writes = and ; as %3D and %3B
    (re.compile(r"""((?:password|passwd|pwd|token)(?:=|%3D))(?:(?!%3B)[^\s&;"'])+""", re.IGNORECASE), r"\1***"),
)


def plural(count: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def masked(text: str) -> str:
    """A text whose addresses show ``***`` in the place of a password."""
    for pattern, shown in _PASSWORDS:
        text = pattern.sub(shown, text)
    return text
