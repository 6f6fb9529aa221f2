"""Images with close features are alike, and not by their pixels (Figure 4).

Paper: no number; five test images, each with the six training images whose 4096 features are nearest, which "are
generally not close in L2 to the query images" in their pixels.
Log of 2012: nothing.

  python -m experiments fig4_retrieval --scale=full --root=imagenet256 --workdir=DIR
  python -m experiments fig4_retrieval --scale=laptop --workdir=DIR

A laptop takes the embedded textures, whose pictures can be drawn again, and a net with 1024 features. Measured is how
many of the six nearest training images are of the query's class, by features and by pixels (of the images shrunk to
32×32), and how many of the six by features are among the six by pixels. The picture is of the textures only.

Cost: three trainings of 90 epochs on ImageNet, and 50 GB of memory to measure, half of it of a device; or of two to
three minutes of two CPU cores.
"""

import numpy as np

from alexnet_jax.analysis import ensemble, figures, inference, retrieval
from alexnet_jax.data import datasets, images, textures
from configs import quickstart
from experiments import claims

DATA = {"full": "imagenet", "laptop": "textures"}
NEIGHBOURS = 6
WAYS = ("features", "pixels")
SHOWN = (0, 23, 46, 69, 94)  # test images


def get_config(scale="laptop"):
    return claims.paper_config(scale) if scale == "full" else quickstart.get_config()


def sweep(scale="laptop"):
    return claims.over_seeds({})


def measure(members):
    """For each directory, of its test images' neighbours among the training images:

    `same_class`: the share that is of the query's class, by `features` and by `pixels`; `both`: the share of those by
    features that is among those by pixels; and `shown`: for SHOWN a dict of `query`, `class`, `predictions` and
    `neighbours` by features, images as their numbers.
    """
    found = {}
    for member in members:
        trained = ensemble.load([member.workdir])
        (net,), (first,) = trained.nets, trained.members
        dataset = datasets.load(first.dataset, first.root, net.stored_size)
        splits = dataset.test, dataset.train
        labels, others_labels = ([split[i][1] for i in range(len(split))] for split in splits)
        near = {
            "features": retrieval.nearest(*(retrieval.features(trained, split) for split in splits), NEIGHBOURS),
            "pixels": retrieval.nearest(*map(thumbnails, splits), NEIGHBOURS),
        }
        classify = inference.make_classify(trained.nets, trained.mesh, trained.means, views=1)
        outputs = inference.classify_all(
            classify, trained.params, trained.mesh, dataset.test, trained.batch_size(min(128, len(labels)))
        )
        found[member.workdir.name] = {
            "same_class": {
                way: float((np.array(others_labels)[neighbours] == np.array(labels)[:, None]).mean())
                for way, neighbours in near.items()
            },
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
    return found


def thumbnails(source):
    """All images at 32×32 as vectors, float32 [N, 3072]."""
    return np.stack([images.square(source[i][0], 32).ravel().astype(np.float32) for i in range(len(source))])


def summary(found, measured):
    found = [run for run in found if run.path.stem in measured]
    if not found:
        return claims.Summary(claims.NOT_RUN)
    shares = {way: np.array([measured[run.path.stem]["same_class"][way] for run in found]) for way in WAYS}
    both = [measured[run.path.stem]["both"] for run in found]
    table = [["seed", *(f"of the same class by {way}, %" for way in WAYS), "by features that are by pixels, too, %"]]
    table += [
        [str(run.seed), *map(claims.percent, row)] for run, *row in zip(found, *shares.values(), both, strict=True)
    ]
    data, more = found[0].path.parent.name, claims.paired_difference(*shares.values())
    said = claims.interval(*more)
    pictures = {}
    if data == "textures":
        rows = [
            (textures.draw("test", row["query"]), row["class"], row["predictions"], row["neighbours"])
            for row in measured[found[0].path.stem]["shown"]
        ]
        rows = [(*row, [textures.draw("train", i) for i in neighbours]) for *row, neighbours in rows]
        caption = (
            "Test images, their five most likely classes (the right one in red), and the training images with the "
            "nearest features."
        )
        pictures["neighbours"] = (caption, figures.png(figures.retrieval(rows)))
    features, pixels = (f"{claims.percent(shares[way].mean())} %" for way in WAYS)
    statement = (
        f"Of the {NEIGHBOURS} training images nearest to a test image, {features} are of its class by features and "
        f"{pixels} by pixels: {said} points. By chance it would be {claims.percent(1 / claims.CLASSES[data])} %. "
        f"{claims.percent(np.mean(both))} % of those by features are among those by pixels, too."
    )
    ours = f"{features} by features, {pixels} by pixels"
    return claims.Summary(claims.verdict([more]), ours, statement, table, found, pictures)
