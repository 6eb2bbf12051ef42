"""How many bytes of activations a training step keeps for its backward pass."""

from itertools import count

from residua.spec.network import Drop, Gate
from residua.spec.plan import Layer, Layers, Plan

FLOAT = 4  # bytes of a number in fp32
INDEX = 8  # bytes of a max-pool's winner


def activation_bytes(plan: Plan) -> int:
    """Bytes kept for one image in fp32; weights, gradients and the work space of a convolution are not counted.

    Weight layers and BN keep their input, ReLU keeps its output, a gate keeps all that it multiplies; a tensor that two
    layers want is kept once.
    """
    kept: dict[int, int] = {}
    fresh = count()

    def run(layers: Layers, x: int) -> int:
        for layer in layers:
            if layer.op == "flatten":
                continue
            y = next(fresh)
            if layer.op in ("weight", "bn", "scale", "maxpool", "vlad"):
                kept[x] = layer.at.numbers * FLOAT
            if layer.op == "relu":
                kept[y] = layer.out.numbers * FLOAT
            if layer.op == "maxpool":
                kept[next(fresh)] = layer.out.numbers * INDEX
            if layer.op == "vlad":
                kept[next(fresh)] = vlad_bytes(layer)
            x = y
        return x

    x = run(plan.stem, next(fresh))
    for unit in plan.units:
        x = run(unit.lead, x)
        branch = run(unit.branch, x)
        if unit.shortcut is None:
            x = run(unit.after, branch)
            continue
        shortcut = run(unit.shortcut, x)
        match unit.join:
            case Gate(scales="both"):
                factors = [shortcut, branch, run(unit.gate, x), next(fresh)]  # the last is 1 - g
            case Gate():
                factors = [shortcut, run(unit.gate, x), next(fresh)]
            case Drop():
                factors = [next(fresh)] if unit.join.shortcut else []  # the mask
            case _:
                factors = []
        kept.update(dict.fromkeys(factors, unit.out.numbers * FLOAT))
        x = run(unit.after, next(fresh))
    run(plan.head, x)
    return sum(kept.values())


def vlad_bytes(layer: Layer) -> int:
    """Of a VLAD pooling, its input left out: unit features in two orders, shares, residuals in two lengths; and lengths."""
    positions = layer.at.numbers // layer.at.channels
    features = 2 * layer.at.numbers + 2 * positions
    residuals = 2 * layer.out.numbers + 3 * layer.words + 2
    return FLOAT * (features + layer.words * positions + residuals)
