"""The claim that several nets together have a lower error than each alone."""

import numpy as np

from alexnet_jax.analysis import ensemble, inference
from experiments import estimates, store, sweep_members
from experiments.claims.claim import Claim, Summary, Sweep
from experiments.claims.groups import evaluate, over_seeds


def measure(finished: list[sweep_members.Member]) -> dict:
    """The evaluation of the test images by all nets together, and the names of their runs."""
    trained = ensemble.load([member.workdir for member in finished])
    *_, source = inference.load_split(trained)
    together = evaluate(trained, source, views=10)
    return {"members": [member.workdir.name for member in finished], "together": together}


def summary(runs: list[store.Run], measured: dict) -> Summary:
    if len(runs) < 2 or [run.name for run in runs] != measured.get("members"):
        return Summary(estimates.NOT_RUN)
    alone = [[run.result["ten_crop"][error] for run in runs] for error in ("top1_error", "top5_error")]
    together = [measured["together"]["ten_crop"][error] for error in ("top1_error", "top5_error")]
    table = [["ten views", "top-1", "top-5"]]
    table.append([f"each of {len(runs)} nets", *map(estimates.mean_percent, alone)])
    table.append(["all together", *map(estimates.percent, together)])
    result = f"{estimates.signed(np.mean(alone[0]) - together[0])} points"
    statement = f"The mean top-1 error of the nets by ten views minus that of all together is {result}."
    verdict = estimates.SUPPORTED if together[0] < min(alone[0]) else estimates.NOT_DECIDED
    if together[0] > np.mean(alone[0]):
        verdict = estimates.CONTRADICTED
    return Summary(verdict, result, statement, table, runs)


TABLE2 = Claim(
    name="table2",
    title="Averaging several nets lowers the error",
    section="Table 2",
    figure="2.6 points of top-1 error",
    paper="1.8 points of top-5 error, by five nets on the validation images of ILSVRC-2012: 1 CNN 40.7 / 18.2 %, 5 "
    "CNNs 38.1 / 16.4 %; pretrained on all of ImageNet 1 CNN 39.0 / 16.6 %, and 7 CNNs, two of them pretrained, 36.7 "
    "/ 15.4 %.",
    log="145 40.66 / 18.21 %, by ten views. For the pretrained nets see `pretraining`.",
    notes=(
        "The claim is supported if the nets together have a lower error than each of them alone, and contradicted if "
        "their error is above the mean of the nets.",
    ),
    sweep=Sweep(lambda scale: over_seeds({}, seeds={"full": 5, "laptop": 3}[scale])),
    summary=summary,
    measure=measure,
)
