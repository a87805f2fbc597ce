"""The command line: parse, call, print. Heavy imports happen inside commands, so that --help is instant."""

from d3tune.cli import ablating, datasets, predicting, results, searching
from d3tune.cli.program import app, main

__all__ = ["ablating", "app", "datasets", "main", "predicting", "results", "searching"]
