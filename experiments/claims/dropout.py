"""The claim that the net overfits without dropout: validation error minus training error, with and without it."""

import numpy as np

from alexnet_jax.analysis import ensemble, inference
from experiments import estimates, store
from experiments.claims.claim import Claim, Settings, Summary, Sweep
from experiments.claims.groups import curves, evaluate, over_seeds, per_net, runs_of, top1

WITHOUT, HALF_RATE = {"model.net": "no_dropout"}, {"schedule.learning_rate": 0.005}
NETS: dict[str, Settings] = {
    "with dropout, rate 0.01": {},
    "without, rate 0.01": WITHOUT,
    "with dropout, rate 0.005": HALF_RATE,
    "without, rate 0.005": {**WITHOUT, **HALF_RATE},
}


@per_net
def measure(trained: ensemble.Ensemble, _) -> dict:
    """The evaluation of the training images by the centre view."""
    *_, source = inference.load_split(trained, split="train")
    return evaluate(trained, source)


def summary(runs: list[store.Run], measured: dict) -> Summary:
    runs = [run for run in runs if run.name in measured]
    groups = {label: group for label, net in NETS.items() if (group := runs_of(net, runs))}
    table = [["", "seeds", "training images", "validation images", "overfitting", "ten views"]]
    gaps = {}
    for label, group in groups.items():
        training = np.array([measured[run.name]["center"]["top1_error"] for run in group])
        validation = top1(group, "center")
        gaps[label] = validation - training
        columns = training, validation, gaps[label], top1(group)
        table.append([label, str(len(group)), *map(estimates.mean_percent, columns)])
    decisive = [label for label in groups if HALF_RATE.items() <= NETS[label].items()] or list(groups)
    if len(decisive) < 2:
        return Summary(estimates.NOT_RUN)
    with_dropout, without = decisive
    gap = estimates.difference(gaps[without], gaps[with_dropout])
    errors = estimates.difference(top1(groups[without]), top1(groups[with_dropout]))
    statement = (
        f'The net "{without}" overfits by {estimates.interval(*gap)} points more than the net "{with_dropout}"; the '
        f"difference of their validation errors by ten views is {estimates.interval(*errors)} points."
    )
    verdict, result = estimates.verdict([gap]), f"{estimates.interval(*gap)} points more overfitting"
    if verdict == estimates.SUPPORTED and errors[0] < 0:
        verdict = estimates.NOT_DECIDED
        result += f", but an error {estimates.percent(-errors[0])} points lower"
        statement += " Without dropout a net learns faster, which may explain the difference after the same epochs."
    pictures = {"curves": curves({label: groups[label] for label in decisive})}
    return Summary(verdict, result, statement, table, runs, pictures)


DROPOUT = Claim(
    name="dropout",
    title="Without dropout the net overfits substantially",
    section="section 4.2",
    figure='"substantial overfitting"',
    paper='"dropout roughly doubles the number of iterations required to converge".',
    log="no net without dropout.",
    notes=(
        "The doubling is not tested: all nets train for the same number of epochs. Overfitting is the error on the "
        "validation images minus that on the training images, both by the centre view. The claim is supported if nets "
        "without dropout overfit more and do not have a lower error on the validation images. On a laptop, a net "
        "without dropout does not learn at the rate of 0.01, so the comparison at half of that rate decides.",
    ),
    sweep=Sweep(lambda scale: over_seeds(*NETS.values()) if scale == "laptop" else over_seeds({}, WITHOUT)),
    summary=summary,
    measure=measure,
)
