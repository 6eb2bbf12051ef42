"""Measurements on networks: signals, lesions and gradients by path length.

run_signals              signals of a network on real images, with predictions, as a record
signals                  the signals of each unit, measured forward and backward
trace_additions          the same for third-party modules, whose units are their additions
addition_tracer          records the residual additions of a forward pass
unit_signals             the signals of one unit and how each is computed
random_walk              signals expected of a new network if its branches were pure noise
activation_distribution  the distribution of one activation, for `random_walk`
run_lesion               lesion studies of several trained networks
network_lesions          all ablations of one network
ablation                 units deleted or reordered, and the error
path_gradients           the share of the gradient by path length
parts                    a network dissected into stem, units and head
modes                    evaluation mode or batch statistics during a measurement
"""

from typing import TYPE_CHECKING

from residua.lazy import export_lazily

if TYPE_CHECKING:
    from residua.analysis.network_lesions import LesionSampling as LesionSampling
    from residua.analysis.random_walk import ExpectedSignals as ExpectedSignals
    from residua.analysis.random_walk import predict_initial_signals as predict_initial_signals
    from residua.analysis.run_lesion import run_lesion_study as run_lesion_study
    from residua.analysis.run_signals import measure_signals_record as measure_signals_record
    from residua.analysis.signals import measure_signals as measure_signals
    from residua.analysis.unit_signals import UnitSignals as UnitSignals

__getattr__, __dir__ = export_lazily(
    __name__,
    {
        "network_lesions": "LesionSampling",
        "random_walk": "ExpectedSignals predict_initial_signals",
        "run_lesion": "run_lesion_study",
        "run_signals": "measure_signals_record",
        "signals": "measure_signals",
        "unit_signals": "UnitSignals",
    },
)
