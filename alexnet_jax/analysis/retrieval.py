"""Retrieval of similar images by the outputs of a net's last hidden layer (section 6.1, Figure 4)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.analysis import inference
from alexnet_jax.analysis.ensemble import Ensemble
from alexnet_jax.data import augment
from alexnet_jax.data.sources import Source
from alexnet_jax.model import alexnet
from alexnet_jax.runtime import sharding


def features(trained: Ensemble, source: Source, batch_size: int = 128) -> np.ndarray:
    """The outputs of the last hidden layer for the centre view of every image.

    Args:
      trained: an ensemble of one net.
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
    return inference.map_batches(lambda batch: last_hidden(params, batch["image"]), mesh, source, batch_size)


@functools.partial(jax.jit, static_argnames="number")
def nearest(queries_QxD: jax.Array, others_NxD: jax.Array, number: int) -> jax.Array:
    """The indices of the nearest others (Euclidean distance) to each query, nearest first: int32 [Q, number]."""
    squares_N = (others_NxD**2).sum(1)

    def of_one(query_D):
        products_N = jnp.matmul(others_NxD, query_D, precision=jax.lax.Precision.HIGHEST)
        return jax.lax.top_k(2 * products_N - squares_N, number)[1]

    return jax.lax.map(of_one, queries_QxD, batch_size=100)
