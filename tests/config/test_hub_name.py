import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from residua.config.hub_name import is_hub_name, is_repository, require_hub_name
from residua.errors import UsageError

NAMES = [
    "someone/letters",
    "a/b",
    "me/v1.5_x-y",
    "_a/b_",
    "a.b/c.d",
    f"a/{'b' * 96}",
    f"a/{'b' * 97}",
    "a//b",
    "a/b/c",
    "./b",
    "../b",
    "a/..",
    "a/b..c",
    "a/b--c",
    "-a/b",
    "a/b-",
    ".a/b",
    "a/b.",
    "a b/c",
    "é/b",
    "a/b\n",
    "a/b.git",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_repository_is_what_huggingface_hub_takes_for_one(name):
    try:
        validate_repo_id(name)
        is_valid = True
    except HFValidationError:
        is_valid = False
    assert is_repository(name) == is_valid


def test_a_name_without_an_owner_is_no_repository():
    assert not is_repository("letters")  # the hub has such names, and so has any folder


def test_only_the_prefix_makes_a_name_one_on_the_hub():
    assert not is_hub_name("someone/letters")
    assert is_hub_name("hf:someone/letters")
    assert require_hub_name("hf:someone/letters") == "someone/letters"
    with pytest.raises(
        UsageError,
        match=r"^hf:\.\. is not a name on the Hugging Face hub: write hf:OWNER/NAME, or leave "
        r"out hf: to give a local folder$",
    ):
        require_hub_name("hf:..")
