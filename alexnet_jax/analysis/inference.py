"""Predictions of trained nets for images: losses, errors and most likely classes (section 4.1 of the paper).

Nets predict by the centre view, and by the paper's ten views: the four corners, the centre, and their mirror images.
The softmax probabilities of the views are averaged, and so are those of several nets, an ensemble.
"""

import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax import UserError
from alexnet_jax.analysis.ensemble import Ensemble
from alexnet_jax.data import augment, cache, class_names, datasets, pipeline, sources
from alexnet_jax.data.sources import Source
from alexnet_jax.model import alexnet, spec
from alexnet_jax.runtime import processes, progress, sharding

log = logging.getLogger("alexnet_jax")

BEST = 5  # classes of highest probability
WAYS = {"center": 1, "ten_crop": 10}  # the ways to evaluate, and their numbers of views
TITLES = {"center": "centre", "ten_crop": "ten views"}  # of the ways, in tables

Outputs = dict[str, Any]  # of `make_classify`


def make_classify(
    nets: Sequence[spec.Net],
    mesh: jax.sharding.Mesh,
    means: Sequence[np.ndarray],
    views: int,
    among: Sequence[int] | None = None,
) -> jax.stages.Wrapped:
    """A jitted function from (a list of parameters, batch) to the averaged predictions of the nets for every example.

    Args:
      nets: one net or an ensemble.
      means: the mean that each net subtracts from its images, [S, S, 3] or [3].
      views: 1 for the centre view, 10 for the paper's ten as well.
      among: the classes that the nets choose from; None for all.

    Returns:
      a function whose result is replicated on all devices: a dict of the batch's `label` and, for each of WAYS with at
      most `views` views, a dict of `loss` [B], `classes` [B, 5], the most likely first, and their `probabilities`
      [B, 5].
    """

    def classify(all_params, batch):
        batch = cache.fetch(batch)
        mirrored = [batch["image"][:, :, ::-1]] if views > 1 else []
        images = jnp.stack([batch["image"], *mirrored])

        def log_probabilities(net, params, mean):
            def of_view(view):
                x = augment.fixed_view(images, view, net.image_size, mean)
                logits, _ = alexnet.apply(net, mesh.shape["model"], params, x)
                if among is not None:
                    logits = jnp.where(jnp.isin(jnp.arange(logits.shape[1]), jnp.array(among)), logits, -jnp.inf)
                return jax.nn.log_softmax(logits)

            return lax.map(of_view, jnp.arange(views))  # sequentially, to hold the activations of one view at a time

        members = zip(nets, all_params, means, strict=True)
        log_probs_ExVxBxN = jnp.stack([log_probabilities(*member) for member in members])
        outputs = {"label": batch["label"]}
        for way, count in WAYS.items():
            if count <= views:
                log_probs_BxN = jax.nn.logsumexp(log_probs_ExVxBxN[:, :count], (0, 1)) - math.log(len(nets) * count)
                best, classes = lax.top_k(log_probs_BxN, min(BEST, log_probs_BxN.shape[1]))
                loss_B = -jnp.take_along_axis(log_probs_BxN, batch["label"][:, None], 1)[:, 0]
                outputs[way] = {"loss": loss_B, "classes": classes, "probabilities": jnp.exp(best)}
        return jax.tree.map(lambda x: lax.all_gather(x, "data", tiled=True, to="invarying"), outputs)

    @functools.partial(jax.jit, compiler_options=sharding.compiler_options(mesh))
    def classify_batch(all_params, batch):
        params_specs = [sharding.param_specs(net, params) for net, params in zip(nets, all_params, strict=True)]
        specs = (params_specs, sharding.batch_specs(batch))
        return jax.shard_map(classify, mesh=mesh, in_specs=specs, out_specs=jax.P())(all_params, batch)

    return classify_batch


def map_batches(function: Callable[[dict], Any], mesh: jax.sharding.Mesh, source: Source, batch_size: int) -> Any:
    """The outputs of `function(batch)` for every example of a source, in its order, as a tree of NumPy arrays.

    This process must be able to address all of the outputs.
    """
    batches = pipeline.eval_batches(source, batch_size, sharding.owned_rows(mesh, batch_size))
    outputs = []
    with progress.Progress(len(source), "image", "evaluating", log.info, show=jax.process_index() == 0) as bar:
        for batch in processes.in_agreement(mesh, batches):
            outputs.append(function(batch | cache.resident(source)))
            if len(outputs) > 1:  # the device computes the next batch while these outputs are copied
                outputs[-2] = jax.device_get(outputs[-2])
            bar.reach(min(len(outputs) * batch_size, len(source)))
    outputs = jax.tree.map(lambda *x: np.concatenate(x), *jax.device_get(outputs))
    return jax.tree.map(lambda x: x[: len(source)], outputs)  # without the padding of the last batch


def classify_all(
    classify: Callable, all_params: list[alexnet.Params], mesh: jax.sharding.Mesh, source: Source, batch_size: int
) -> Outputs:
    """The outputs of `make_classify` for every example of a source, in its order, as NumPy arrays."""
    return map_batches(functools.partial(classify, all_params), mesh, source, batch_size)


def classify_source(
    trained: Ensemble, source: Source, views: int, batch_size: int = 128, among: Sequence[int] | None = None
) -> Outputs:
    """The outputs of `make_classify` by trained nets for every example of a source, `batch_size` at a time."""
    classify = make_classify(trained.nets, trained.mesh, trained.means, views, among)
    batch_size = trained.batch_size(min(batch_size, len(source)))
    return classify_all(classify, trained.params, trained.mesh, source, batch_size)


