"""Pools that overlap lower the error (section 3.4).

Paper: 0.4 points of top-1 error, 0.3 of top-5; windows of 3×3 with stride 2, beside 2×2 with stride 2.
Log of 2012: net 145 40.66 / 18.21 %, net 147 with 2×2 41.06 / 18.51 %, ten views, ILSVRC-2012 validation.

  python -m experiments overlapping_pooling --scale=full --root=imagenet256 --workdir=DIR
  python -m experiments overlapping_pooling --scale=laptop --root=imagenette256 --workdir=DIR

Cost: six trainings of 90 epochs on ImageNet, or of four to five minutes of a CPU core.
"""

from experiments import claims

DATA = claims.PHOTOGRAPHS
get_config = claims.paper_config


def sweep(scale="laptop"):
    return claims.over_seeds({}, {"model.net": "no_overlap"})


def summary(found):
    return claims.compare(found, {"3×3, stride 2": {}, "2×2, stride 2": {"model.net": "no_overlap"}})
