"""The shapes of convolutions, and the launch configurations of each, that kernels_conv.py tries."""

from dataclasses import replace

from residua.net.triton_conv_launches import (
    ConvShape,
    Launch,
    Pass,
    choose_launch_by_rule,
    fit_block,
)

SHAPES = {  # how many convolutions of a ResNet-20 have it
    ConvShape(128, 32, 32, 16, 16, 3, 1): 6,
    ConvShape(128, 16, 16, 32, 32, 3, 1): 5,
    ConvShape(128, 8, 8, 64, 64, 3, 1): 5,
    ConvShape(128, 32, 32, 16, 32, 3, 2): 1,
    ConvShape(128, 16, 16, 32, 64, 3, 2): 1,
    ConvShape(128, 32, 32, 3, 16, 3, 1): 1,
    ConvShape(128, 32, 32, 64, 16, 1, 1): 0,
    ConvShape(128, 32, 32, 16, 64, 1, 1): 0,
    ConvShape(128, 8, 8, 256, 64, 1, 1): 0,
    ConvShape(128, 8, 8, 64, 256, 1, 1): 0,
    ConvShape(128, 16, 16, 32, 128, 1, 1): 0,
    ConvShape(128, 16, 16, 128, 32, 1, 1): 0,
    ConvShape(128, 16, 16, 128, 128, 3, 1): 0,
    ConvShape(128, 8, 8, 256, 256, 3, 1): 0,
}


def list_launches(direction: Pass, shape: ConvShape) -> list[Launch]:
    if direction == "weight_gradient":
        launches = list_weight_gradient_launches(shape)
    else:
        is_forward = direction == "forward"
        depth, width = shape.in_channels, shape.out_channels
        launches = list_product_launches(
            shape, *((depth, width) if is_forward else (width, depth)), is_forward
        )
    launches = list(dict.fromkeys([choose_launch_by_rule(direction, shape), *launches]))
    return launches if SHAPES.get(shape) else launches[:7]


def list_product_launches(
    shape: ConvShape, depth: int, width: int, is_forward: bool
) -> list[Launch]:
    block_n, block_k = fit_block(width, 64), fit_block(depth, 64)
    half_n = max(16, block_n // 2)

    def split(block_m: int, n: int, programs: int) -> int:
        return max(1, min(8, shape.out_rows // block_m * (width // n) // programs))

    pipelined = [
        Launch(64, half_n, block_k, stages=4),
        Launch(64, block_n, block_k, stages=4),
        Launch(128, block_n, block_k, stages=4),
        Launch(64, half_n, 64, stages=4),
        Launch(128, block_n, 64, stages=4),
        Launch(64, half_n, block_k, stages=6),
        Launch(256, block_n, block_k, warps=8, stages=3),
        Launch(128, block_n, 16, stages=7),
    ]
    if fit_block(width, 128) == 128:
        pipelined.insert(0, Launch(128, 128, block_k, warps=8, stages=4))
    if not is_forward and shape.stride == 2:
        return pipelined
    whole = [
        Launch(block_m, n, block_k, warps, stages, tiles=split(block_m, n, programs), whole=True)
        for block_m, n, warps, stages, programs in [
            (128, block_n, 4, 2, 256),
            (64, block_n, 4, 2, 384),
            (64, block_n, 4, 3, 256),
            (128, block_n, 4, 3, 128),
            (256, block_n, 8, 2, 128),
            (64, half_n, 4, 2, 256),
            (128, block_n, 4, 3, 10**9),
            (64, half_n, 4, 3, 10**9),
            (256, block_n, 8, 3, 10**9),
        ]
    ]
    launches = [whole[0], pipelined[0], *whole[1:], *pipelined[1:]]
    return [launch for launch in launches if fits_shared_memory(launch, shape.kernel, depth)]


def fits_shared_memory(launch: Launch, kernel: int, depth: int) -> bool:
    if not launch.whole:
        return True
    blocks = kernel * -(-kernel * depth // launch.block_k)
    copies = launch.stages if launch.tiles > 1 else 1
    values = blocks * launch.block_k * (launch.block_m * copies + launch.block_n)
    return 2 * values < 227 * 1024


def list_weight_gradient_launches(shape: ConvShape) -> list[Launch]:
    n = fit_block(shape.out_channels, 64)
    if shape.in_channels == 3:
        return [
            Launch(16, n, block_k, warps, 2, programs, whole=whole)
            for block_k, warps, programs, whole in [
                (64, 2, 528, True),
                (128, 4, 264, True),
                (128, 4, 528, True),
                (128, 4, 528, False),
                (64, 1, 1056, True),
                (256, 8, 264, True),
            ]
        ]
    base = Launch(64, n, 64, programs=264)
    launches = [
        base,
        replace(base, block_k=128),
        replace(base, stages=4, programs=396),
        replace(base, programs=132),
        replace(base, warps=8, block_k=128),
    ]
    if shape.kernel * shape.in_channels > 64 and shape.in_channels < 64:
        launches += [replace(base, block_m=128), replace(base, block_m=128, warps=8, block_k=128)]
    if shape.kernel == 3:
        whole = replace(base, whole=True)
        launches += [
            whole,
            replace(whole, programs=132),
            replace(whole, programs=132, stages=4),
            replace(whole, programs=396),
            replace(whole, warps=8),
            replace(whole, warps=8, block_k=128, programs=132),
            replace(whole, block_k=128, stages=2),
        ]
        if shape.in_channels == 32:
            launches += [replace(whole, block_m=128, warps=8, stages=2)]
    return launches
