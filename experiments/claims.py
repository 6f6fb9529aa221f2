"""What the files of the claims share: two scales, and what runs that differ in a setting say.

A claim's file has `DATA`, the data set of each scale; `get_config(scale)` and `sweep(scale)`, as a config with members
has them; and `summary(runs)`, a `Summary` of those that are finished.
"""

from configs import imagenette_narrow, two_gpu

SCALES = ("full", "laptop")
# In the order of the paper.
NAMES = (
    "fig1_relu_vs_tanh",
    "two_gpus",
    "lrn",
    "lrn_cifar10",
    "overlapping_pooling",
    "colour_noise",
    "ten_views",
    "dropout",
    "table1",
    "table2",
    "pretraining",
    "depth",
    "fig3_kernels",
    "fig4_retrieval",
)
PHOTOGRAPHS = {"full": "imagenet", "laptop": "imagenette"}


def paper_config(scale):
    """The paper's net and recipe on ImageNet, or at a quarter of the width on Imagenette."""
    return {"full": two_gpu, "laptop": imagenette_narrow}[scale].get_config()


def over_seeds(scale, *settings):
    """The members of a sweep: dicts of settings, each with one seed at full scale and with three on a laptop."""
    for seed in range({"full": 1, "laptop": 3}[scale]):
        for setting in settings:
            yield setting | {"seed": seed}
