import pytest
import torch

from tests.third_party import ThirdPartyCifarResNet, randomize_weights


@pytest.fixture
def akamaster_file(tmp_path):
    """akamaster's ResNet-8, as that project saves it."""
    net = randomize_weights(ThirdPartyCifarResNet(1, "A"))
    state = {f"module.{key}": tensor for key, tensor in net.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 91.7}, tmp_path / "peer.th")
    return tmp_path / "peer.th", net
