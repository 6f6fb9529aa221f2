"""Net 145 of 2012, the paper's two towers as they were really run: every difference from the text at the code's value.

  python -m alexnet_jax.main --config=configs/net145.py --workdir=/tmp/net145

The differences are listed in alexnet_jax/training/fidelity.py; each is a field that can be set alone, as
--config.model.conv3to5_stddev=0.01. With

  --config.schedule.notes=145-2010                      net 145 on ILSVRC-2010
  --config.model.net=one_gpu --config.mesh.model=1      net 145-half, one column; trained on ILSVRC-2010 too
  --config.model.net=no_overlap                         net 147, pools of 2×2
  --config.model.net=no_norm                            net 148, no response normalisation
  --config.model.net=separate                           net 150, towers that never communicate
  --config.schedule.name=automatic                      net 170, a later run (40.5 % top-1 error, 18.0 % top-5)

the length, and the epochs at which rates fall and the colour noise ends, are those of that net;
alexnet_jax/training/lab_notes.py has them all.

Data and cost: as configs/two_gpu.py.
Expected: 40.66 % top-1 and 18.21 % top-5 error on the validation images with ten views (log of 2012). Not run yet.
"""

from configs import two_gpu


def get_config():
    config = two_gpu.get_config()
    config.fidelity = "code"
    return config