def errors(outputs: Outputs) -> dict[str, Any]:
    """Evaluates the outputs of `classify_all`.

    Returns:
      a dict of `num_examples`, `loss` (of the centre view) and for each way a dict of `top1_error`, `top5_error` (as
      fractions) and `loss`.

    Raises:
      UserError: the loss is not finite.
    """
    label_Nx1 = outputs["label"][:, None]
    result: dict[str, Any] = {
        "num_examples": len(label_Nx1),
        "loss": float(outputs["center"]["loss"].mean(dtype=np.float64)),
    }
    for way in WAYS:
        if way in outputs:
            right_Nx5 = outputs[way]["classes"] == label_Nx1
            result[way] = {
                "top1_error": float(1 - right_Nx5[:, 0].mean()),
                "top5_error": float(1 - right_Nx5.any(1).mean()),
                "loss": float(outputs[way]["loss"].mean(dtype=np.float64)),
            }
    if not math.isfinite(result["loss"]):
        raise UserError(f"the loss of the net on {len(label_Nx1)} images is {result['loss']}; its weights are unusable")
    return result


def make_evaluate(
    nets: Sequence[spec.Net],
    mesh: jax.sharding.Mesh,
    means: Sequence[np.ndarray],
    source: Source,
    batch_size: int,
    views: int = 1,
) -> Callable[[list[alexnet.Params]], dict[str, Any]]:
    """A function from a list of parameters to their `errors` on every example of `source`; see `make_classify`."""
    classify = make_classify(nets, mesh, means, views)
    return lambda all_params: errors(classify_all(classify, all_params, mesh, source, batch_size))


def summary(result: dict[str, Any]) -> str:
    """An evaluation as one line of text."""
    ways = (
        f"{way} top-1 error {r['top1_error']:.2%}, top-5 {r['top5_error']:.2%}"
        for way, r in result.items()
        if isinstance(r, dict)
    )
    return f"loss {result['loss']:.4f}, {'; '.join(ways)}"


def last_way(outputs: Outputs) -> str:
    """The last of WAYS that the outputs have."""
    return [way for way in WAYS if way in outputs][-1]


def wrong(outputs: Outputs) -> np.ndarray:
    """The indices of the examples that the last of WAYS classifies wrongly."""
    return np.flatnonzero(outputs[last_way(outputs)]["classes"][:, 0] != outputs["label"])


def by_class(outputs: Outputs, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The `errors` of every class's examples, with `class` and `confused_with`.

    `confused_with` is the most frequent wrong prediction of the last of WAYS, and its count; None if all are right.
    """
    rows = []
    for label, class_name in enumerate(classes):
        of_class = jax.tree.map(lambda x, label=label: x[outputs["label"] == label], outputs)
        if len(of_class["label"]):
            predicted = of_class[last_way(outputs)]["classes"][:, 0]
            others, counts = np.unique(predicted[predicted != label], return_counts=True)
            confused = [classes[others[counts.argmax()]], int(counts.max())] if len(others) else None
            rows.append({"class": class_name} | errors(of_class) | {"confused_with": confused})
    return rows


def wrong_examples(outputs: Outputs, source: Source, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The examples that the last of WAYS classifies wrongly: dicts of `image`, `class` and `predictions`."""
    return [
        {
            "image": source.name(int(i)),
            "class": classes[outputs["label"][i]],
            "predictions": predictions(outputs[last_way(outputs)], int(i), classes),
        }
        for i in wrong(outputs)
    ]


def predictions(outputs: Outputs, i: int, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The most likely classes of example `i`, best first: dicts of `class`, `name` (readable) and `probability`."""
    return [
        {
            "class": classes[label],
            "name": class_names.readable(classes[label]),
            "probability": round(float(probability), 6),
        }
        for label, probability in zip(outputs["classes"][i], outputs["probabilities"][i], strict=True)
    ]


def labels_of(source: Source) -> list[int]:
    """The labels that the images of a source have, sorted."""
    if isinstance(source, sources.EncodedSource):
        return sorted({label for _, label in source.labels_by_name})
    return sorted({source[i][1] for i in range(len(source))})


def load_split(
    trained: Ensemble, dataset: str | None = None, root: str | None = None, split: str | None = None
) -> tuple[str, str, str, Source]:
    """The images to evaluate trained nets on: the data set's name and root, the split's name, and its source.

    The default is the data set of the first net's training, and the split of its final evaluation. The split of an
    undivided data set is called 'all'.

    Raises:
      UserError: the data do not exist, or have classes that the nets do not have.
    """
    first, net = trained.members[0], trained.nets[0]
    name = dataset or first.dataset
    root = root if root is not None else "" if dataset else first.root
    if not name:
        raise UserError(f"--dataset: the net in {first.workdir} was imported from a file; set --dataset and --root")
    # As in the training; a net from a file has none.
    images = datasets.find(name, root, first.orientation if first.dataset else None)
    split = split or ("train" if images.undivided else images.held_out()[1])
    if split == "val" and split not in images.splits:
        split = "validation"
    source = images.load(split, net.stored_size, net.stretch).relabelled(trained.class_names)
    if net.stretch and images.cropped:
        log.warning("a prepared set is cropped, but this net was trained on stretched images; use folder or tfds:NAME")
    if first.dataset and images.orientation != first.orientation:
        log.warning(
            "the images of this set are %s, but this net was trained on %s ones", images.orientation, first.orientation
        )
    return images.name, root, "all" if images.undivided else split, source
