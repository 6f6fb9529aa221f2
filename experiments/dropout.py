"""Without dropout the net overfits substantially (section 4.2).

Paper: "Without dropout, our network exhibits substantial overfitting. Dropout roughly doubles the number of iterations
required to converge."
Log of 2012: no net without it.

  python -m experiments dropout --scale=full --root=imagenet256 --workdir=DIR
  python -m experiments dropout --scale=laptop --root=imagenette256 --workdir=DIR

Cost: two trainings of 90 epochs on ImageNet; six runs of four to five minutes of a CPU core.
"""

from experiments import claims

DATA = claims.PHOTOGRAPHS


def get_config(scale="laptop"):
    return claims.paper_config(scale)


def sweep(scale="laptop"):
    return claims.over_seeds(scale, {}, {"model.net": "no_dropout"})
