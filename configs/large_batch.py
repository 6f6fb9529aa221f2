"""The paper's net on many devices: batches of 8192, with LARS and a warm-up.

  python -m alexnet_jax.main --config=configs/large_batch.py --workdir=/tmp/large_batch

You, Gitman and Ginsburg (Large Batch Training of Convolutional Networks, 2017) trained AlexNet with batch normalisation
this way. Learning rate, warm-up, decay and length are those of NVIDIA Caffe's models/alexnet_bn for this batch size.
LARS does not scale the biases; their learning rate is the 0.01 of section 5 of the paper.

Data: as configs/two_gpu.py.
Cost: 15,639 steps, 128 million images; experiments/benchmarks/scaling.py estimates 90 epochs of this on 512 devices.
Expected: not run yet.
"""

from configs import two_gpu


def get_config():
    config = two_gpu.get_config()
    config.batch_size = 8192
    config.num_epochs = 100.0
    config.model.dtype = "bfloat16"
    config.optimizer.name = "lars"
    config.optimizer.bias_rate = 0.001
    config.schedule.name = "polynomial"
    config.schedule.learning_rate = 10.0
    config.schedule.warmup = 5.0
    config.log_every = 10
    config.save_every = 150
    return config
