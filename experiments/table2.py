"""Nets that are trained alike have a lower error together (Table 2).

Paper: 2.6 points of top-1 and 1.8 of top-5 error by five nets; ILSVRC-2012 validation: 1 CNN 40.7 / 18.2 %, 5 CNNs
38.1 / 16.4 %; pretrained on all of ImageNet 1 CNN 39.0 / 16.6 %, and 7 CNNs, two of them pretrained, 36.7 / 15.4 %.
Log of 2012: 145 40.66 / 18.21 %, ten views; those that were pretrained are in `pretraining`.

  python -m experiments table2 --scale=full --root=imagenet256 --workdir=DIR
  python -m experiments table2 --scale=laptop --root=imagenette256 --workdir=DIR

Cost: five trainings of 90 epochs on ImageNet; three runs of four to five minutes of a CPU core.
"""

import numpy as np

from alexnet_jax import datasets, ensemble, evaluate
from experiments import claims

DATA = claims.PHOTOGRAPHS


def get_config(scale="laptop"):
    return claims.paper_config(scale)


def sweep(scale="laptop"):
    return ({"seed": seed} for seed in range({"full": 5, "laptop": 3}[scale]))


def measure(members):
    """The evaluation of the test images by all nets together, and the directories of these."""
    trained = ensemble.load([member.workdir for member in members])
    net, first = trained.nets[0], trained.members[0]
    source = datasets.load(first.dataset, first.root, net.stored_size).test
    batch_size = trained.batch_size(min(128, len(source)))
    together = evaluate.make_evaluate(trained.nets, trained.mesh, trained.means, source, batch_size, views=10)
    return {"members": [member.workdir.name for member in members], "together": together(trained.params)}


def summary(found, measured):
    found = [run for run in found if run.path.stem in measured.get("members", [])]
    if len(found) < 2:
        return claims.Summary(claims.NOT_RUN)
    table = [["ten views", "top-1", "top-5"]]
    alone = [[run.result["ten_crop"][error] for run in found] for error in ("top1_error", "top5_error")]
    together = [measured["together"]["ten_crop"][error] for error in ("top1_error", "top5_error")]
    table.append([f"each of {len(found)} nets", *map(claims.mean_and_deviation, alone)])
    table.append(["all together", *map(claims.percent, together)])
    estimate, low, high = claims.paired_difference(np.array(alone[0]), np.full(len(found), together[0]))
    said = claims.interval(estimate, low, high)
    statement = f"Top-1 error by ten views, each net alone less all together: {said} points."
    return claims.Summary(claims.verdict(low, high), f"{said} points", statement, table, found)
