"""The claims of the paper, in its order; `python -m experiments NAME` tests one."""

import pathlib

from experiments.claims import comparisons
from experiments.claims.dropout import DROPOUT
from experiments.claims.fig1_relu_vs_tanh import FIG1_RELU_VS_TANH
from experiments.claims.fig3_kernels import FIG3_KERNELS
from experiments.claims.fig4_retrieval import FIG4_RETRIEVAL
from experiments.claims.table1 import TABLE1
from experiments.claims.table2 import TABLE2
from experiments.claims.ten_views import TEN_VIEWS

CONFIG = pathlib.Path(__file__).parent / "config.py"
CLAIMS = {
    claim.name: claim
    for claim in (
        FIG1_RELU_VS_TANH,
        comparisons.TWO_GPUS,
        comparisons.LRN,
        comparisons.LRN_CIFAR10,
        comparisons.OVERLAPPING_POOLING,
        TEN_VIEWS,
        comparisons.COLOUR_NOISE,
        DROPOUT,
        TABLE1,
        TABLE2,
        comparisons.PRETRAINING,
        FIG3_KERNELS,
        FIG4_RETRIEVAL,
        comparisons.DEPTH,
    )
}
