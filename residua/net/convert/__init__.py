"""Convert weights of other projects' residual networks to residua's names, and back.

state_dict  read and write files of named tensors, without running their code
positions   the tensors of a plan by position, independent of names
names       the names of other projects: parse them, and write them
match       compare a file's tensors with a network, explain differences, suggest a network
caveats     outputs that differ between projects although the weights are the same
weights     convert state dicts
"""

from typing import TYPE_CHECKING

from residua.lazy import export_lazily

if TYPE_CHECKING:
    from residua.net.convert.caveats import explain_output_difference as explain_output_difference
    from residua.net.convert.names import map_names_to_project as map_names_to_project
    from residua.net.convert.state_dict import read_state_dict as read_state_dict
    from residua.net.convert.state_dict import write_state_dict as write_state_dict
    from residua.net.convert.weights import ConvertedWeights as ConvertedWeights
    from residua.net.convert.weights import adopt_foreign_stride as adopt_foreign_stride
    from residua.net.convert.weights import convert_foreign_weights as convert_foreign_weights
    from residua.net.convert.weights import convert_to_project as convert_to_project
    from residua.net.convert.weights import identify_network as identify_network

__getattr__, __dir__ = export_lazily(
    __name__,
    {
        "caveats": "explain_output_difference",
        "names": "map_names_to_project",
        "state_dict": "read_state_dict write_state_dict",
        "weights": (
            "ConvertedWeights adopt_foreign_stride convert_foreign_weights convert_to_project "
            "identify_network"
        ),
    },
)
