r"""Training on more images first lowers the error (section 7, Table 2).

Paper: 1.7 points of top-1 and 1.6 of top-5 error; ILSVRC-2012 validation: with a sixth convolution, trained on the Fall
2011 release and then on ILSVRC-2012, 39.0 / 16.6 %, without either 40.7 / 18.2 %.
Log of 2012: 146-2012-2011 38.99 / 16.62 %, 146-2012-2009 39.10 / 16.88 %, 145 40.66 / 18.21 %, ten views.

Of the commands at each scale the first trains on more, into the directory `pretrained` of the current one:

  python -m alexnet_jax.main --config=configs/two_gpu.py --workdir=pretrained --config.model.net=sixth_conv \
      --config.dataset.root=imagenet_fall2011
  python -m experiments pretraining --scale=full --root=imagenet256 --workdir=DIR

  python -m alexnet_jax.main --config=configs/quickstart.py --workdir=pretrained --config.model.net=sixth_conv
  python -m experiments pretraining --scale=laptop --root=imagenette256 --workdir=DIR

imagenet_fall2011 is that release, prepared from a folder. A laptop trains on the embedded textures first: 4,000
drawings for 9,469 photographs, where the paper has 15 million photographs for 1.2 million.

Cost: three trainings of 90 epochs on ImageNet and one on all of it; ten runs of two to five minutes of a CPU core.
"""

from experiments import claims

DATA = claims.PHOTOGRAPHS
get_config = claims.paper_config
SIXTH = {"model.net": "sixth_conv"}
PRETRAINED = SIXTH | {"init_from": "pretrained"}


def sweep(scale="laptop"):
    return claims.over_seeds(scale, {}, SIXTH, PRETRAINED)


def summary(found):
    nets = {"sixth convolution, trained on more first": PRETRAINED, "sixth convolution": SIXTH, "two towers": {}}
    return claims.compare(found, nets, claimed=["sixth convolution"])
