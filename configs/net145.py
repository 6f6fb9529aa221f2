"""Net 145 of 2012, the paper's two towers as they were really run: every difference from the text at the code's value.

  python -m alexnet_jax.main --config=configs/net145.py --workdir=/tmp/net145

The differences are listed in alexnet_jax/fidelity.py; each is a field that can be set alone, as
--config.model.conv3to5_stddev=0.01. Net 170, a later run by an automatic schedule that was as good, is
--config.schedule.name=automatic --config.num_epochs=90.0 --config.augment.noise_off_at=0.0 (40.5 % top-1 error,
18.0 % top-5, by the log of 2012).

Data and cost: as configs/two_gpu.py.
Expected: 40.66 % top-1 and 18.21 % top-5 error on the validation images with ten views (log of 2012). Not run yet.
"""

from configs import two_gpu


def get_config():
    config = two_gpu.get_config()
    config.fidelity = "code"
    return config
