"""What trained nets make of images: losses, errors and most likely classes (section 4.1 of the paper).

By the centre view, and by the paper's ten: four corners and the centre, each with its mirror image, their softmax
probabilities averaged. The probabilities of several nets are averaged too: an ensemble.
"""

import functools
import logging
import math
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from tqdm import tqdm

from alexnet_jax import UserError
from alexnet_jax.data import augment, datasets, pipeline
from alexnet_jax.model import alexnet
from alexnet_jax.runtime import processes, sharding

log = logging.getLogger("alexnet_jax")

BEST = 5  # classes of highest probability


def make_classify(nets, mesh, means, views):
    """A jitted function from (a list of parameters, batch) to what the nets together make of every example.

    Args:
      nets: one, or an ensemble; their probabilities are averaged.
      means: what to subtract for each of them, [S, S, 3] or [3].
      views: 1 for the centre view, 10 for the paper's ten as well.

    Returns:
      a dict of `label` and `weight` of the batch and, for each way to look at an image (`center`, with views=10
      `ten_crop`), a dict of `loss` [B], `classes` [B, 5], the most likely first, and their `probabilities` [B, 5].
      On every device the same.
    """

    def classify(all_params, batch):
        mirrored = [batch["image"][:, :, ::-1]] if views > 1 else []
        images = jnp.stack([batch["image"], *mirrored])

        def log_probabilities(net, params, mean):
            def of_view(view):
                x = augment.fixed_view(images, view, net.image_size, mean)
                logits, _ = alexnet.apply(net, mesh.shape["model"], params, x)
                return jax.nn.log_softmax(logits)

            return lax.map(of_view, jnp.arange(views))  # one view's memory at a time

        members = zip(nets, all_params, means, strict=True)
        log_probs_ExVxBxN = jnp.stack([log_probabilities(*member) for member in members])
        outputs = {"label": batch["label"], "weight": batch["weight"]}
        for way, shown in {"center": 1, "ten_crop": 10}.items():
            if shown <= views:
                log_probs_BxN = jax.nn.logsumexp(log_probs_ExVxBxN[:, :shown], (0, 1)) - math.log(len(nets) * shown)
                best, classes = lax.top_k(log_probs_BxN, min(BEST, log_probs_BxN.shape[1]))
                loss_B = -jnp.take_along_axis(log_probs_BxN, batch["label"][:, None], 1)[:, 0]
                outputs[way] = {"loss": loss_B, "classes": classes, "probabilities": jnp.exp(best)}
        return jax.tree.map(lambda x: lax.all_gather(x, "data", tiled=True, to="invarying"), outputs)

    @functools.partial(jax.jit, compiler_options=sharding.compiler_options(mesh))
    def classify_batch(all_params, batch):
        specs = ([sharding.param_specs(params) for params in all_params], sharding.BATCH)
        return jax.shard_map(classify, mesh=mesh, in_specs=specs, out_specs=jax.P())(all_params, batch)

    return classify_batch


def classify_all(classify, all_params, mesh, source, batch_size):
    """The outputs of `make_classify` for every example of `source`, in its order, as NumPy arrays."""
    rows = sharding.owned_rows(mesh, batch_size)
    batches = pipeline.eval_batches(source, batch_size, rows)
    count = math.ceil(len(source) / batch_size)
    watched = sys.stderr.isatty() and jax.process_index() == 0
    batches = processes.in_agreement(mesh, batches)
    bar = tqdm(batches, "evaluating", count, leave=False, unit="batch", disable=not watched)
    began = reported = time.monotonic()
    outputs = []
    for batch in bar:
        outputs.append(classify(all_params, batch))
        if len(outputs) > 1:  # the device has its next batch while this one's outputs travel
            outputs[-2] = jax.device_get(outputs[-2])
        now = time.monotonic()
        if bar.disable and now - reported > 30:
            left = tqdm.format_interval((now - began) * (count / len(outputs) - 1))
            log.info("evaluating: batch %d/%d, %s left", len(outputs), count, left)
            reported = now
    outputs = jax.tree.map(lambda *x: np.concatenate(x), *jax.device_get(outputs))
    return jax.tree.map(lambda x: x[outputs["weight"] > 0], outputs)


