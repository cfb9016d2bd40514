import pytest

from dfgan_jax.support.progress import format_duration, format_rate, progress


@pytest.mark.parametrize(("seconds", "text"), [
    (0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (3600, "1 h 00 min"),
    (7620, "2 h 07 min"), (90000, "1 d 01 h"), (float("nan"), "?")])
def test_durations_read_well(seconds, text):
    assert format_duration(seconds) == text


def test_elsewhere_than_on_a_terminal_it_is_plain_lines(capsys):
    with progress("training", total=4, unit="steps", initial=1) as bar:
        for _ in range(3):
            bar.advance(note="epoch 1")
        bar.message("a word in between")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "a word in between"
    assert lines[1].startswith("training: 4/4 steps (100%), ")
    assert lines[1].endswith(", epoch 1")


def test_time_left_follows_the_pace(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("dfgan_jax.support.progress.time.monotonic", lambda: now[0])
    with progress("training", total=12, unit="steps", initial=2, warm_up=1) as bar:
        assert bar.seconds_left() != bar.seconds_left()  # nothing is known yet
        now[0] += 50
        bar.advance()
        assert bar.seconds_left() != bar.seconds_left()  # it compiled, and does not count
        now[0] += 6
        bar.advance(2)
        assert bar.seconds_left() == pytest.approx(7 * 3)


def test_plain_lines_tell_the_pace(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr("dfgan_jax.support.progress.time.monotonic", lambda: now[0])
    with progress("denoising", total=50, unit="slices", initial=10) as bar:
        now[0] += 16  # a line comes every 15 s
        bar.advance(20)
    first, last = capsys.readouterr().err.splitlines()
    assert first == "denoising: 30/50 slices (60%), 16 s, 16 s left, 1.25 slices/s"
    assert last == first


def test_lines_before_the_pace_is_known_name_none(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr("dfgan_jax.support.progress.time.monotonic", lambda: now[0])
    with progress("training", total=100, unit="steps", warm_up=2) as bar:
        now[0] += 60
        bar.advance()
        now[0] += 60
        bar.advance()
        now[0] += 20
        bar.advance(10)
    assert capsys.readouterr().err.splitlines()[::2] == [
        "training: 1/100 steps (1%), 1 min 00 s",
        "training: 12/100 steps (12%), 20 s, 2 min 56 s left, 0.5 steps/s"]


@pytest.mark.parametrize(("rate", "text"), [(0.1234, "0.123"), (6.721, "6.72"), (672.1, "672"),
                                            (6721.3, "6,721")])
def test_a_pace_has_no_power_of_ten(rate, text):
    assert format_rate(rate) == text
