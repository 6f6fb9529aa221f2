"""Images that a net takes to be alike (section 6.1, Figure 4): by the outputs of its last hidden layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.data import augment, pipeline
from alexnet_jax.model import alexnet
from alexnet_jax.runtime import sharding


def features(trained, source, batch_size=128):
    """What the last hidden layer makes of the centre view of every image.

    Args:
      trained: an `ensemble.Ensemble` of one net.
      source: as in `datasets`.
      batch_size: images at a time.

    Returns:
      float32 [N, units], in the order of `source`; 4096 units in the paper's net.
    """
    (net,), (mean,), (params,), mesh = trained.nets, trained.means, trained.params, trained.mesh

    @functools.partial(jax.jit, compiler_options=sharding.compiler_options(mesh))
    def last_hidden(params, images):
        _, outputs = alexnet.forward(net, mesh, params, augment.fixed_view(images[None], 0, net.image_size, mean))
        return outputs[net.layers[-2].name]

    batch_size = trained.batch_size(min(batch_size, len(source)))
    batches = pipeline.eval_batches(source, batch_size, sharding.owned_rows(mesh, batch_size))
    found = [np.asarray(last_hidden(params, sharding.put_batch(mesh, batch["image"]))) for batch in batches]
    return np.concatenate(found)[: len(source)]


@functools.partial(jax.jit, static_argnames="number")
def nearest(queries_QxD, others_NxD, number):
    """Which of the others have the smallest Euclidean distance to each query, nearest first: int32 [Q, number]."""
    squares_N = (others_NxD**2).sum(1)

    def of_one(query_D):
        products_N = jnp.matmul(others_NxD, query_D, precision=jax.lax.Precision.HIGHEST)
        return jax.lax.top_k(2 * products_N - squares_N, number)[1]

    return jax.lax.map(of_one, queries_QxD, batch_size=100)
