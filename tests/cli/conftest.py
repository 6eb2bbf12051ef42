import pytest
import torch

from tests.peers import CifarPeer, randomised


@pytest.fixture
def peer(tmp_path):
    """akamaster's ResNet-8, as that project saves it."""
    net = randomised(CifarPeer(1, "A"))
    state = {f"module.{key}": tensor for key, tensor in net.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 91.7}, tmp_path / "peer.th")
    return tmp_path / "peer.th", net
