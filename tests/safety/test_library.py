"""A library of many policies: parents stay, the oldest others go."""

from pathlib import Path

from safety.policy import PolicyLibrary
from tests.safety.policy_files import TODAY, child, root, write


def test_a_full_library_forgets_the_oldest_but_never_a_parent(tmp_path: Path) -> None:
    write(tmp_path, root())
    paths = [write(tmp_path, child(f"c{number}", kind="community")) for number in range(10)]
    library = PolicyLibrary([tmp_path], today=TODAY, keep=4)
    first = [library.load(path) for path in paths]
    assert len(library._resolved) <= 4
    assert library.load(paths[0]) is not first[0] and library.load(paths[0]).hash == first[0].hash
    assert len({policy.categories["hate"].hash for policy in first}) == 1
    assert all(policy.categories["csae"] is first[0].categories["csae"] for policy in first)
