"""The paper's one-GPU net (section 3.2): one column with half the maps in conv1 to conv4; 59.8 million parameters.

  python -m alexnet_jax.main --config=configs/one_gpu.py --workdir=/tmp/one_gpu

Data and cost: as configs/two_gpu.py, but on one device with 54 % of the multiply-accumulates.
Expected: 1.7 points more top-1 and 1.2 more top-5 error than the two-GPU net on the same data (paper, section 3.2).
Not run yet.
"""

from configs import two_gpu


def get_config():
    config = two_gpu.get_config()
    config.model.net = "one_gpu"
    config.mesh.model = 1
    return config
