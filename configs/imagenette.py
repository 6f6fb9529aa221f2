"""The paper's net at full size on Imagenette: ten classes of ImageNet, 9,469 training and 3,925 validation photographs.

  python -m alexnet_jax.main --config=configs/imagenette.py --workdir=/tmp/imagenette --config.dataset.root=DIR

Data: Imagenette (https://github.com/fastai/imagenette; the version of 160 pixels will do), unpacked, in DIR: train/ and
val/ with a folder for each class.
Cost: 2,367 steps and the evaluations, an hour and a half on two CPU cores (21 images/s).
Expected: 38.0 % top-1 error by the centre view and 36.7 % by ten; 74.5 % after the first epoch. For a longer run raise
num_epochs and the epoch at which the rate falls: eight epochs are only what fits into the time.
"""

from configs import two_gpu


def get_config():
    config = two_gpu.get_config()
    config.batch_size = 32
    config.num_epochs = 8.0
    config.dataset.name = "folder"
    config.schedule.name = "steps"
    config.schedule.learning_rate = 0.01
    config.schedule.epochs = (6.5,)
    config.log_every = 20
    config.save_every = 200
    return config
