"""Measurements of what d3tune costs and gains; each is a module that is run."""
