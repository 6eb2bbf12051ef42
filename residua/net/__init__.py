"""Build, load, change, save and convert networks.

layers, joins          make the PyTorch modules of layers and of joins
weight_init            initialise weights from a seed
whiten                 set the stem's weights from training images
build                  build the PyTorch module of a network: `build.build(network, seed)`
create                 create a network by name, with new or pretrained weights
stage_features         return the outputs of a network's stages, for detection and segmentation
vlad                   NetVLAD as a layer, and the classical VLAD pipeline

model_folder           find, check and load model folders
save_model             save model folders
fetch_weights          fetch files of published weights, once and checked
published_model        turn published weights into a model folder in the cache
model_card             render the README.md of a model folder
edit_folder            edit the network of a folder, and save the result as a new one
model_weights          check the weights of a model folder against its config
own_module             modules of the user's own: their config, and their weights in a folder
safetensors_file       read and write safetensors files
tensor_checksum        a checksum of named tensors
hub                    find weights on this machine, or fetch those that a name stands for
pretrained             load the weights from which the training of a network starts
convert                convert weights from and to other projects

surgery                deepen networks without changing outputs, remove units, add shortcuts
add_skips              add skip connections to an nn.Sequential
freeze                 freeze a network except its last layer
training_modes         restore the modes of the modules of a network
swap_batchnorm         replace BN by another kind of BN that shares its tensors

activation_checkpoint  recompute activations in the backward pass
fold_bn                fold BN into the weights before it, for inference
fused_bn               compute BN, addition and ReLU in one kernel, for training in bf16
fused_bn_kernels       compile, load and call the C kernels of `fused_bn`
fast_conv              convolutions that run as Triton kernels on a GPU where these are faster
batch_moments          the moments that a convolution computes for the BN after it
gradient_stream        compute weight gradients beside the rest of the backward pass, on a GPU
triton_conv            launch the Triton kernels of convolutions
triton_batchnorm       launch the Triton kernels of `fused_bn`, on a GPU
triton_bn_kernels      the Triton kernels of BN
native_bf16            detect whether a device multiplies bf16 matrices in hardware
"""

from typing import TYPE_CHECKING

from residua.lazy import export_lazily

if TYPE_CHECKING:
    from residua.net.activation_checkpoint import checkpoint_activations as checkpoint_activations
    from residua.net.activation_checkpoint import frozen_running_stats as frozen_running_stats
    from residua.net.build import ResidualNetwork as ResidualNetwork
    from residua.net.build import ResidualUnit as ResidualUnit
    from residua.net.create import create_model as create_model
    from residua.net.edit_folder import edit_model_folder as edit_model_folder
    from residua.net.fold_bn import fold_batchnorm as fold_batchnorm
    from residua.net.freeze import FrozenStatsBatchNorm as FrozenStatsBatchNorm
    from residua.net.freeze import freeze_backbone as freeze_backbone
    from residua.net.freeze import last_layer_parameters as last_layer_parameters
    from residua.net.fused_bn import install_fused_batchnorm as install_fused_batchnorm
    from residua.net.fused_bn_kernels import describe_fused_kernels as describe_fused_kernels
    from residua.net.hub import resolve_model_source as resolve_model_source
    from residua.net.hub import resolve_weights_path as resolve_weights_path
    from residua.net.joins import DropJoin as DropJoin
    from residua.net.joins import GatedSum as GatedSum
    from residua.net.model_folder import build_untrained as build_untrained
    from residua.net.model_folder import compute_file_sha256 as compute_file_sha256
    from residua.net.model_folder import find_model_folder as find_model_folder
    from residua.net.model_folder import fingerprint_model_folder as fingerprint_model_folder
    from residua.net.model_folder import from_pretrained as from_pretrained
    from residua.net.model_folder import load_model_folder as load_model_folder
    from residua.net.model_folder import load_residual_network as load_residual_network
    from residua.net.model_folder import read_compatible_config as read_compatible_config
    from residua.net.model_folder import read_model_config as read_model_config
    from residua.net.model_folder import save_pretrained as save_pretrained
    from residua.net.native_bf16 import cpu_has_bf16 as cpu_has_bf16
    from residua.net.native_bf16 import device_has_bf16 as device_has_bf16
    from residua.net.pretrained import drop_head_tensors as drop_head_tensors
    from residua.net.pretrained import load_pretrained_weights as load_pretrained_weights
    from residua.net.published_model import is_packaged_model as is_packaged_model
    from residua.net.published_model import is_published_model as is_published_model
    from residua.net.stage_features import StageFeatures as StageFeatures
    from residua.net.surgery import append_identity_units as append_identity_units
    from residua.net.surgery import remove_shortcuts as remove_shortcuts
    from residua.net.surgery import remove_units as remove_units
    from residua.net.surgery import residualize as residualize
    from residua.net.swap_batchnorm import swap_batchnorms as swap_batchnorms
    from residua.net.vlad import IMAGES_PER_CHUNK as IMAGES_PER_CHUNK
    from residua.net.vlad import VladNetwork as VladNetwork

__getattr__, __dir__ = export_lazily(
    __name__,
    {
        "activation_checkpoint": "checkpoint_activations frozen_running_stats",
        "build": "ResidualNetwork ResidualUnit",
        "create": "create_model",
        "edit_folder": "edit_model_folder",
        "fold_bn": "fold_batchnorm",
        "freeze": "FrozenStatsBatchNorm freeze_backbone last_layer_parameters",
        "fused_bn": "install_fused_batchnorm",
        "fused_bn_kernels": "describe_fused_kernels",
        "hub": "resolve_model_source resolve_weights_path",
        "joins": "DropJoin GatedSum",
        "model_folder": (
            "build_untrained compute_file_sha256 find_model_folder fingerprint_model_folder "
            "from_pretrained load_model_folder load_residual_network read_compatible_config "
            "read_model_config save_pretrained"
        ),
        "native_bf16": "cpu_has_bf16 device_has_bf16",
        "pretrained": "drop_head_tensors load_pretrained_weights",
        "published_model": "is_packaged_model is_published_model",
        "stage_features": "StageFeatures",
        "surgery": "append_identity_units remove_shortcuts remove_units residualize",
        "swap_batchnorm": "swap_batchnorms",
        "vlad": "IMAGES_PER_CHUNK VladNetwork",
    },
)
