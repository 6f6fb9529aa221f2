"""The paper's net at full size on Imagenette: ten classes of ImageNet, 9,469 training and 3,925 validation photographs.

  python -m alexnet_jax.main --config=configs/imagenette.py --workdir=/tmp/imagenette --config.dataset.root=DIR

Data: Imagenette (https://github.com/fastai/imagenette; the 160-pixel version suffices), unpacked in DIR, which then has
train/ and val/ with a folder for each class.
Cost: 2,367 steps and the evaluations take an hour and a half on two CPU cores (21 images/s).
Expected: 38.0 % top-1 error by the centre view and 36.7 % by ten views; 74.5 % after the first epoch. Eight epochs keep
the run short: for a longer one, raise num_epochs and the epoch at which the rate falls.
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
