"""Short text for the layers of a plan, for the terminal and for diagrams."""

from residua.config.layers import ActivationShape, Layer, Layers


def format_layer_sequence(layers: Layers) -> str:
    """Write layers as `3x3 bn relu 3x3/2`: weight layers by kernel and stride, others by name."""
    return " ".join(map(format_layer, layers))


def format_layer(layer: Layer) -> str:
    """Write a weight layer as `3x3/2`, or `full` if fully connected, and others by name: `bn`.

    A layer of 32 groups is written `3x3g32`.
    """
    if layer.attention is not None:
        return layer.attention.symbol
    if layer.op not in ("weight", "avgpool"):
        return layer.op
    name = layer.op if layer.op == "avgpool" else format_kernel(layer, "x")
    groups = f"g{layer.groups}" if layer.groups > 1 else ""
    return f"{name}{groups}" + (f"/{layer.stride}" if layer.stride > 1 else "")


def format_layer_label(layer: Layer) -> str:
    """Format the label of a layer's box: `3×3, 128, /2` is kernel, output channels and stride.

    `C=32` says that a layer has 32 groups, its cardinality (Xie et al. 2017).
    """
    stride = f", /{layer.stride}" if layer.stride > 1 else ""
    channels, input_channels = layer.output_shape.channels, layer.input_shape.channels
    if layer.attention is not None:
        return layer.attention.symbol
    match layer.op:
        case "weight":
            groups = f", C={layer.groups}" if layer.groups > 1 else ""
            return f"{format_kernel(layer, '×')}, {channels}{groups}{stride}"
        case "avgpool":
            return f"average pool{stride}"
        case "maxpool":
            return f"max-pool {format_kernel(layer, '×')}{stride}"
        case "pad":
            return f"+{channels - input_channels} zeros{stride}"
        case "mean":
            return "global average pool"
        case "vlad":
            return f"VLAD, {channels // input_channels} centers"
        case _:
            return layer.op


def format_kernel(layer: Layer, times_sign: str) -> str:
    """Format a kernel size, e.g. `3x3` with `times_sign` x; `full` for a fully connected layer."""
    if not layer.output_shape.size:
        return "full"
    return f"{layer.kernel}{times_sign}{layer.kernel}"


def format_plan_shape(shape: ActivationShape, times_sign: str = "x") -> str:
    """Format channels, height and width as `64x32x32`; for a vector only the number of features."""
    return times_sign.join(map(str, (shape.channels, *shape.size)))
