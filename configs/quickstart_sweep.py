"""A sweep of two learning rates with three seeds each, over four epochs of the quickstart.

  python experiments/sweep.py local --config=configs/quickstart_sweep.py --workdir=/tmp/sweep --at_once=2

Data: as configs/quickstart.py.
Cost: six runs, about five minutes on two CPU cores.
Expected: a table of test errors, with mean and standard deviation over the seeds.
"""

from configs import quickstart


def get_config():
    config = quickstart.get_config()
    config.num_epochs = 4.0
    config.schedule.epochs = (3.0,)
    return config


def sweep():
    """Yields the settings of each run."""
    for learning_rate in (0.0025, 0.005):
        for seed in range(3):
            yield {"schedule.learning_rate": learning_rate, "seed": seed}