def errors(outputs):
    """The evaluation of `classify_all`'s outputs.

    Returns:
      a dict of `num_examples`, `loss` (of the centre view) and for each way a dict of `top1_error`, `top5_error` (as
      fractions) and `loss`.
    """
    label_Nx1 = outputs["label"][:, None]
    result = {"num_examples": len(label_Nx1), "loss": float(outputs["center"]["loss"].mean(dtype=np.float64))}
    for way in ("center", "ten_crop"):
        if way in outputs:
            right_Nx5 = outputs[way]["classes"] == label_Nx1
            result[way] = {
                "top1_error": float(1 - right_Nx5[:, 0].mean()),
                "top5_error": float(1 - right_Nx5.any(1).mean()),
                "loss": float(outputs[way]["loss"].mean(dtype=np.float64)),
            }
    if not math.isfinite(result["loss"]):
        raise UserError(f"the loss of the net on {len(label_Nx1)} images is {result['loss']}: its weights are unusable")
    return result


def make_evaluate(nets, mesh, means, source, batch_size, views=1):
    """A function from a list of parameters to their `errors` on every example of `source`; see `make_classify`."""
    classify = make_classify(nets, mesh, means, views)
    return lambda all_params: errors(classify_all(classify, all_params, mesh, source, batch_size))


def summary(result):
    """An evaluation in a line."""
    ways = (
        f"{way} top-1 error {r['top1_error']:.2%}, top-5 {r['top5_error']:.2%}"
        for way, r in result.items()
        if isinstance(r, dict)
    )
    return f"loss {result['loss']:.4f}, {'; '.join(ways)}"


def by_class(outputs, class_names):
    """Examples and errors of every class: the `errors` of its examples, with `class` and `confused_with`.

    `confused_with` is the most frequent wrong answer by the last way to look, with how often it was given; None if
    there was none.
    """
    ways = [way for way in ("center", "ten_crop") if way in outputs]
    rows = []
    for label, class_name in enumerate(class_names):
        mine = jax.tree.map(lambda x, label=label: x[outputs["label"] == label], outputs)
        if len(mine["label"]):
            answers = mine[ways[-1]]["classes"][:, 0]
            wrong, counts = np.unique(answers[answers != label], return_counts=True)
            confused = [class_names[wrong[counts.argmax()]], int(counts.max())] if len(wrong) else None
            rows.append({"class": class_name} | errors(mine) | {"confused_with": confused})
    return rows


def wrong_examples(outputs, source, class_names):
    """Every example whose most likely class, by the last way to look, is not its own: names and probabilities."""
    way = "ten_crop" if "ten_crop" in outputs else "center"
    return [
        {
            "image": source.name(int(i)),
            "class": class_names[outputs["label"][i]],
            "predictions": predictions(outputs[way], i, class_names),
        }
        for i in np.flatnonzero(outputs[way]["classes"][:, 0] != outputs["label"])
    ]


def predictions(outputs, i, class_names):
    """The most likely classes of example `i`, best first: dicts of `class`, `name` (for people) and `probability`."""
    return [
        {
            "class": class_names[label],
            "name": datasets.readable(class_names[label]),
            "probability": round(float(probability), 6),
        }
        for label, probability in zip(outputs["classes"][i], outputs["probabilities"][i], strict=True)
    ]


def load_split(trained, dataset=None, root=None, split=None):
    """The images that trained nets are evaluated on: the data set's name and root, the split's name, its source.

    By default the data set of the first net's training, and the split that served as its test.

    Raises:
      UserError: there is no such data, or it has classes that the nets do not know.
    """
    first, net = trained.members[0], trained.nets[0]
    name = dataset or first.dataset
    root = root if root is not None else "" if dataset else first.root
    if not name:
        raise UserError(f"--dataset: the net in {first.workdir} is from a file; name the data set, and its --root")
    split = split or datasets.held_out(name, root)[1]
    if split == "val" and split not in datasets.splits(name, root):
        split = "validation"
    source, class_names = datasets.load_split(name, root, split, net.stored_size, net.stretch)
    if net.stretch and name == "prepared":
        log.warning("a prepared set is cropped, and this net was trained on stretched images: use folder or tfds:NAME")
    return name, root, split, datasets.relabelled(source, class_names, trained.class_names)
