"""The mean of ten views has a lower error than the centre view (section 4.1).

Paper: 1.5 points of top-1 error, 1.3 of top-5; 37.5 / 17.0 % by ten, 39.0 / 18.3 % by the centre (ILSVRC-2010
test).
Log of 2012: 37.47 / 17.00 % by ten, 39.02 / 18.30 % by the centre.

  python -m experiments ten_views --scale=full --root=imagenet256 --workdir=DIR
  python -m experiments ten_views --scale=laptop --root=imagenette256 --workdir=DIR

The paper's figures are of ILSVRC-2010, full scale is ILSVRC-2012.

Cost: three trainings of 90 epochs on ImageNet, or of four to five minutes of a CPU core.
"""

import numpy as np

from experiments import claims

DATA = claims.PHOTOGRAPHS
get_config = claims.paper_config


def sweep(scale="laptop"):
    return claims.over_seeds({})


def summary(found):
    if not found:
        return claims.Summary(claims.NOT_RUN)
    table, differences = [["", "centre", "ten views", "less by"]], {}
    for error, name in {"top1_error": "top-1", "top5_error": "top-5"}.items():
        centre, ten = (np.array([run.result[way][error] for run in found]) for way in ("center", "ten_crop"))
        differences[name] = claims.paired_difference(centre, ten)
        cells = [claims.mean_and_deviation(centre), claims.mean_and_deviation(ten)]
        table.append([name, *cells, claims.interval(*differences[name])])
    said = claims.interval(*differences["top-1"])
    return claims.Summary(
        claims.verdict([differences["top-1"]]),
        f"{said} points",
        f"Centre less ten views, top-1 error: {said} points.",
        table,
        found,
    )
