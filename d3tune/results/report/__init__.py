"""The report of runs: one page that needs nothing else, and its figures beside it. Reads studies, never trains."""
