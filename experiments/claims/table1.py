"""The claim that the net beats the best previous methods."""

from experiments import estimates, store
from experiments.claims.claim import Claim, Summary, Sweep
from experiments.claims.groups import error_table, over_seeds, top1

DATA = {"full": "imagenet2010", "laptop": "imagenette"}
BEST_BEFORE = 0.457  # SIFT and Fisher vectors


def summary(runs: list[store.Run]) -> Summary:
    if not runs:
        return Summary(estimates.NOT_RUN)
    errors, table = top1(runs), error_table({"two towers": runs})
    result = f"{estimates.mean_percent(errors)} %"
    if runs[0].data_set != DATA["full"]:
        result += " by ten views on Imagenette, not comparable"
        statement = "The other methods were not evaluated on these images."
        return Summary(estimates.NOT_DECIDED, result, statement, table, runs)
    verdict = estimates.SUPPORTED if max(errors) < BEST_BEFORE else estimates.CONTRADICTED
    statement = f"{result} top-1 error by ten views; the best previous method has {estimates.percent(BEST_BEFORE)} %."
    return Summary(verdict, result, statement, table, runs)


TABLE1 = Claim(
    name="table1",
    title="The net beats the best previous methods",
    section="Table 1",
    figure="8.2 points of top-1 error",
    paper="8.7 points of top-5 error, on the test images of ILSVRC-2010: CNN 37.5 / 17.0 %, sparse coding 47.1 / 28.2 "
    "%, SIFT and Fisher vectors 45.7 / 25.7 %.",
    log="145-2010 37.47 / 17.00 %, by ten views.",
    notes=(
        "The full scale needs ILSVRC-2010 with its test images, prepared from its archives (docs/getting-data.md). "
        "On a laptop the error of the net on Imagenette is reported, which decides nothing.",
    ),
    data=DATA,
    sweep=Sweep(lambda scale: over_seeds({})),
    summary=summary,
)
