"""The claim that the mean of ten views has a lower error than the centre view."""

import numpy as np

from experiments import estimates, store
from experiments.claims.claim import Claim, Summary, Sweep
from experiments.claims.comparisons import PAPER_IS_OF_2010
from experiments.claims.groups import over_seeds


def summary(runs: list[store.Run]) -> Summary:
    if not runs:
        return Summary(estimates.NOT_RUN)
    table, differences = [["", "centre", "ten views", "less by"]], []
    for error, name in {"top1_error": "top-1", "top5_error": "top-5"}.items():
        centre, ten = (np.array([run.result[view][error] for run in runs]) for view in ("center", "ten_crop"))
        differences.append(estimates.paired_difference(centre, ten))
        cells = estimates.mean_percent(centre), estimates.mean_percent(ten), estimates.interval(*differences[-1])
        table.append([name, *cells])
    result = f"{estimates.interval(*differences[0])} points"
    statement = f"The top-1 error by the centre view minus that by ten views is {result}."
    return Summary(estimates.verdict(differences[:1]), result, statement, table, runs)


TEN_VIEWS = Claim(
    name="ten_views",
    title="Averaging over ten views lowers the error",
    section="section 4.1",
    figure="1.5 points of top-1 error",
    paper="1.3 points of top-5 error, on the test images of ILSVRC-2010: 37.5 / 17.0 % by ten views, 39.0 / 18.3 % by "
    "the centre view.",
    log="37.47 / 17.00 % by ten views, 39.02 / 18.30 % by the centre view.",
    notes=(PAPER_IS_OF_2010,),
    sweep=Sweep(lambda scale: over_seeds({})),
    summary=summary,
)
