"""The public names of `alexnet_jax.model`, for other programs: the nets, and functions that run and count them."""

from alexnet_jax.model.alexnet import AlexNet, apply, forward, init
from alexnet_jax.model.counts import format_table, layer_table, total
from alexnet_jax.model.nets import NETS, from_config
from alexnet_jax.model.spec import Net

__all__ = ["NETS", "AlexNet", "Net", "apply", "format_table", "forward", "from_config", "init", "layer_table", "total"]
