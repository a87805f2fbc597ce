"""What the report says around its tables: how each was made, and what it does not say."""

MODELS = """\
Every row was tuned on validation with the same number of trials, confirmed with fresh seeds, and tested once a seed.
Accuracies are in [0, 1]; the offset of seen scores is carried from validation. Arms:

- none: no D³ term, and no head that reads teacher or student;
- teacher: no D³ term, with the head on the frozen teacher's embedding;
- cls: L_cls alone, never off, and no head on the teacher;
- d3: all four terms with weights of .01 and more, and no head on the teacher;
- plain: rezsl as published, one network without dropout, read by its cosine;
- mse, remse: rezsl with plain MSE, or with both exponents of ReMSE above 0, read by one of its own heads;
- combined: rezsl read by the mean of its heads and gaussian;
- shipped: the space as a user gets it, where any term may also be off.

"below gaussian": H below that of gaussian, which is tuned like the others.
"""
CHOICE = """\
The arm of each backbone with the largest validation H, mean over datasets, and what that arm reached on test.
"""
DIFFERENCES = """\
Paired by dataset and seed; mean with its 95 % interval (Student's t) and p of Wilcoxon's signed-rank test. The seeds of
a dataset share the configurations that were found for it: the interval is of seeds, and the column by dataset says how
far searches and datasets differ.
"""
TERMS = """\
The winner of arm d3, changed in one thing; nothing is tuned again. Validation fixes updates, head and offset of each
variant, then it is tested once a seed. ΔH is minus the winner, on the same seeds and datasets.
"""
BY_HEAD = """\
Validation H by head, mean over datasets, and how often validation chose which: a term that only moves a head that is
not chosen is seen here alone.
"""
DIAGNOSIS = """\
One training of the winner of arm d3 on the validation protocol; no test row takes part. Pairs: the share of one class
among all pairs of a batch of so many rows.
"""
GRADIENTS = """\
Norm of the generator's gradient, mean over five batches: of its own loss, and of each term at weight 1; in brackets as
trained, times its weight and `generator_d3_weight`, over the norm of L_gen. L_be and L_kl do not reach the generator.
"""
DRIFT = """\
Drift: mean distance of synthetic from true class means of the pseudo-unseen classes, over the mean distance of a row
from its class mean, at the first and the last evaluation, with the D³ gradient into the generator scaled by so much.
"""
HEADS = """\
Heads by backbone over all cells; then each cell, with the head that validation chose for its winner and validation H by
head: of the winner over its seeds, and in brackets the mean over the search's trials. No test row takes part.
"""
ANCHORS = """\
The winner of arm none, changed in one thing, as in question 2. ReMSE against MSE in rezsl is in question 1.
"""
OPTIMISM = """\
The winner of the arm with the largest validation H on each dataset, its offset carried from validation, beside what two
kinds of choosing on the test set make of it. Those are **test-selected**, and told only to say how much that flatters.
"""
OFFSETS = """\
In sd of the training rows' margin, mean over seeds; H lost is against the offset that is best on the test set.
"""
SPREAD = """\
Validation H of a fixed configuration over draws: its sd, and the sd of means over disjoint sets of three.
"""
CHOSEN = """\
Test H of the setting and offset of gaussian that disjoint sets of draws choose, as many draws a choice.
"""
PUBLISHED = """\
## 5. Why these numbers may not be set beside published ones

- **Other datasets.** Published tables are of AWA, CUB, FLO, SUN and aPY. hanzi is a dataset of its own, made for
  searches that take minutes.
- **Other features.** Published tables read the features of a ResNet-101, often fine-tuned. hanzi has features of
  its own, and an AWA1 with bag-of-words features is AWA1 by its classes and splits alone: what can be told from the
  features bounds every method.
- **Another protocol.** Here validation on classes held out of training chooses hyper-parameters, updates, head and
  offset, and the test sets are read once. Most public code evaluates on the test sets at every epoch and reports the
  best one; question 4 says what such choosing is worth here.
- **A calibrated H.** An offset of seen scores, fixed by validation, is part of every number here; many published
  numbers are without one.

A comparison with published numbers needs the published files: `d3tune search --dataset cub` and the like, or
`d3tune train` of a file in `search_spaces/published/`.
"""
