"""Without dropout the net overfits substantially (section 4.2).

Paper: "substantial overfitting"; and "dropout roughly doubles the number of iterations required to converge".
Log of 2012: no net without it.

  python -m experiments dropout --scale=full --root=imagenet256 --workdir=DIR
  python -m experiments dropout --scale=laptop --root=imagenette256 --workdir=DIR

The doubling is not tried: all nets train for the same epochs. Overfitting is measured as the error on the validation
images minus that on the training images, both by the centre view. The claim is supported if it is larger without
dropout and the error on the validation images is not lower there. At the rate of 0.01 a laptop's net without dropout
stays at chance, so there it is decided at half of that rate.

Cost: six trainings of 90 epochs on ImageNet, or twelve of four to five minutes of a CPU core.
"""

import numpy as np

from alexnet_jax.analysis import ensemble, inference
from alexnet_jax.data import datasets
from experiments import claims

DATA = claims.PHOTOGRAPHS
get_config = claims.paper_config
WITHOUT, HALF = {"model.net": "no_dropout"}, {"schedule.learning_rate": 0.005}
NETS = {
    "with dropout, rate 0.01": {},
    "without, rate 0.01": WITHOUT,
    "with dropout, rate 0.005": HALF,
    "without, rate 0.005": WITHOUT | HALF,
}


def sweep(scale="laptop"):
    nets = NETS.values() if scale == "laptop" else ({}, WITHOUT)
    return claims.over_seeds(*nets)


def measure(members):
    """{directory: the evaluation of the training images by the centre view}."""
    found = {}
    for member in members:
        trained = ensemble.load([member.workdir])
        (net,), (first,) = trained.nets, trained.members
        source, _ = datasets.load_split(first.dataset, first.root, "train", net.stored_size)
        evaluate_training = inference.make_evaluate(
            trained.nets, trained.mesh, trained.means, source, trained.batch_size(min(128, len(source)))
        )
        found[member.workdir.name] = evaluate_training(trained.params)
    return found


def summary(found, measured):
    found = [run for run in found if run.path.stem in measured]
    table = [["", "seeds", "training images", "validation images", "overfitting", "ten views"]]
    gaps, groups = {}, {}
    for label, fields in NETS.items():
        if group := claims.with_settings(found, fields):
            groups[label] = group
            training = np.array([measured[run.path.stem]["center"]["top1_error"] for run in group])
            validation = np.array([run.result["center"]["top1_error"] for run in group])
            gaps[label] = validation - training
            cells = map(claims.mean_and_deviation, (training, validation, gaps[label], claims.top1(group)))
            table.append([label, str(len(group)), *cells])
    decide = [label for label in gaps if HALF.items() <= NETS[label].items()] or list(gaps)
    if len(decide) < 2:
        return claims.Summary(claims.NOT_RUN)
    with_dropout, without = decide
    gap = claims.difference(gaps[without], gaps[with_dropout])
    errors = claims.difference(claims.top1(groups[without]), claims.top1(groups[with_dropout]))
    statement = (
        f'The validation error of the net "{without}" is {claims.interval(*gap)} points further above the training '
        f'error than that of the net "{with_dropout}"; of the validation errors by ten views the difference is '
        f"{claims.interval(*errors)} points."
    )
    verdict, ours = claims.verdict([gap]), f"{claims.interval(*gap)} points more overfitting"
    if verdict == claims.SUPPORTED and errors[0] < 0:
        verdict = claims.OPEN
        ours += f", but an error {claims.percent(-errors[0])} points lower"
        statement += " Without dropout a net is further on after as many epochs, which may be all of it."
    return claims.Summary(
        verdict,
        ours,
        statement,
        table,
        found,
        {"curves": claims.curves({label: groups[label] for label in decide})},
    )
