"""The paper's net and recipe: two towers on two GPUs, ImageNet, 90 epochs, batch 128 (sections 3 to 5).

  python -m alexnet_jax.main --config=configs/two_gpu.py --workdir=/tmp/two_gpu

Data: ImageNet, prepared from its two official archives in DIR into the directory imagenet256:

  python -m alexnet_jax.prepare --dataset=imagenet --root=DIR --output=imagenet256

Cost: 0.9 million steps, 115 million images; the paper took five to six days on two GTX 580.
Expected: 40.7 % top-1 and 18.2 % top-5 error on the validation images with ten views (paper, Table 2). Not run yet.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config():
    """All settings. Where one is None, `config.fidelity` decides: see alexnet_jax/training/fidelity.py."""
    config = ConfigDict()
    config.seed = 0
    config.fidelity = "paper"  # what the paper's text says; code: what was run in 2012
    config.batch_size = 128  # all devices together
    config.num_epochs = placeholder(float)
    config.init_from = ""  # the directory of a run: fine-tune its net; other classes get a new last layer

    config.mesh = ConfigDict()
    config.mesh.data = -1  # parts of a batch; -1: as many as the devices allow
    config.mesh.model = 2  # devices for the towers

    config.dataset = ConfigDict()
    config.dataset.name = "prepared"  # by alexnet_jax.prepare; or folder, tfds:NAME, textures
    config.dataset.root = ""  # the directory; '' is imagenet256, for tfds:NAME ~/tensorflow_datasets

    config.model = ConfigDict()
    config.model.net = "two_gpu"  # or another of alexnet_jax/model/nets.py
    config.model.width = 1.0  # maps and units, relative to the paper's
    config.model.image_size = placeholder(int)  # of crops; None: the net's own, 224
    config.model.activation = "relu"  # or tanh
    config.model.without = ""  # a layer to leave out, as conv4
    config.model.input_std = (1.0, 1.0, 1.0)  # what red, green and blue are divided by; 1: pixels as they are
    config.model.stretch = False  # images of any shape to squares as Caffe; otherwise cropped as in the paper
    config.model.dtype = "float32"  # or bfloat16: of activations and products; parameters and loss remain float32
    config.model.block1 = placeholder(str)
    config.model.block2 = placeholder(str)
    config.model.block5 = placeholder(str)
    config.model.norm_alpha = placeholder(float)
    config.model.conv3to5_stddev = placeholder(float)

    config.augment = ConfigDict()
    config.augment.flip = True  # half of the crops, at random, mirrored
    config.augment.colour_noise = 0.1  # standard deviation of α in section 4.1; 0: none
    config.augment.colour_scale = "standard_deviation"  # as in the 2012 code; eigenvalue: as in the paper's text
    config.augment.divisor = placeholder(float)
    config.augment.noise_off_at = placeholder(float)
    config.augment.crop_group = placeholder(int)

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # or lars, for large batches
    config.optimizer.bias_rate = placeholder(float)
    config.optimizer.bias_rate_falls = placeholder(bool)
    config.optimizer.bias_decay = placeholder(bool)
    config.optimizer.layer_rates = ""  # factors for some layers, as "conv1=0 fc8=10"; 0 freezes

    config.schedule = ConfigDict()
    config.schedule.name = placeholder(str)  # plateau, steps, hand, automatic or polynomial
    config.schedule.notes = placeholder(str)  # hand: whose of alexnet_jax/training/lab_notes.py; None: the net's own
    config.schedule.learning_rate = 0.01
    config.schedule.warmup = 0.0  # epochs in which the rate rises from 0
    config.schedule.patience = 5  # plateau: evaluations without a new minimum, then ÷10, three times
    config.schedule.epochs = (30.0, 60.0, 80.0)  # steps: ÷10 at each of these

    config.log_every = 50  # steps
    config.eval_every = 1.0  # epochs
    config.save_every = 1000  # steps; the last step is always saved
    return config
