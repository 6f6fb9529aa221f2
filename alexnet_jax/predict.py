"""Predicts the five most likely classes of images by a trained net's ten views (section 4.1).

  python -m alexnet_jax.predict --workdir=DIR IMAGE …

Images may have any size, and the formats that docs/data.md lists. The probabilities of several nets (--workdir=DIR
--workdir=DIR2) are averaged.
"""

import json
import sys

from alexnet_jax.runtime import command_line

if __name__ == "__main__":
    command_line.start()

from alexnet_jax.analysis import ensemble, prediction
from alexnet_jax.runtime import text


@command_line.one_line_errors("what was printed is complete")
def main():
    parser = command_line.Parser("alexnet_jax.predict", __doc__)
    parser.add_argument(
        "--workdir", action="append", required=True, help="the directory of a run; several form an ensemble"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line instead")
    parser.add_argument("image", nargs="+", help="an image file; before names that begin with -, write --")
    args = parser.parse()
    command_line.set_up_jax()
    failed = False
    for answer in prediction.predict(ensemble.load(args.workdir), args.image):
        if "error" in answer:
            failed = True
            text.print_error(f"alexnet_jax: {answer['error']}")
        if args.json:
            print(json.dumps(answer), flush=True)
        elif "error" not in answer:
            text.print_line(answer["image"])
            for best in answer["predictions"]:
                text.print_line(f"  {best['probability']:6.1%}  {best['name']}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
