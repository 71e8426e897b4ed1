"""The measurement of hot swaps: its releases, its windows, and what it takes for a failure."""

import math
from pathlib import Path

import pytest

from benchmarks import swap
from benchmarks.swap import BAD, FIRST, SECOND, Swap, SwapError, Swaps, Window
from stream_app.clock import monotonic_seconds
from stream_app.errors import ModelError
from stream_app.ranker import Ranker
from stream_app.registry import Registry
from stream_app.stages.candidates import POOL_SIZE


def window(p99_ms: float, longest_ms: float) -> Window:
    """Return a window with such waits."""
    return Window(100, 5.0, p99_ms, longest_ms, 10.0)


def swaps(near: list[Window], quiet: list[Window], batch_ms: float = 10.0) -> Swaps:
    """Return a measurement with these windows."""
    return Swaps(
        cpu="some",
        cores=1,
        load_before=0.0,
        events=1_000,
        requests=200,
        events_per_second=100.0,
        capacity=200.0,
        batch_records=5.0,
        batch_ms=batch_ms,
        producer_late_ms_max=0.0,
        swaps=[Swap(FIRST, 300.0, each) for each in near],
        quiet=quiet,
    )


def test_two_releases_serve_and_the_bad_one_is_refused(tmp_path: Path) -> None:
    """All are published; the bad one is refused for its scores, after it has been tried out."""
    registry = Registry(str(tmp_path / "registry"))
    found = swap.releases(tmp_path / "made", registry)
    for version, release in found.items():
        folder = tmp_path / version
        registry.fetch(release, folder)
        how = {"clock": monotonic_seconds, "milliseconds_max": math.inf, "pool_min": POOL_SIZE}
        if version == BAD:
            with pytest.raises(ModelError) as error:
                Ranker.load(folder, **how)  # type: ignore[arg-type]
            assert error.value.reason == "wrong_scores"
        else:
            assert Ranker.load(folder, **how).version == version  # type: ignore[arg-type]


def test_a_swap_may_add_one_batch() -> None:
    """Both the p99 and the longest wait may grow by one batch, medians over windows, no more."""
    quiet = [window(50.0, 60.0), window(52.0, 70.0), window(54.0, 90.0)]
    assert swaps([window(62.0, 80.0)], quiet).met
    assert not swaps([window(62.5, 80.0)], quiet).met
    assert not swaps([window(52.0, 80.5)], quiet).met
    found = swaps([window(62.0, 80.0)] * 3, quiet)
    assert (found.added("p99_ms"), found.added("longest_ms")) == (10.0, 10.0)
    assert "**met**" in swap.page(found)


def test_a_release_that_did_not_take_over_is_an_error() -> None:
    """Each promoted release answers before the next one, the bad one never."""
    asked = {f"{number}": number / 2 for number in range(200)}
    seen = {name: at + 0.1 for name, at in asked.items()}
    promoted = [10.0 * number for number in range(1, 7)]

    def served(name: str) -> str:
        place = sum(at <= asked[name] for at in promoted)
        return [FIRST, SECOND, FIRST, FIRST, SECOND, FIRST, SECOND][place]

    answers = {name: served(name) for name in asked}
    found = swap.take_overs(promoted, seen, answers)
    assert found == [pytest.approx(0.1)] * 2 + [None] + [pytest.approx(0.1)] * 3
    stuck = dict.fromkeys(asked, FIRST)
    with pytest.raises(SwapError, match="the release second took over after inf s"):
        swap.take_overs(promoted, seen, stuck)
    with pytest.raises(SwapError, match="was to be refused"):
        swap.take_overs(promoted, seen, answers | {"80": BAD})
