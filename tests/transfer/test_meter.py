"""The meter: counts of any number of threads, words now and then, and a rate that is kept."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time

import pytest

from opensshtransport.errors import SettingsError
from opensshtransport.transfer.bar import Bar
from opensshtransport.transfer.meter import Meter
from opensshtransport.transfer.progress import Progress


def test_threads_count_together() -> None:
    """No byte of any thread is lost, and the callback runs in one of them at a time, with growing counts."""
    told: list[Progress] = []
    busy = threading.Lock()

    def tell(progress: Progress) -> None:
        assert busy.acquire(blocking=False)
        told.append(progress)
        busy.release()

    meter = Meter(tell, None)
    meter.expect(4, 4000)

    def count() -> None:
        for _ in range(1000):
            meter.moved(1, "x")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    meter.done("x", 4)
    done = meter.end()
    assert (done.bytes, done.files) == (4000, 4)
    assert told[-1] == Progress(4000, 4000, 4, 4, "x")
    assert [one.bytes for one in told] == sorted(one.bytes for one in told)


def test_words_are_few() -> None:
    """Of ten thousand moves within an instant, only a few are reported."""
    told: list[Progress] = []
    meter = Meter(told.append, None)
    begin = time.monotonic()
    for _ in range(10_000):
        meter.moved(1, "x")
    meter.end()
    assert len(told) <= 3 + (time.monotonic() - begin) / 0.1


def test_the_rate_holds_for_all_threads_together() -> None:
    """Four threads that move 250 KB each at 2 MB/s together take half a second, less the first tenth."""
    meter = Meter(None, 2e6)
    begin = time.monotonic()

    def count() -> None:
        for _ in range(10):
            meter.moved(25_000, "x")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - begin >= 0.39


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_no_rate(rate: float) -> None:
    """What is no rate is refused."""
    with pytest.raises(SettingsError):
        Meter(None, rate)


def test_beginning_anew() -> None:
    """What begins anew counts from where it began, and what was found is counted separately."""
    meter = Meter(None, None)
    meter.moved(10, "a")
    meter.again(10)
    meter.there(5, "b")
    meter.moved(5, "b")
    assert (meter.bytes, meter.found) == (20, 5)
    meter.again(10)
    assert (meter.bytes, meter.found) == (10, 0)


def test_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    """True draws a bar on stderr; a name cannot steer the terminal."""
    meter = Meter(True, None)
    meter.expect(1, 2048)
    begin = time.monotonic()
    meter.moved(1024, "evil\x1b]0;title\x07")
    # tqdm draws when a tenth of a second has passed, as we tell it
    while time.monotonic() - begin < 0.3:
        meter.moved(0, "evil\x1b]0;title\x07")
    meter.end()
    shown = capsys.readouterr().err
    assert "1.00k/2.00k" in shown
    assert "\x1b]0" not in shown
    assert "\x07" not in shown


def test_a_bar_that_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """What was there already is shown as done, and is no part of the rate: a resume does not look fast."""
    bar = Bar()
    begin = time.monotonic()
    bar(Progress(1 << 30, 1 << 31, 0, 1, "x", 1 << 30))
    while time.monotonic() - begin < 0.5:
        time.sleep(0.11)
        bar(Progress((1 << 30) + 1024, 1 << 31, 0, 1, "x", 1 << 30))
    bar.close()
    shown = capsys.readouterr().err.split("\r")
    told = [line for line in shown if "1.00G/2.00G" in line]
    assert " 50%" in told[-1]
    assert not re.search(r"[MG]B/s", "".join(told))
    assert re.search(r"<[\d:]+, .*B/s", told[-1])


def test_a_bar_starts_nothing() -> None:
    """A bar has no thread of its own, and no semaphore between processes."""
    before = threading.active_count()
    program = "from opensshtransport.transfer.bar import Bar; Bar(); import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "multiprocessing.synchronize" not in done.stdout.split()
    Bar().close()
    assert threading.active_count() == before
