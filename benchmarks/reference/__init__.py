"""The method's formulas in plain autograd: what d3tune's own code is compared with, for results and for speed.

Each formula is written down as it reads, and nothing is done for speed: inputs are concatenated, the gradient penalty
is a third forward pass and a double backward pass, pair similarities are taken of explicit pairs of rows, a class
comparator sees every pair of a row and a class, synthetic rows are made class by class, and Adam is torch's default.
It is meant to stay as it is: a change of it makes all earlier comparisons void.

It shares no code with d3tune and imports none of it. Every update takes its batches and its noise as tensors, so that
two implementations can be given the same ones; `Trial.step` draws them itself.

Covered: ``gan``, ``cegan``, ``vae``, ``diffusion``, the four D³ terms in their reconstructed form, the final softmax
head and its evaluation. Not covered: anchors, the vae's output noise, student steps beside the critic's, and the terms
as the public code of D³GZSL computes them.
"""
