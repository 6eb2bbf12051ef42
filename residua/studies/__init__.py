"""Studies: many runs that are trained for one comparison, on one machine or on a Ray cluster.

run_study    trains the runs of a study that have no result in its folder yet
study_data   finds the data of a study, and chooses the size of photographs
local        trains runs in parallel processes of this machine
gpu_threads  trains several runs at once on one GPU
ray_cluster  trains runs on the machines of a Ray cluster
"""

from typing import TYPE_CHECKING

from residua.lazy import export_lazily

if TYPE_CHECKING:
    from residua.studies.run_study import train_study as train_study
    from residua.studies.study_data import StudyData as StudyData
    from residua.studies.study_data import choose_study_data as choose_study_data
    from residua.studies.study_data import resolve_study_dataset as resolve_study_dataset

__getattr__, __dir__ = export_lazily(
    __name__,
    {
        "run_study": "train_study",
        "study_data": "StudyData choose_study_data resolve_study_dataset",
    },
)
