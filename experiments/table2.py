"""Nets that are trained alike have a lower error together (Table 2).

Paper: 2.6 points of top-1 error, 1.8 of top-5 by five nets; ILSVRC-2012 validation: 1 CNN 40.7 / 18.2 %, 5 CNNs
38.1 / 16.4 %; pretrained on all of ImageNet 1 CNN 39.0 / 16.6 %, and 7 CNNs, two of them pretrained, 36.7 / 15.4 %.
Log of 2012: 145 40.66 / 18.21 %, ten views; those that were pretrained are in `pretraining`.

  python -m experiments table2 --scale=full --root=imagenet256 --workdir=DIR
  python -m experiments table2 --scale=laptop --root=imagenette256 --workdir=DIR

The claim is supported if the nets together have a lower error than each of them alone, contradicted if a higher one
than their mean.

Cost: five trainings of 90 epochs on ImageNet; three runs of four to five minutes of a CPU core.
"""

import numpy as np

from alexnet_jax.analysis import ensemble, inference
from alexnet_jax.data import datasets
from experiments import claims

DATA = claims.PHOTOGRAPHS
get_config = claims.paper_config


def sweep(scale="laptop"):
    return ({"seed": seed} for seed in range({"full": 5, "laptop": 3}[scale]))


def measure(members):
    """The evaluation of the test images by all nets together, and the directories of these."""
    trained = ensemble.load([member.workdir for member in members])
    net, first = trained.nets[0], trained.members[0]
    source = datasets.load(first.dataset, first.root, net.stored_size).test
    batch_size = trained.batch_size(min(128, len(source)))
    together = inference.make_evaluate(trained.nets, trained.mesh, trained.means, source, batch_size, views=10)
    return {"members": [member.workdir.name for member in members], "together": together(trained.params)}


def summary(found, measured):
    if len(found) < 2 or [run.path.stem for run in found] != measured.get("members"):
        return claims.Summary(claims.NOT_RUN)
    alone = [[run.result["ten_crop"][error] for run in found] for error in ("top1_error", "top5_error")]
    together = [measured["together"]["ten_crop"][error] for error in ("top1_error", "top5_error")]
    table = [["ten views", "top-1", "top-5"]]
    table.append([f"each of {len(found)} nets", *map(claims.mean_and_deviation, alone)])
    table.append(["all together", *map(claims.percent, together)])
    said = f"{claims.signed(np.mean(alone[0]) - together[0])} points"
    statement = f"Top-1 error by ten views, the mean of the nets minus that of all together: {said}."
    verdict = claims.SUPPORTED if together[0] < min(alone[0]) else claims.OPEN
    if together[0] > np.mean(alone[0]):
        verdict = claims.CONTRADICTED
    return claims.Summary(verdict, said, statement, table, found)
