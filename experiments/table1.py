"""The net beats the best methods before it (Table 1).

Paper: 8.2 points of top-1 error, 8.7 of top-5; ILSVRC-2010 test: CNN 37.5 / 17.0 %, sparse coding 47.1 / 28.2 %,
SIFT and Fisher vectors 45.7 / 25.7 %.
Log of 2012: 145-2010 37.47 / 17.00 %, ten views.

  python -m experiments table1 --scale=full --root=imagenet2010 --workdir=DIR
  python -m experiments table1 --scale=laptop --root=imagenette256 --workdir=DIR

The full scale wants ILSVRC-2010 with its test images, prepared from a folder with train/, val/ and test/. A laptop's
run says only what the net comes to on Imagenette.

Cost: three trainings of 90 epochs on ImageNet, or of four to five minutes of a CPU core.
"""

from experiments import claims

DATA = {"full": "imagenet2010", "laptop": "imagenette"}
get_config = claims.paper_config
RIVAL = 0.457  # SIFT and Fisher vectors


def sweep(scale="laptop"):
    return claims.over_seeds({})


def summary(found):
    if not found:
        return claims.Summary(claims.NOT_RUN)
    errors, table = claims.top1(found), claims.error_table({"two towers": found})
    said = f"{claims.mean_and_deviation(errors)} %"
    if found[0].path.parent.name != DATA["full"]:
        said += " by ten views on Imagenette, not comparable"
        statement = "The others were not tried on these images."
        return claims.Summary(claims.OPEN, said, statement, table, found)
    verdict = claims.SUPPORTED if max(errors) < RIVAL else claims.CONTRADICTED
    statement = f"{said} top-1 error by ten views; the best before it had {claims.percent(RIVAL)} %."
    return claims.Summary(verdict, said, statement, table, found)
