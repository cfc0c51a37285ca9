"""The display shows what it is fed, on a terminal and off it, at little cost."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from hre_torch.app.training.display import TrainingDisplay

PUSH = {
    "event": "push",
    "participant": "p0",
    "local_step": 3,
    "global_step": 12,
    "loss": 0.4321,
    "version": 7,
    "staleness": 2,
    "pending": 1,
    "bytes_up": 1_230_000,
    "bytes_down": 4_560_000,
    "phases": {"train": 1.9, "encrypt": 41.26},
}
EVALUATION = {
    "event": "evaluation",
    "global_step": 50,
    "epoch": 1.5,
    "version": 9,
    "accuracy": 0.9667,
    "loss": 0.1,
}


class Clock:
    """A clock that only goes on when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make_display(clock):
    """Make a display and return it with the buffer it draws to."""

    def make(names=("p0", "p1"), *, terminal=True, width=160, height=40, **options):
        buffer = io.StringIO()
        console = Console(
            file=buffer, force_terminal=terminal, width=width, height=height
        )
        values = {"total_steps": 100, "predicted": {"seconds": 60.0}} | options
        display = TrainingDisplay(
            "digits", names, console=console, clock=clock, **values
        )
        return display, buffer

    return make


@pytest.fixture
def text_of():
    """Return what a display shows now, as plain text."""

    def text(display, width=160):
        console = Console(file=io.StringIO(), width=width)
        console.print(display.render())
        return console.file.getvalue()

    return text


def test_a_row_says_everything_about_its_participant(make_display, text_of):
    display, _ = make_display()
    display.update(PUSH)
    (row,) = [line for line in text_of(display).splitlines() if " p0 " in line]
    assert " ".join(row.split()) == "p0 0.4321 7 2 1 1.2 MB 4.6 MB 1.9 41.3"


def test_a_participant_that_has_not_reported_has_an_empty_row(make_display, text_of):
    display, _ = make_display()
    (row,) = [line for line in text_of(display).splitlines() if " p1 " in line]
    assert set(row.split()) == {"p1", "-"}


def test_phases_without_a_participant_belong_to_the_servers(make_display, text_of):
    display, _ = make_display()
    display.update(PUSH)
    display.update({"event": "release", "version": 8, "phases": {"add": 0.72}})
    last = text_of(display).splitlines()[-2:]
    assert last[0].split() == ["servers", "ms", "add"]
    assert last[1].split() == ["0.7"]


def test_a_narrow_terminal_shows_mean_phases_below_the_table(make_display, text_of):
    display, _ = make_display(width=80)
    display.update(PUSH)
    display.update({**PUSH, "participant": "p1", "phases": {"encrypt": 21.26}})
    last = text_of(display, width=80).splitlines()[-2:]
    assert last[0].split() == ["mean", "ms", "train", "encr."]
    assert last[1].split() == ["1.9", "31.3"]


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_no_line_is_wider_than_the_terminal(make_display, width):
    display, _ = make_display(width=width)
    display.update({**PUSH, "phases": dict.fromkeys(("train", "encrypt", "open"), 1e4)})
    display.update({"event": "release", "phases": {"second_phase": 12345.6}})
    console = Console(file=io.StringIO(), width=width)
    lines = console.render_lines(display.render(), pad=False)
    assert not any("…" in piece.text for line in lines for piece in line)


def test_more_participants_than_lines_are_counted(make_display, text_of):
    display, _ = make_display([f"p{index}" for index in range(40)], height=20)
    assert "and 32 more" in text_of(display)


def test_what_spoiled_releases_cost_is_shown_once_there_is_one(make_display, text_of):
    lost = "spoiled releases: 2, updates lost: 4"
    display, buffer = make_display(terminal=False)
    with display:
        display.update({**PUSH, "rejected": 0, "spent": 0})
        assert "spoiled" not in buffer.getvalue() + text_of(display)
        for name, spent in (("p0", 3), ("p1", 1)):
            record = {"event": "rejection", "participant": name}
            display.update({**record, "rejected": 2, "spent": spent})
        display.update(EVALUATION)
    assert lost in text_of(display)
    assert f" · {lost} · " in buffer.getvalue()


def test_the_last_test_accuracy_is_shown(make_display, text_of):
    display, _ = make_display()
    assert "not measured yet" in text_of(display)
    display.update(EVALUATION)
    assert "test accuracy 96.67 % after epoch 1.5" in text_of(display)


