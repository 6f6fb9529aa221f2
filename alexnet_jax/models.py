"""The nets and how they run, for other programs: what `alexnet_jax.model` has for them, under one name."""

from alexnet_jax.model.alexnet import AlexNet, apply, format_table, forward, init, layer_table, total
from alexnet_jax.model.nets import NETS, from_config
from alexnet_jax.model.spec import Net

__all__ = ["NETS", "AlexNet", "Net", "apply", "format_table", "forward", "from_config", "init", "layer_table", "total"]
