"""The claim that images with similar features are alike although their pixels differ."""

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax.analysis import ensemble, figures, inference, retrieval
from alexnet_jax.data import datasets, images
from alexnet_jax.data.kinds import textures
from configs import quickstart
from experiments import estimates, store
from experiments.claims.claim import DATA_SETS, Claim, Summary, Sweep, paper_config
from experiments.claims.groups import over_seeds, per_net

NEIGHBOURS = 6
WAYS = ("features", "pixels")
SHOWN = (0, 23, 46, 69, 94)  # test images


def config(scale: str) -> ConfigDict:
    return paper_config(scale) if scale == "full" else quickstart.get_config()


@per_net
def measure(trained: ensemble.Ensemble, _) -> dict:
    """What the nearest training images of each test image have in common with it.

    `same_class`: the share of these that have the class of the test image, by `features` and by `pixels`; `both`: the
    share of those by features that are also among those by pixels; `shown`: for each image of SHOWN a dict of `query`,
    `class`, `predictions` and `neighbours` by features, where images are numbers.
    """
    (net,), (member,) = trained.nets, trained.members
    dataset = datasets.load(member.dataset, member.root, net.stored_size)
    splits = dataset.test, dataset.train
    labels, train_labels = (np.array([split[i][1] for i in range(len(split))]) for split in splits)
    near = {
        "features": retrieval.nearest(*(retrieval.features(trained, split) for split in splits), NEIGHBOURS),
        "pixels": retrieval.nearest(*map(thumbnails, splits), NEIGHBOURS),
    }
    outputs = inference.classify_source(trained, dataset.test, views=1)
    return {
        "same_class": {way: float((train_labels[near[way]] == labels[:, None]).mean()) for way in WAYS},
        "both": float((near["features"][:, :, None] == near["pixels"][:, None]).any(2).mean()),
        "shown": [
            {
                "query": query,
                "class": trained.class_names[labels[query]],
                "predictions": inference.predictions(outputs["center"], query, trained.class_names),
                "neighbours": near["features"][query].tolist(),
            }
            for query in SHOWN
        ],
    }


def thumbnails(source) -> np.ndarray:
    """All images of a source at 32×32, float32 [N, 3072]."""
    return np.stack([images.square(source[i][0], 32).ravel().astype(np.float32) for i in range(len(source))])


def summary(runs: list[store.Run], measured: dict) -> Summary:
    runs = [run for run in runs if run.name in measured]
    if not runs:
        return Summary(estimates.NOT_RUN)
    shares = {way: np.array([measured[run.name]["same_class"][way] for run in runs]) for way in WAYS}
    both = np.array([measured[run.name]["both"] for run in runs])
    table = [["seed", *(f"of the same class by {way}, %" for way in WAYS), "by features that are by pixels, too, %"]]
    for run, *row in zip(runs, *shares.values(), both, strict=True):
        table.append([str(run.seed), *map(estimates.percent, row)])
    difference = estimates.paired_difference(*shares.values())
    features, pixels = (f"{estimates.percent(shares[way].mean())} %" for way in WAYS)
    chance = 1 / DATA_SETS[runs[0].data_set].classes
    statement = (
        f"Of the {NEIGHBOURS} training images nearest to a test image, {features} have its class by features and "
        f"{pixels} by pixels, a difference of {estimates.interval(*difference)} points; chance is "
        f"{estimates.percent(chance)} %. {estimates.percent(both.mean())} % of those by features are also among those "
        "by pixels."
    )
    pictures = {}
    if runs[0].data_set == "textures":
        caption = (
            "Test images, their five most likely classes (the correct one in red), and the training images with the "
            "nearest features."
        )
        pictures["neighbours"] = (caption, draw(measured[runs[0].name]["shown"]))
    result = f"{features} by features, {pixels} by pixels"
    return Summary(estimates.verdict([difference]), result, statement, table, runs, pictures)


def draw(shown: list[dict]) -> bytes:
    """PNG of textures and their neighbours, which are drawn again."""
    rows = []
    for row in shown:
        neighbours = [textures.draw("train", i) for i in row["neighbours"]]
        rows.append((textures.draw("test", row["query"]), row["class"], row["predictions"], neighbours))
    return figures.png(figures.retrieval(rows))


FIG4_RETRIEVAL = Claim(
    name="fig4_retrieval",
    title="Images with similar features are alike although their pixels differ",
    section="Figure 4",
    figure="no number",
    paper="five test images are shown, each with the six training images whose 4096 features are nearest. In pixels "
    'these "are generally not close in L2 to the query images".',
    log="no entry.",
    notes=(
        "On a laptop the images are the embedded textures, which can be drawn again for the picture, and the net has "
        "1024 features. The numbers are the share of the six nearest training images that have the class of the test "
        "image, by features and by pixels (of images shrunk to 32×32), and the share of the six by features that are "
        "among the six by pixels. There is a picture for the textures only.",
    ),
    data={"full": "imagenet", "laptop": "textures"},
    cost={
        "full": "90 epochs on ImageNet, and 50 GB of memory to measure them, half of it on a device",
        "laptop": "two to three minutes on two CPU cores",
    },
    sweep=Sweep(lambda scale: over_seeds({}), config),
    summary=summary,
    measure=measure,
)
