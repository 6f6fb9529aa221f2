"""Response normalisation lowers the error on CIFAR-10, too (section 3.3).

Paper: 2 points of error; "a four-layer CNN achieved a 13% test error rate without normalization and 11% with
normalization".
Log of 2012: 13 % and 11 % by two nets that differ in more than norms.

The net with norms has 64 maps in its first locally connected layer, not 32, and another weight decay in its last. So a
third net is tried here: that one without its norms. It is the one that decides. At full scale the biases' rate stays as
it is in the last 20 epochs, when that of weights falls, as in 2012. On a laptop these are the last two of ten epochs,
and it falls too.

  python -m experiments lrn_cifar10 --scale=full --root=cifar10_32 --workdir=DIR
  python -m experiments lrn_cifar10 --scale=laptop --root=cifar10_32 --workdir=DIR

Cost: nine trainings of 520 epochs, or of ten epochs, ten to fifteen minutes of a CPU core each.
"""

from configs import cifar10
from experiments import claims

DATA = {"full": "cifar10", "laptop": "cifar10"}


def get_config(scale="laptop"):
    config = cifar10.get_config("11pct")
    if scale == "laptop":
        config.num_epochs = 10.0
        config.schedule.epochs = (8.0, 9.0)
        config.optimizer.bias_rate_falls = True
        config.eval_every = 2.0
    return config


def sweep(scale="laptop"):
    names = ("cifar10_13pct", "cifar10_11pct", "cifar10_11pct_no_norm")
    return claims.over_seeds(*({"model.net": name} for name in names))


def summary(found):
    names = {
        "with norms (11pct)": "cifar10_11pct",
        "the same without its norms": "cifar10_11pct_no_norm",
        "2012's without norms (13pct)": "cifar10_13pct",
    }
    nets = {label: {"model.net": name} for label, name in names.items()}
    return claims.compare(found, nets, claimed=["the same without its norms"])
