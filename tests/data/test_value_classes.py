from tests.value_classes import list_mutable_dataclasses


def test_values_cannot_change_and_have_slots():
    assert list_mutable_dataclasses("residua.data") == {
        "ListedFile",
        "PendingHeaders",
        "ScannedFolder",
        "ShardProblems",
    }
