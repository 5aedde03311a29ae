"""A cache is bounded by what its values take, not by how many there are."""

import time

from model_delivery_localcloud.portal.sized_cache import SizedCache

MIB = 1024 * 1024


def test_large_values_push_out_those_that_were_longest_not_asked_for() -> None:
    cache: SizedCache[int, str] = SizedCache(4 * MIB, 60.0)
    for number in range(4):
        cache.put(number, f"value {number}", MIB)
    assert cache.get(0) == "value 0"
    cache.put(4, "value 4", 2 * MIB)
    assert [number for number in range(5) if cache.get(number)] == [0, 3, 4]


def test_a_value_larger_than_all_is_not_kept_and_pushes_nothing_out() -> None:
    cache: SizedCache[int, str] = SizedCache(MIB, 60.0)
    cache.put(1, "small", 10)
    cache.put(2, "large", 2 * MIB)
    assert (cache.get(1), cache.get(2)) == ("small", None)


def test_a_value_that_is_put_again_counts_once() -> None:
    cache: SizedCache[int, str] = SizedCache(4 * MIB, 60.0)
    for _ in range(10):
        cache.put(1, "one", 2 * MIB)
    cache.put(2, "two", 2 * MIB)
    assert (cache.get(1), cache.get(2)) == ("one", "two")


def test_many_small_values_are_bounded_too() -> None:
    cache: SizedCache[int, str] = SizedCache(MIB, 60.0)
    for number in range(10_000):
        cache.put(number, "x", 1)
    assert sum(cache.get(number) is not None for number in range(10_000)) == 256


def test_an_old_value_is_gone() -> None:
    cache: SizedCache[int, str] = SizedCache(MIB, 0.01)
    cache.put(1, "one", MIB)
    time.sleep(0.02)
    assert cache.get(1) is None
    cache.put(2, "two", MIB)
    assert cache.get(2) == "two"
