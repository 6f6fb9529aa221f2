"""The claims that one net has a lower error than others: each trains these nets and compares them by `compare`."""

import functools

from ml_collections import ConfigDict

from configs import cifar10, quickstart, two_gpu
from experiments.claims.claim import Claim, Settings, Sweep, paper_config
from experiments.claims.groups import compare, over_seeds

PAPER_IS_OF_2010 = "The paper's numbers are for ILSVRC-2010; the full scale uses ILSVRC-2012."


def compared(nets: dict[str, Settings], config=paper_config, **which) -> dict:
    """The fields `sweep` and `summary` of a claim that compares nets; for `which` see `compare`."""
    return {
        "sweep": Sweep(lambda scale: over_seeds(*nets.values()), config),
        "summary": functools.partial(compare, nets=nets, **which),
    }


TWO_GPUS = Claim(
    name="two_gpus",
    title="Two towers have a lower error than the net that fits on one GPU",
    section="section 3.2",
    figure="1.7 points of top-1 error",
    paper="1.2 points of top-5 error, on the test images of ILSVRC-2010. The net for one GPU has half the maps in "
    "every convolutional layer but the last.",
    log="145-2010 37.47 / 17.00 %, 145-half 39.17 / 18.23 %, by ten views. The log also has net 150, whose towers "
    "never communicate and which the paper does not mention. On ILSVRC-2012, net 150 has "
    "41.83 / 19.33 % and net 145 40.66 / 18.21 %.",
    notes=(PAPER_IS_OF_2010,),
    **compared(
        {
            "two towers": {},
            "one GPU's net": {"model.net": "one_gpu", "mesh.model": 1},
            "towers that never communicate": {"model.net": "separate"},
        },
        decisive=["one GPU's net"],
    ),
)

LRN = Claim(
    name="lrn",
    title="Response normalisation lowers the error",
    section="section 3.3",
    figure="1.4 points of top-1 error",
    paper="1.2 points of top-5 error, on the validation images of ILSVRC-2012.",
    log="net 145 40.66 / 18.21 %, net 148 without normalisation 42.03 / 19.36 %, by ten views.",
    **compared({"with norms": {}, "without norms": {"model.net": "no_norm"}}),
)


def lrn_cifar10_config(scale: str) -> ConfigDict:
    config = cifar10.get_config("11pct")
    if scale == "laptop":
        config.num_epochs = 10.0
        config.schedule.epochs = (8.0, 9.0)
        config.optimizer.bias_rate_falls = True
        config.eval_every = 2.0
    return config


LRN_CIFAR10 = Claim(
    name="lrn_cifar10",
    title="Response normalisation also lowers the error on CIFAR-10",
    section="section 3.3",
    figure="2 points of error",
    paper='"a four-layer CNN achieved a 13% test error rate without normalization and 11% with normalization".',
    log="13 % and 11 %, by two nets that differ in more than the norms.",
    notes=(
        "The nets of 2012 differ in more than the norms: the one with norms has 64 maps instead of 32 in its first "
        "locally connected layer, and another weight decay in its last layer. The claim is therefore decided by a "
        "third net, which is the one with norms after their removal. At full scale only the learning rate of the "
        "weights falls in the last 20 epochs, as in 2012; on a laptop that of the biases falls too, in the last two of "
        "ten epochs.",
    ),
    data={"full": "cifar10", "laptop": "cifar10"},
    cost={"full": "520 epochs", "laptop": "ten epochs, ten to fifteen minutes each on a CPU core"},
    **compared(
        {
            "2012's without norms (13pct)": {"model.net": "cifar10_13pct"},
            "with norms (11pct)": {"model.net": "cifar10_11pct"},
            "the same without its norms": {"model.net": "cifar10_11pct_no_norm"},
        },
        lrn_cifar10_config,
        first="with norms (11pct)",
        decisive=["the same without its norms"],
    ),
)

OVERLAPPING_POOLING = Claim(
    name="overlapping_pooling",
    title="Overlapping pooling lowers the error",
    section="section 3.4",
    figure="0.4 points of top-1 error",
    paper="0.3 points of top-5 error. Windows of 3×3 with stride 2 are compared with 2×2 with stride 2.",
    log="net 145 40.66 / 18.21 %, net 147 with windows of 2×2 41.06 / 18.51 %, by ten views, on the validation images "
    "of ILSVRC-2012.",
    **compared({"3×3, stride 2": {}, "2×2, stride 2": {"model.net": "no_overlap"}}),
)

COLOUR_NOISE = Claim(
    name="colour_noise",
    title="Noise along the principal components of colour lowers the error",
    section="section 4.1",
    figure="more than 1 point of top-1 error",
    paper="",
    log="no net without the noise.",
    **compared({"with the noise": {}, "without": {"augment.colour_noise": 0.0}}),
)

SIXTH = {"model.net": "sixth_conv"}


def start_config(scale: str) -> ConfigDict:
    """The config of the runs that PRETRAINING's fine-tuned nets start from."""
    if scale == "laptop":
        return quickstart.get_config()
    config = two_gpu.get_config()
    config.dataset.root = "imagenet_fall2011"
    return config


PRETRAINING = Claim(
    name="pretraining",
    title="Pretraining on more images lowers the error",
    section="section 6, Table 2",
    figure="1.7 points of top-1 error",
    paper="1.6 points of top-5 error, on the validation images of ILSVRC-2012: with a sixth convolutional layer, "
    "pretrained on the Fall 2011 release and fine-tuned on ILSVRC-2012, 39.0 / 16.6 %; without either 40.7 / 18.2 %.",
    log="146-2012-2011 38.99 / 16.62 %, 146-2012-2009 39.10 / 16.88 %, 145 40.66 / 18.21 %, by ten views.",
    notes=(
        "Each scale has two commands. The first pretrains nets in the directory `pretrained` of the current directory. "
        "The second is that of the claim; it fine-tunes each of these nets with the same seed.",
        "Pretraining at full scale needs the Fall 2011 release as a prepared set `imagenet_fall2011`, from a folder "
        "with train/ and, for images that were set aside, val/. On a laptop the nets are pretrained on the embedded "
        "textures: 4,000 drawings for 9,469 photographs, where the paper has 15 million photographs for 1.2 million. "
        "In 2012 the net for the Fall 2011 release had two linear layers of 1,024 units before its classes; here it "
        "has a single last layer, as for ILSVRC-2012.",
    ),
    cost={
        "full": "90 epochs on ImageNet, after 3 runs on the Fall 2011 release",
        "laptop": "two to five minutes on a CPU core, after 3 such runs on the textures",
    },
    start=Sweep(lambda scale: over_seeds(SIXTH), start_config),
    **compared(
        {
            "two towers": {},
            "sixth convolution": SIXTH,
            "sixth convolution, trained on more first": SIXTH
            | {"init_from": "pretrained/model.net=sixth_conv,seed=SEED"},
        },
        first="sixth convolution, trained on more first",
        decisive=["sixth convolution"],
    ),
)

DEPTH = Claim(
    name="depth",
    title="Removing any middle layer raises the error",
    section="sections 1 and 7",
    figure="about 2 points of top-1 error",
    paper='"removing any of the middle layers results in a loss of about 2% for the top-1 performance of the network".',
    log="no net without a middle layer.",
    **compared(
        {"all layers": {}}
        | {f"without {layer}": {"model.without": layer} for layer in ("conv2", "conv3", "conv4", "conv5")}
    ),
)
