"""Predicts the most likely classes of image files by trained nets."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from alexnet_jax import UserError
from alexnet_jax.analysis import inference
from alexnet_jax.analysis.ensemble import Ensemble
from alexnet_jax.data import images, sources
from alexnet_jax.runtime import sharding

BATCH_SIZE = 16


def predict(trained: Ensemble, paths: Iterable[str | os.PathLike]) -> Iterator[dict[str, Any]]:
    """Classifies image files.

    Yields:
      a dict for each file: `image`, its path, and either `predictions` (see `inference.predictions`) or `error`.
    """
    classify = inference.make_classify(trained.nets, trained.mesh, trained.means, views=10)
    net, batch_size = trained.nets[0], trained.batch_size(BATCH_SIZE)
    size = net.stored_size
    paths = list(paths)
    for batch_paths in (paths[start : start + batch_size] for start in range(0, len(paths), batch_size)):
        answers: list[dict[str, Any]] = []
        images_BxSxSx3 = np.zeros((batch_size, size, size, 3), np.uint8)
        for i, path in enumerate(batch_paths):
            answers.append({"image": str(path)})
            try:
                if os.path.isdir(path):
                    raise UserError(f"{path}: is a directory; name its files, as {os.path.join(path, '*')}")
                data = sources.read_file(path)
                images_BxSxSx3[i] = images.decode(data, path, size, net.stretch, trained.orientation)
            except UserError as error:
                answers[i]["error"] = str(error)
        batch = {"image": images_BxSxSx3, "label": np.zeros(batch_size, np.int32)}
        outputs = jax.device_get(classify(trained.params, sharding.put_batch(trained.mesh, batch)))
        for i, answer in enumerate(answers):
            if "error" not in answer:
                answer["predictions"] = inference.predictions(outputs["ten_crop"], i, trained.class_names)
            yield answer
