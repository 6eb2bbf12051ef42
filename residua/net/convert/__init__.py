"""Convert the weights of residual networks from and to the tensor names of other projects.

state_dict      read and write files of named tensors, without running code from them
exchange_files  recognise files of other frameworks, and read them
onnx_file, keras_file, flax_file  the readers
framework_layouts  layouts and epsilons of other frameworks in PyTorch
torch_file      read files of torch.save, within limits of memory
pickle_reader   read pickles without calling what they name
pickled_values  the dictionaries and tensors that pickles describe
positions       identify tensors by their position in a network, not by their names
names           parse and write the tensor names of other projects
match           compare a file's tensors with a network, explain differences, suggest a network
caveats         explain why the same weights can give different outputs in another project
file_modules    group a file's tensors into convolutions and BNs, in the order of use
unit_layouts    the orders in which a file may register the modules of a unit
name_hints      what names tell even if no project is known for them: folders, numbers, words
structure       match a file with a network by shapes and order
network_shapes  read the shapes of a file as the widths of a stem and of units
derive_network  derive the network of a file from its shapes
fold_biases     move biases before BN into BN
weights         convert state dicts
"""

from typing import TYPE_CHECKING

from residua.lazy import export_lazily

if TYPE_CHECKING:
    from residua.net.convert.caveats import explain_output_difference as explain_output_difference
    from residua.net.convert.match import describe_last_tensors as describe_last_tensors
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
        "match": "describe_last_tensors",
        "names": "map_names_to_project",
        "state_dict": "read_state_dict write_state_dict",
        "weights": (
            "ConvertedWeights adopt_foreign_stride convert_foreign_weights convert_to_project "
            "identify_network"
        ),
    },
)
