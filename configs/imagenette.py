"""The full two-tower net on Imagenette, ten classes of ImageNet."""

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
