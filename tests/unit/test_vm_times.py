"""Times as ext4 keeps them: Documentation/filesystems/ext4/inodes.rst, "Inode Timestamps"."""

from __future__ import annotations

import pytest

from vm.times import encode


@pytest.mark.parametrize(
    ("seconds", "low", "epoch"),
    [
        (-(2**31), 0x80000000, 0),  # 1901-12-13
        (-1, 0xFFFFFFFF, 0),
        (0, 0, 0),
        (2**31 - 1, 0x7FFFFFFF, 0),  # 2038-01-19
        (2**31, 0x80000000, 1),
        (2**32 - 1, 0xFFFFFFFF, 1),
        (2**32, 0, 1),
        (2**33, 0, 2),
        (0x37FFFFFFF, 0x7FFFFFFF, 3),  # 2446-05-10, the last
    ],
)
def test_the_epoch_is_in_the_two_lowest_bits(seconds: int, low: int, epoch: int) -> None:
    assert encode(seconds, 0) == (low, epoch)
    assert encode(seconds, 999_999_999) == (low, 999_999_999 << 2 | epoch)
