"""Measure what happens inside a network: signals of its units, lesions, gradients of its paths.

A signal is a statistic of a unit's activations or gradients.  A lesion study measures the error of
a trained network after units are deleted or reordered (ablations).

run_signals              measures and predicts a network's signals on real images
signals                  measures the signals of each unit by a forward and a backward pass
trace_additions          measures the signals of third-party modules; each addition is a unit
addition_tracer          records the residual additions of a forward pass
unit_signals             defines the signals of one unit and computes them
random_walk              predicts the signals of a new network whose branches are random noise
activation_distribution  models the distribution of one activation, for `random_walk`
examined_images          reads the images on which a network is examined
run_lesion               runs a lesion study of several trained networks
network_lesions          measures the error of one network under each ablation
ablation                 deletes or reorders units, and measures the error
path_gradients           measures the share of the gradient that paths of each length carry
parts                    dissects a network into stem, units and head
modes                    sets evaluation mode or batch statistics during a measurement
"""

from typing import TYPE_CHECKING

from residua.lazy import export_lazily

if TYPE_CHECKING:
    from residua.analysis.network_lesions import LesionSampling as LesionSampling
    from residua.analysis.random_walk import ExpectedSignals as ExpectedSignals
    from residua.analysis.random_walk import predict_initial_signals as predict_initial_signals
    from residua.analysis.run_lesion import run_lesion_study as run_lesion_study
    from residua.analysis.run_signals import make_model_signals_record as make_model_signals_record
    from residua.analysis.run_signals import (
        point_to_published_weights as point_to_published_weights,
    )
    from residua.analysis.signals import measure_signals as measure_signals
    from residua.analysis.unit_signals import UnitSignals as UnitSignals

__getattr__, __dir__ = export_lazily(
    __name__,
    {
        "network_lesions": "LesionSampling",
        "random_walk": "ExpectedSignals predict_initial_signals",
        "run_lesion": "run_lesion_study",
        "run_signals": "point_to_published_weights make_model_signals_record",
        "signals": "measure_signals",
        "unit_signals": "UnitSignals",
    },
)
