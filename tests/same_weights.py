import torch


def require_equal_weights(first, second):
    """Assert that two networks have the same state, bit by bit."""
    expected, actual = first.state_dict(), second.state_dict()
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert torch.equal(value.cpu(), actual[name].cpu()), name
