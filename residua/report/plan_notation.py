"""The layers of a plan in short text, for the terminal and for diagrams."""

from residua.config.plan import ActivationShape, Layer, Layers


def format_layer_sequence(layers: Layers) -> str:
    """`3x3 bn relu 3x3/2`: weight layers by kernel and stride, other operations by name."""
    return " ".join(map(format_layer, layers))


def format_layer(layer: Layer) -> str:
    """`3x3/2`, or `full` for a fully connected layer; other operations by name: `bn`."""
    if layer.op != "weight":
        return layer.op
    kernel = format_kernel(layer, "x")
    return f"{kernel}/{layer.stride}" if layer.stride > 1 else kernel


def format_layer_label(layer: Layer) -> str:
    """The label of a layer's box in a diagram, with its output channels: `3×3, 128, /2`."""
    stride = f", /{layer.stride}" if layer.stride > 1 else ""
    channels, input_channels = layer.output_shape.channels, layer.input_shape.channels
    match layer.op:
        case "weight":
            return f"{format_kernel(layer, '×')}, {channels}{stride}"
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
    """`3x3` with `times_sign` as the x, or `full` for a fully connected layer."""
    if not layer.output_shape.size:
        return "full"
    return f"{layer.kernel}{times_sign}{layer.kernel}"


def format_plan_shape(shape: ActivationShape, times_sign: str = "x") -> str:
    """`64x32x32`: channels, height and width; for vectors the number of features."""
    return times_sign.join(map(str, (shape.channels, *shape.size)))
