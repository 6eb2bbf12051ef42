"""Insert units into networks, and add skip connections to them."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias, cast, overload

from torch import nn

from residua.api.given_networks import GivenNetwork, read_given_network, require_own_network
from residua.api.own_errors import name_keywords_in_errors
from residua.config.checks import check_seed_range
from residua.config.name_parts import SHORTCUT_LETTERS
from residua.config.network import Shortcut
from residua.errors import UsageError
from residua.files import claim_new_output
from residua.net import surgery
from residua.net.build import ResidualNetwork
from residua.net.edit_folder import edit_network
from residua.net.model_folder import save_pretrained

ShortcutLetter: TypeAlias = Literal["A", "B", "C"]
"""A kind of shortcut as He et al. 2015 call it."""


@name_keywords_in_errors
def deepen(
    model: GivenNetwork,
    *,
    stage: int,
    units: int,
    seed: int = 0,
    out: str | Path | None = None,
) -> ResidualNetwork:
    """Copy a network and append `units` units to a stage; its outputs do not change.

    Stages are counted from 1.  The new units start as the identity, and learn when the copy is
    trained.  Their other weights are drawn from `seed`.  With `out`, the copy is also written as a
    new model folder.

    Raises UsageError if there is no such stage, if units of this network cannot start as the
    identity, if `out` exists, or if `out` is given for a module, which has no class names to write.
    """
    check_seed_range(seed)
    return edit_given_network(
        model, lambda net: surgery.append_identity_units(net, stage, units, seed), out
    )


@overload
def residualize(  # type: ignore[overload-overlap]  # an nn.Sequential is a module, too
    model: nn.Sequential,
    *,
    every: int = 2,
    shortcut: Shortcut | ShortcutLetter = "project",
    seed: int = 0,
    out: None = None,
) -> nn.Sequential: ...
@overload
def residualize(
    model: GivenNetwork,
    *,
    every: int = 2,
    shortcut: Shortcut | ShortcutLetter = "project",
    seed: int = 0,
    out: str | Path | None = None,
) -> ResidualNetwork: ...
@name_keywords_in_errors
def residualize(
    model: GivenNetwork,
    *,
    every: int = 2,
    shortcut: Shortcut | ShortcutLetter = "project",
    seed: int = 0,
    out: str | Path | None = None,
) -> ResidualNetwork | nn.Sequential:
    """Copy a plain network, and add a skip connection over each group of `every` weight layers.

    The copy keeps the weights, but its outputs differ.  Where shapes differ, `shortcut` chooses
    between project (option B), with new weights from `seed`, and pad (option A).  In an
    nn.Sequential, only projections are possible.  With `out`, the copy is also written as a new
    model folder.

    Raises UsageError if the layers cannot be grouped this way, if the network has skip connections,
    if `out` exists, or if `out` is given for a module, which has no class names to write.
    """
    check_seed_range(seed)
    kind = cast(Shortcut, SHORTCUT_LETTERS.get(shortcut, shortcut))
    if isinstance(model, nn.Sequential):
        require_no_folder(out)
        return surgery.residualize(model, every, kind, seed)
    return edit_given_network(model, lambda net: surgery.residualize(net, every, kind, seed), out)


def edit_given_network(
    model: GivenNetwork,
    edit: Callable[[ResidualNetwork], ResidualNetwork],
    out: str | Path | None,
) -> ResidualNetwork:
    """Apply `edit` to a copy of a network; with `out`, write the result as a new model folder."""
    given = read_given_network(model)
    net = require_own_network(given.net)
    if given.config is None:
        require_no_folder(out)
    if given.config is None or out is None:
        return edit(net)
    folder = Path(out)
    with claim_new_output(folder):
        edited = edit_network(net, given.config, edit)
        save_pretrained(edited.net, edited.config, folder)
    return edited.net


def require_no_folder(out: str | Path | None) -> None:
    """Raise UsageError if a module is to be written to a folder."""
    if out is not None:
        raise UsageError(
            f"a module has no class names to write to {out}: omit out=, and save the result with "
            "residua.save_pretrained and a config"
        )
