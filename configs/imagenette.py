"""The paper's net at full size on Imagenette: ten classes of ImageNet, 9,469 training and 3,925 validation photographs.

  python -m alexnet_jax.main --config=configs/imagenette.py --workdir=/tmp/imagenette --config.dataset.root=DIR

Data: Imagenette, unpacked, in DIR: train/ and val/ with a folder for each class (the version of 160 pixels will do).
Cost: 2,367 steps; EDIT
Expected: EDIT
"""

from configs import two_gpu


def get_config():
    config = two_gpu.get_config()
    config.batch_size = 32
    config.num_epochs = 8.0
    config.dataset.name = "folder"
    config.dataset.root = "imagenette160"
    config.schedule.name = "steps"
    config.schedule.learning_rate = 0.01
    config.schedule.epochs = (6.5,)
    config.log_every = 20
    config.save_every = 200
    return config
