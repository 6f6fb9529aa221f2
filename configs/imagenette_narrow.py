"""Two towers at a quarter of the width on Imagenette at 112 pixels: the paper's claims at laptop scale.

  python -m alexnet_jax.prepare --dataset=folder --root=imagenette2-160 --output=imagenette256
  python -m alexnet_jax.main --config=configs/imagenette_narrow.py --workdir=/tmp/narrow \
      --config.dataset.root=imagenette256

Data: Imagenette (https://github.com/fastai/imagenette; the 160-pixel version suffices), unpacked in imagenette2-160.
Cost: 3,551 steps take four to five minutes on one CPU core.
Expected: see experiments/RESULTS.md.
"""

from configs import imagenette


def get_config():
    config = imagenette.get_config()
    config.num_epochs = 12.0
    config.dataset.name = "prepared"
    config.model.width = 0.25
    config.model.image_size = 112
    config.schedule.epochs = (9.0, 11.0)
    config.log_every = 100
    config.save_every = 1000
    return config
