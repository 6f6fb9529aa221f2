"""The paper's net and recipe: two towers on two GPUs, ImageNet, 90 epochs, batch 128 (sections 3 to 5).

  python -m alexnet_jax.main --config=configs/two_gpu.py --workdir=/tmp/two_gpu

These are the defaults of all settings; alexnet_jax/settings.py explains them.

Data: ImageNet, prepared from its two official archives in DIR into the directory imagenet256:

  python -m alexnet_jax.prepare --dataset=imagenet --root=DIR --output=imagenet256

Cost: 0.9 million steps, 115 million images; the paper took five to six days on two GTX 580.
Expected: 40.7 % top-1 and 18.2 % top-5 error on the validation images with ten views (paper, Table 2). Not run yet.
"""

from alexnet_jax import settings


def get_config():
    return settings.defaults()
