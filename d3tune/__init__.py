"""d3tune: hyper-parameter search for D³GZSL, generalized zero-shot learning by distillation and OOD detection."""

__version__ = "0.1.0"
