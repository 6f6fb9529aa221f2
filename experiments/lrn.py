"""Response normalisation lowers the error (section 3.3).

Paper: 1.4 points of top-1 error, 1.2 of top-5; ILSVRC-2012 validation.
Log of 2012: net 145 40.66 / 18.21 %, net 148 without it 42.03 / 19.36 %, ten views.

  python -m experiments lrn --scale=full --root=imagenet256 --workdir=DIR
  python -m experiments lrn --scale=laptop --root=imagenette256 --workdir=DIR

Cost: six trainings of 90 epochs on ImageNet, or of four to five minutes of a CPU core.
"""

from experiments import claims

DATA = claims.PHOTOGRAPHS
get_config = claims.paper_config


def sweep(scale="laptop"):
    return claims.over_seeds({}, {"model.net": "no_norm"})


def summary(found):
    return claims.compare(found, {"with norms": {}, "without norms": {"model.net": "no_norm"}})
