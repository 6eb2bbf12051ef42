"""The numbers in a checkpoint are numbers, whoever wrote the file."""

import pytest
import torch
from safetensors.torch import save_file

from residua.errors import RecordError
from residua.net.tensor_checksum import checksum_tensors
from residua.training.checkpoint import load_checkpoint


@pytest.mark.parametrize(
    "facts", ["", "[]", "null", '{"step": "1"}', '{"step": NaN}', "[" * 100_000, '{"step": [1]}']
)
def test_facts_of_the_wrong_form_make_a_checkpoint_damaged(tmp_path, facts):
    tensors = {"net/weight": torch.ones(2)}
    path = tmp_path / "step-000000001.safetensors"
    save_file(tensors, path, {"facts": facts, "sha256": checksum_tensors(tensors, facts)})
    with pytest.raises(RecordError, match="step-000000001.safetensors is damaged: "):
        load_checkpoint(path)
