"""Noise along the colours' principal components lowers the error (section 4.1).

Paper: more than 1 point of top-1 error.
Log of 2012: no net without it.

  python -m experiments colour_noise --scale=full --root=imagenet256 --workdir=DIR
  python -m experiments colour_noise --scale=laptop --root=imagenette256 --workdir=DIR

Cost: six trainings of 90 epochs on ImageNet, or of four to five minutes of a CPU core.
"""

from experiments import claims

DATA = claims.PHOTOGRAPHS
get_config = claims.paper_config


def sweep(scale="laptop"):
    return claims.over_seeds({}, {"augment.colour_noise": 0.0})


def summary(found):
    return claims.compare(found, {"with the noise": {}, "without": {"augment.colour_noise": 0.0}})
