"""The report of runs: one page that needs nothing else, and its figures beside it. Reads studies, never trains.

Optuna computes the importances. Its plots are not used: they change matplotlib's style for the whole process, tell
states apart by colour alone, and leave out the trials that lack a conditional hyper-parameter.
"""
