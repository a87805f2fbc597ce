"""What is wrong with a run, and what to do about it."""

from dataclasses import dataclass

INTACT = "put an intact copy of the file there, or search anew with another --run-dir"


@dataclass(frozen=True)
class Fault:
    """Something that must not be so.

    Attributes:
        text: what is wrong, and where.
        advice: what to do; empty where the text says it.
    """

    text: str
    advice: str = ""

    def __str__(self) -> str:
        """Both as one line."""
        return f"{self.text}; {self.advice}" if self.advice else self.text
