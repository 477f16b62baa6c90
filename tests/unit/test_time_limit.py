import pytest

from reasoner.errors import OutOfTimeError
from reasoner.training.guards.time_limit import RECENT, SPARE_S, Deadline


def laps(max_hours: float | None, seconds: list[float], save_s: float = 0.0, started: float = 0.0) -> int:
    """How many of the laps are begun."""
    now, deadline = started, Deadline(max_hours)
    for count, lap in enumerate(seconds):
        try:
            deadline.next_lap(now, save_s)
        except OutOfTimeError:
            return count
        now += lap
    return len(seconds)


def test_without_a_limit_there_is_always_time() -> None:
    assert laps(None, [1e9] * 10) == 10


@pytest.mark.parametrize("save_s", [0.0, 50.0, 300.0])
def test_the_last_lap_ends_with_enough_time_to_save(save_s: float) -> None:
    begun = laps(1.0, [100.0] * 100, save_s)
    end = 100.0 * begun
    assert end + 2 * save_s + SPARE_S <= 3600
    assert end + 100.0 + 2 * save_s + SPARE_S > 3600  # and none is given away


def test_set_up_counts_and_a_limit_that_is_over_begins_nothing() -> None:
    assert laps(1.0, [100.0] * 100, started=3000.0) == 5
    assert laps(0.001, [1.0]) == 0


def test_the_longest_of_the_last_laps_is_expected() -> None:
    assert laps(1.0, [10.0] * 50 + [2000.0] + [10.0] * 200) == 51
    forgotten = laps(1.0, [1000.0] + [10.0] * 400)
    assert forgotten > RECENT + 150


def test_the_message_says_what_was_expected() -> None:
    deadline = Deadline(0.5)
    deadline.next_lap(0.0, 10.0)
    with pytest.raises(OutOfTimeError, match=r"^29:50 of run.max_hours = 0.5 have passed; .* may take 30:30$"):
        deadline.next_lap(1790.0, 10.0)
