r"""Training on more images first lowers the error (section 6, Table 2).

Paper: 1.7 points of top-1 error, 1.6 of top-5; ILSVRC-2012 validation: with a sixth convolution, trained on the Fall
2011 release and then on ILSVRC-2012, 39.0 / 16.6 %, without either 40.7 / 18.2 %.
Log of 2012: 146-2012-2011 38.99 / 16.62 %, 146-2012-2009 39.10 / 16.88 %, 145 40.66 / 18.21 %, ten views.

At each scale there are two commands: one that trains on more, into the directory `pretrained` of the current one, and
then that of the claim, whose nets start from there, each from that of its seed.

  python experiments/sweep.py local --config=experiments/pretraining.py:more_full --workdir=pretrained
  python -m experiments pretraining --scale=full --root=imagenet256 --workdir=DIR

  python experiments/sweep.py local --config=experiments/pretraining.py:more_laptop --workdir=pretrained
  python -m experiments pretraining --scale=laptop --root=imagenette256 --workdir=DIR

The first command of all wants the Fall 2011 release as a set `imagenet_fall2011`, prepared from a folder with train/
and, of images set aside, val/. A laptop trains on the embedded textures first: 4,000 drawings for 9,469 photographs,
where the paper has 15 million photographs for 1.2 million. The net of 2012 for the Fall 2011 release had two linear
layers of 1,024 units before its classes; here it has one last layer, as for ILSVRC-2012.

Cost: nine trainings of 90 epochs on ImageNet and three on all of it, or twelve of two to five minutes of a CPU core.
"""

from configs import quickstart, two_gpu
from experiments import claims

DATA = claims.PHOTOGRAPHS
SIXTH = {"model.net": "sixth_conv"}
PRETRAINED = SIXTH | {"init_from": "pretrained/model.net=sixth_conv,seed=SEED"}


def get_config(scale="laptop"):
    if scale == "more_full":
        config = two_gpu.get_config()
        config.dataset.root = "imagenet_fall2011"
        return config
    return quickstart.get_config() if scale == "more_laptop" else claims.paper_config(scale)


def sweep(scale="laptop"):
    if scale in ("more_full", "more_laptop"):
        return claims.over_seeds(SIXTH)
    return claims.over_seeds({}, SIXTH, PRETRAINED)


def summary(found):
    nets = {"sixth convolution, trained on more first": PRETRAINED, "sixth convolution": SIXTH, "two towers": {}}
    return claims.compare(found, nets, claimed=["sixth convolution"])
