"""Without any one of the middle layers the error is higher (sections 1 and 7).

Paper: about 2 points of top-1 error; "removing any of the middle layers results in a loss of about 2% for the top-1
performance of the network".
Log of 2012: no net without one.

  python -m experiments depth --scale=full --root=imagenet256 --workdir=DIR
  python -m experiments depth --scale=laptop --root=imagenette256 --workdir=DIR

Cost: fifteen trainings of 90 epochs on ImageNet, or of four to five minutes of a CPU core.
"""

from experiments import claims

DATA = claims.PHOTOGRAPHS
get_config = claims.paper_config
LAYERS = ("conv2", "conv3", "conv4", "conv5")


def sweep(scale="laptop"):
    return claims.over_seeds({}, *({"model.without": layer} for layer in LAYERS))


def summary(found):
    return claims.compare(
        found, {"all layers": {}} | {f"without {layer}": {"model.without": layer} for layer in LAYERS}
    )
