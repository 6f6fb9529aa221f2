"""Two towers have a lower error than the net that fits on one GPU (section 3.2).

Paper: 1.7 points of top-1 error, 1.2 of top-5; the net for one has half the maps in every convolution but the last
(ILSVRC-2010 test).
Log of 2012: 145-2010 37.47 / 17.00 %, 145-half 39.17 / 18.23 %, ten views. On ILSVRC-2012 the towers that never
communicate, net 150, which the paper does not mention: 41.83 / 19.33 %, net 145 40.66 / 18.21 %.

  python -m experiments two_gpus --scale=full --root=imagenet256 --workdir=DIR
  python -m experiments two_gpus --scale=laptop --root=imagenette256 --workdir=DIR

The paper's figures are of ILSVRC-2010, full scale is ILSVRC-2012.

Cost: nine trainings of 90 epochs on ImageNet, or of four to five minutes of a CPU core.
"""

from experiments import claims

DATA = claims.PHOTOGRAPHS
get_config = claims.paper_config
ONE_GPU = {"model.net": "one_gpu", "mesh.model": 1}


def sweep(scale="laptop"):
    return claims.over_seeds({}, ONE_GPU, {"model.net": "separate"})


def summary(found):
    nets = {"two towers": {}, "one GPU's net": ONE_GPU, "towers that never communicate": {"model.net": "separate"}}
    return claims.compare(found, nets, claimed=["one GPU's net"])
