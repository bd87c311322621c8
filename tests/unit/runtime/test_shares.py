"""Sharing a count of images out over ranks."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ddpm_ms.runtime import Runtime
from ddpm_ms.runtime.ranks import Shares


def ranks(count, largest_batch, world):
    return [Shares(count, largest_batch, Runtime("CPU", rank, world, "a test")) for rank in range(world)]


@given(st.integers(1, 200), st.integers(1, 70), st.integers(1, 8))
def test_every_number_is_had_once_in_order_in_batches_of_one_size(count, largest_batch, world):
    shares = ranks(count, largest_batch, world)
    sizes = {len(batch) for share in shares for batch in share.batches}
    assert len(sizes) == 1 and sizes.pop() <= largest_batch
    assert {len(share.batches) for share in shares} == {shares[0].rounds}
    # As `collect` joins them: round by round, in each the ranks in order.
    numbers = [number for batches in zip(*(share.batches for share in shares)) for batch in batches for number in batch]
    assert numbers == list(range(len(numbers)))
    assert count <= len(numbers) < count + world * len(shares[0].batches[0])


def test_what_is_past_the_end_is_cut():
    (share,) = ranks(5, 2, 1)
    assert share.batches == [range(0, 2), range(2, 4), range(4, 6)]
    assert [rows.tolist() for rows in share.rows(lambda numbers: np.array(numbers, np.int32))] == [[0, 1], [2, 3], [4]]
    np.testing.assert_array_equal(share.collect(lambda numbers: np.array(numbers, np.int32) * 10), [0, 10, 20, 30, 40])
