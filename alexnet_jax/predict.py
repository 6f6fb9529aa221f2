"""The five most likely classes of images, by a trained net's ten views (section 4.1).

  python -m alexnet_jax.predict --workdir=DIR IMAGE …

Files of any format and size. The probabilities of several nets (--workdir=DIR --workdir=DIR2) are averaged.
"""

import json
import sys

import jax
import numpy as np

from alexnet_jax import UserError, commands, ensemble, evaluate, images, sharding, sources

BATCH_SIZE = 16


def predict(trained, paths):
    """Classifies image files.

    Args:
      trained: an `ensemble.Ensemble`.
      paths: of the files.

    Yields:
      for each file in turn a dict of `image`, its path, and either `predictions`, as `evaluate.predictions` gives them,
      or `error`, why there are none.
    """
    classify = evaluate.make_classify(trained.nets, trained.mesh, trained.means, views=10)
    net, batch_size = trained.nets[0], trained.batch_size(BATCH_SIZE)
    size = net.stored_size
    paths = list(paths)
    for some_paths in (paths[start : start + batch_size] for start in range(0, len(paths), batch_size)):
        answers = []
        batch = {
            "image": np.zeros((batch_size, size, size, 3), np.uint8),
            "label": np.zeros(batch_size, np.int32),
            "weight": np.ones(batch_size, np.float32),
        }
        for i, path in enumerate(some_paths):
            answers.append({"image": str(path)})
            try:
                pixels = images.open_image(_read(path), path, upright=True)
                batch["image"][i] = images.square(pixels, size, net.stretch)
            except UserError as error:
                answers[i]["error"] = str(error)
        outputs = jax.device_get(classify(trained.params, sharding.put_batch(trained.mesh, batch)))
        for i, answer in enumerate(answers):
            if "error" not in answer:
                answer["predictions"] = evaluate.predictions(outputs["ten_crop"], i, trained.class_names)
            yield answer


def _read(path):
    try:
        with open(path, "rb") as file:
            return file.read(sources.MOST_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def main():
    parser = commands.Parser("alexnet_jax.predict", __doc__)
    parser.add_argument("--workdir", action="append", required=True, help="of a training run; several: an ensemble")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line instead, for programs")
    parser.add_argument("image", nargs="+", help="an image file")
    args = parser.parse_args()
    commands.set_up_jax()
    failed = False
    with commands.one_line_errors("the images above are done"):
        for answer in predict(ensemble.load(args.workdir), args.image):
            if "error" in answer:
                failed = True
                print(f"alexnet_jax: {answer['error']}", file=sys.stderr)
            if args.json:
                print(json.dumps(answer), flush=True)
            elif "error" not in answer:
                print(answer["image"])
                for best in answer["predictions"]:
                    print(f"  {best['probability']:6.1%}  {best['name']}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
