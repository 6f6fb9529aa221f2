"""The mean of ten views has a lower error than the centre view (section 4.1, footnote of section 6).

Paper: 37.5 / 17.0 % by ten, 39.0 / 18.3 % by the centre (ILSVRC-2010 test).
Log of 2012: 37.47 / 17.00 % by ten, 39.02 / 18.30 % by the centre.

  python -m experiments ten_views --scale=full --root=imagenet256 --workdir=DIR
  python -m experiments ten_views --scale=laptop --root=imagenette256 --workdir=DIR

Cost: a training of 90 epochs on ImageNet; three runs of four to five minutes of a CPU core.
"""

from experiments import claims

DATA = claims.PHOTOGRAPHS


def get_config(scale="laptop"):
    return claims.paper_config(scale)


def sweep(scale="laptop"):
    return claims.over_seeds(scale, {})
