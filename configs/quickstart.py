"""Two narrow towers on the embedded textures.

python -m alexnet_jax.main --config=configs/quickstart.py --workdir=/tmp/quickstart
"""

from configs import two_gpu


def get_config():
    config = two_gpu.get_config()
    config.batch_size = 32
    config.num_epochs = 15.0
    config.dataset.name = "textures"
    config.model.width = 0.125
    config.model.image_size = 112
    config.schedule.name = "steps"
    config.schedule.learning_rate = 0.0025  # 0.01 at batch 128
    config.schedule.epochs = (12.0,)
    config.save_every = 500
    return config
