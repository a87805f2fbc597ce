"""What D³GZSL and everything around it is worth, measured fairly: ``python -m benchmarks.accuracy``."""
