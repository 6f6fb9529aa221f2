"""Loss, top-1 and top-5 error of a split, every example exactly once: by the centre view, and by ten (section 4.1)."""

import collections
import math
import sys

import jax
import jax.numpy as jnp
from jax import lax
from tqdm import tqdm

from alexnet_jax import UserError, augment, input_pipeline, metrics, models, sharding


def make_eval_step(net, mesh, mean, views):
    """A jitted function from (params, batch) to sums over the batch's real examples.

    Args:
      mean: what to subtract, [S, S, 3] or [3].
      views: 1 for the centre view, 10 for the paper's ten.

    Returns:
      sums of `weight`, `loss` (of the centre view), `center/top1`, `center/top5`, `ten_crop/top1` and `ten_crop/top5`
      (correct examples; those of ten_crop, whose softmax probabilities are averaged, only with views=10), float32 [].
    """

    def sums(params, batch):
        labels, weight = batch["label"], batch["weight"]

        def log_probabilities(view):
            x = augment.fixed_view(batch["image"], view, net.image_size, mean)
            logits, _ = models.apply(net, mesh.shape["model"], params, x)
            return jax.nn.log_softmax(logits)

        log_probs_VxBxN = lax.map(log_probabilities, jnp.arange(views))  # one view's memory at a time
        centre_BxN = log_probs_VxBxN[0]
        values = {"weight": weight, "loss": -jnp.take_along_axis(centre_BxN, labels[:, None], 1)[:, 0]}
        scores = {"center": centre_BxN}
        if views == 10:
            scores["ten_crop"] = jnp.exp(log_probs_VxBxN).mean(0)
        for name, scores_BxN in scores.items():
            values[f"{name}/top1"] = metrics.correct(scores_BxN, labels, 1)
            values[f"{name}/top5"] = metrics.correct(scores_BxN, labels, 5)
        # `where`, not a product: a blank's loss must not matter even if it is infinite.
        return {name: lax.psum(jnp.where(weight > 0, value, 0).sum(), "data") for name, value in values.items()}

    @jax.jit
    def eval_step(params, batch):
        specs = (sharding.param_specs(params), sharding.BATCH)
        return jax.shard_map(sums, mesh=mesh, in_specs=specs, out_specs=jax.P())(params, batch)

    return eval_step


def make_evaluate(net, mesh, mean, source, batch_size, views=1):
    """A function from parameters to their evaluation on every example of `source`; see `make_eval_step`.

    It returns a dict: `num_examples`, `loss`, and for each way to look at an image (`center`, with views=10 `ten_crop`)
    a dict of `top1_error` and `top5_error` as fractions.
    """
    eval_step = make_eval_step(net, mesh, mean, views)
    rows = sharding.owned_rows(mesh, batch_size)

    def evaluate(params):
        totals = collections.Counter()
        batches = input_pipeline.eval_batches(source, batch_size, rows)
        count, watched = math.ceil(len(source) / batch_size), sys.stderr.isatty() and jax.process_index() == 0
        for batch in tqdm(batches, "evaluating", count, leave=False, unit="batch", disable=not watched):
            sums = jax.device_get(eval_step(params, sharding.put_batch(mesh, batch)))
            totals.update({name: float(value) for name, value in sums.items()})
        count = totals["weight"]
        if not math.isfinite(totals["loss"]):
            raise UserError(
                f"the loss of the net on {len(source)} images is {totals['loss']}: its weights are unusable"
            )
        result = {"num_examples": round(count), "loss": totals["loss"] / count}
        for way in ("center", "ten_crop")[: 1 if views == 1 else 2]:
            result[way] = {f"{k}_error": 1 - totals[f"{way}/{k}"] / count for k in ("top1", "top5")}
        return result

    return evaluate


def summary(result):
    """An evaluation in a line."""
    ways = (
        f"{way} top-1 error {r['top1_error']:.2%}, top-5 {r['top5_error']:.2%}"
        for way, r in result.items()
        if isinstance(r, dict)
    )
    return f"loss {result['loss']:.4f}, {'; '.join(ways)}"
