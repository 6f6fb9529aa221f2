"""The paper's net and recipe: two towers on two GPUs, ImageNet, 90 epochs, batch 128 (sections 3 to 5).

  python -m alexnet_jax.main --config=configs/two_gpu.py --workdir=/tmp/two_gpu

Data: ImageNet, prepared from its two official archives in DIR into the directory imagenet256:

  python -m alexnet_jax.prepare --dataset=imagenet --root=DIR --output=imagenet256

Cost: 0.9 million steps, 115 million images; the paper took five to six days on two GTX 580.
Expected: 40.7 % top-1 and 18.2 % top-5 error on the validation images with ten views (paper, Table 2). Not run yet.
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.seed = 0
    config.fidelity = "paper"  # what the paper's text says
    config.batch_size = 128  # all devices together
    config.num_epochs = 90.0

    config.mesh = ConfigDict()
    config.mesh.data = -1  # parts of a batch; -1: as many as the devices allow
    config.mesh.model = 2  # devices for the towers

    config.dataset = ConfigDict()
    config.dataset.name = "prepared"  # by alexnet_jax.prepare; or folder, tfds:NAME, textures
    config.dataset.root = ""  # the directory; '' is imagenet256, for tfds:NAME ~/tensorflow_datasets

    config.model = ConfigDict()
    config.model.net = "two_gpu"  # or one_gpu
    config.model.width = 1.0  # maps and units, relative to the paper's
    config.model.image_size = 224  # crops; images are stored at 8/7 of it

    config.augment = ConfigDict()
    config.augment.colour_noise = 0.1  # standard deviation of α in section 4.1; 0: none
    config.augment.colour_scale = "standard_deviation"  # as in the 2012 code; eigenvalue: as in the paper's text
    config.augment.divisor = 1.0  # of crops with their noise; 1.1 in the 2012 code
    config.augment.crop_group = 1  # consecutive examples of a batch that share crop and flip; 32 in the 2012 code

    config.schedule = ConfigDict()
    config.schedule.name = "plateau"  # ÷10 when the validation error stops improving, three times; or steps
    config.schedule.learning_rate = 0.01
    config.schedule.patience = 5  # plateau: evaluations without a new minimum
    config.schedule.epochs = (30.0, 60.0, 80.0)  # steps: ÷10 at each of these

    config.log_every = 50  # steps
    config.eval_every = 1.0  # epochs
    config.save_every = 1000  # steps; the last step is always saved
    return config