def test_before_the_first_step_the_prediction_says_what_remains(
    make_display, text_of, clock
):
    display, _ = make_display()
    clock.now += 10
    assert "0:00:10 elapsed, about 0:00:50 left" in text_of(display)


def test_after_some_steps_their_pace_says_what_remains(make_display, text_of, clock):
    display, _ = make_display()
    display.update({**PUSH, "global_step": 1})
    clock.now += 10
    display.update({**PUSH, "global_step": 21})
    assert "about 0:00:40 left" in text_of(display)


def test_steps_made_before_a_resumption_do_not_count_as_fast(
    make_display, text_of, clock
):
    display, _ = make_display()
    display.update({**PUSH, "global_step": 80})
    clock.now += 10
    display.update({**PUSH, "global_step": 90})
    assert "about 0:00:10 left" in text_of(display)


def test_without_prediction_nothing_is_promised(make_display, text_of):
    display, _ = make_display(predicted={})
    assert "left" not in text_of(display)


def test_names_are_not_taken_for_markup(make_display, text_of):
    display, _ = make_display(["[red]x[/]"])
    assert "[red]x[/]" in text_of(display)


def test_unknown_events_and_missing_keys_are_passed_over(make_display, text_of):
    display, _ = make_display()
    display.update({"event": "invented later", "participant": "stranger"})
    assert "stranger" not in text_of(display)


def test_a_terminal_keeps_the_last_state(make_display):
    display, buffer = make_display()
    with display:
        display.update(PUSH)
        display.update({**PUSH, "loss": 0.1234})
    assert "0.1234" in buffer.getvalue()


def test_a_thousand_updates_within_a_moment_draw_once(make_display):
    display, buffer = make_display()
    with display:
        display.update(PUSH)
        drawn = len(buffer.getvalue())
        for _ in range(1000):
            display.update(PUSH)
        assert len(buffer.getvalue()) == drawn


def test_updates_draw_again_after_a_while(make_display, clock):
    display, buffer = make_display()
    with display:
        display.update(PUSH)
        drawn = len(buffer.getvalue())
        clock.now += 1.0
        display.update(PUSH)
        assert len(buffer.getvalue()) > drawn


def test_no_thread_is_started(make_display):
    display, _ = make_display()
    before = threading.active_count()
    with display:
        display.update(PUSH)
        assert threading.active_count() == before


def test_off_a_terminal_lines_are_few_and_plain(make_display, clock):
    display, buffer = make_display(terminal=False)
    with display:
        for step in range(1, 101):
            clock.now += 0.3
            display.update({**PUSH, "global_step": step})
    lines = buffer.getvalue().splitlines()
    assert lines[0] == "training digits"
    assert lines[1].startswith("step 1 of 100 · loss 0.4321 · version 7 · 0:00:00")
    assert lines[-1].startswith("trained for 0:00:30")
    assert len(lines) == 5
    assert "\x1b" not in buffer.getvalue()


def test_off_a_terminal_each_evaluation_is_told(make_display):
    display, buffer = make_display(terminal=False)
    with display:
        display.update(PUSH)
        display.update(EVALUATION)
        assert buffer.getvalue().count("test accuracy 96.67 %") == 1


def test_an_error_passes_through_without_a_closing_line(make_display):
    display, buffer = make_display(terminal=False)
    with pytest.raises(RuntimeError, match="stop"), display:
        raise RuntimeError("stop")
    assert "trained for" not in buffer.getvalue()


@pytest.mark.parametrize("width", [60, 70, 77, 90])
def test_no_number_and_no_heading_is_cut_off_on_a_narrow_terminal(width):
    screen = Console(file=io.StringIO(), width=width, color_system=None)
    display = TrainingDisplay("digits", ["p0"], 12_000, {}, console=screen)
    phases = ("quantise", "submit", "open", "fetch", "first_phase", "second_phase")
    numbers = {phase: 1000.0 + place for place, phase in enumerate(phases)}
    display.update(PUSH | {"phases": numbers, "version": 12_345, "staleness": 12})
    with screen.capture() as captured:
        screen.print(display.render())
    shown = captured.get()
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= width
    for expected in ("0.4321", "12345", "2nd ph.", *map(str, range(1000, 1006))):
        assert expected in shown
