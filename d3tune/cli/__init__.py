"""The command line: parse, call, print. Heavy imports happen inside commands, so that --help is instant."""

from d3tune.cli import (
    ablating,
    comparing,
    completion,
    datasets,
    ensembling,
    predicting,
    reporting,
    results,
    searching,
    sweeping,
)
from d3tune.cli.program import app, main

__all__ = [
    "ablating",
    "app",
    "comparing",
    "completion",
    "datasets",
    "ensembling",
    "main",
    "predicting",
    "reporting",
    "results",
    "searching",
    "sweeping",
]
