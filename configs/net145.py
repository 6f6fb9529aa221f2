"""Net 145 of 2012, the paper's two towers as they were run: all differences from the text take the code's value.

  python -m alexnet_jax.main --config=configs/net145.py --workdir=/tmp/net145

alexnet_jax/training/fidelity.py lists the differences. Each is a field that can be set alone, as
--config.model.conv3to5_stddev=0.01. Other nets of 2012:

  --config.schedule.notes=145-2010                      net 145 on ILSVRC-2010
  --config.model.net=one_gpu --config.mesh.model=1      net 145-half, one column; trained on ILSVRC-2010 too
  --config.model.net=no_overlap                         net 147, pools of 2×2
  --config.model.net=no_norm                            net 148, no response normalisation
  --config.model.net=separate                           net 150, towers that never communicate
  --config.schedule.name=automatic                      net 170, a later run (40.5 % top-1 error, 18.0 % top-5)

Each flag also sets the length and the epochs at which the rates fall and the colour noise ends to those of its net;
alexnet_jax/training/lab_notes.py lists them.

Data and cost: as configs/two_gpu.py.
Expected: 40.66 % top-1 and 18.21 % top-5 error on the validation images with ten views (log of 2012). Not run yet.
"""

from configs import two_gpu


def get_config():
    config = two_gpu.get_config()
    config.fidelity = "code"
    return config
