import io

from tempering.engine.events import Event
from tempering.report.progress import Display


class Clock:
    """A clock that a test turns by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def terminal():
    """A stream that says it is a terminal."""
    stream = io.StringIO()
    stream.isatty = lambda: True
    return stream


def course(display, clock, units=2):
    """Events of a run whose units take ten seconds each."""
    display.on_event(Event("planned", total=units, message=""))
    for number in range(units):
        label = f"full_finetune seed {number}"
        display.on_event(Event("unit_started", unit=f"u{number}", label=label, total=units, done=number, steps_total=200))
        clock.now += 5
        display.on_event(
            Event(
                "probe",
                unit=f"u{number}",
                label=label,
                total=units,
                done=number,
                measurements={"harm": 0.42, "utility": 0.98, "refusal": float("nan")},
                steps_done=100,
                steps_total=200,
            )
        )
        clock.now += 5
        display.on_event(Event("unit_finished", unit=f"u{number}", label=label, total=units, done=number + 1))
    display.on_event(Event("finished", total=units, done=units))


def test_plain_lines_first_at_once_then_one_a_start_and_one_an_end():
    stream, clock = io.StringIO(), Clock()
    with Display(stream, clock=clock, title="Loading organism:tiny") as display:
        assert stream.getvalue() == "Loading organism:tiny ...\n"
        course(display, clock)
    assert stream.getvalue().splitlines() == [
        "Loading organism:tiny ...",
        "2 runs planned",
        "[0/2] started full_finetune seed 0",
        "[1/2] full_finetune seed 0: harm 0.42, utility 0.98  (about 10 s left)",
        "[1/2] started full_finetune seed 1",
        "[2/2] full_finetune seed 1: harm 0.42, utility 0.98",
        "2 of 2 runs done in 20 s",
    ]
    assert "\x1b" not in stream.getvalue()


def test_failures_warnings_and_reuse_each_have_their_line():
    stream = io.StringIO()
    with Display(stream, clock=Clock()) as display:
        display.on_event(Event("planned", total=3, done=1))
        display.on_event(Event("unit_reused", unit="a", label="lora_finetune seed 0", total=3, done=1))
        display.on_event(Event("warning", message="a damaged unit\nis made again"))
        display.on_event(Event("unit_failed", unit="b", label="lora_finetune seed 1", total=3, done=2, message="out of memory"))
    lines = stream.getvalue().splitlines()
    assert lines[1:] == [
        "3 runs planned, 1 of them already done",
        "[1/3] lora_finetune seed 0: reused",
        "warning: a damaged unit is made again",
        "[2/3] lora_finetune seed 1 failed: out of memory",
        "2 of 3 runs done in 0 s, 1 reused, 1 failed",
    ]


def test_the_outcome_of_a_unit_is_said_where_the_engine_knows_it():
    stream = io.StringIO()
    with Display(stream, clock=Clock()) as display:
        display.on_event(Event("unit_finished", unit="a", label="refusal_ablation seed 0", total=1, done=1, message="no direction"))
    assert "[1/1] refusal_ablation seed 0: no direction\n" in stream.getvalue()


def test_long_lines_are_not_broken():
    stream = io.StringIO()
    with Display(stream, clock=Clock()) as display:
        display.on_event(Event("unit_failed", unit="b", label="x" * 300, total=3, done=2, message="y" * 300))
    assert "x" * 300 + " failed: " + "y" * 300 in stream.getvalue()


def test_labels_are_no_markup():
    stream = io.StringIO()
    with Display(stream, clock=Clock()) as display:
        display.on_event(Event("unit_started", unit="b", label="[red]mine[/red]", total=3))
    assert "[red]mine[/red]" in stream.getvalue()


def test_the_estimate_leaves_reused_units_out():
    clock = Clock()
    display = Display(io.StringIO(), clock=clock)
    display.on_event(Event("planned", total=10, done=6))
    for number in range(6):
        display.on_event(Event("unit_reused", unit=str(number), total=10, done=6))
    assert display.seconds_left != display.seconds_left  # nothing done yet: unknown
    clock.now = 30
    display.on_event(Event("unit_finished", unit="7", total=10, done=7))
    assert display.seconds_left == 90


def test_the_estimate_counts_the_steps_of_running_units():
    clock = Clock()
    display = Display(io.StringIO(), clock=clock)
    display.on_event(Event("planned", total=2))
    display.on_event(Event("unit_started", unit="a", total=2, steps_total=200))
    clock.now = 5
    display.on_event(Event("probe", unit="a", total=2, steps_done=100, steps_total=200))
    assert display.seconds_left == 15


def test_a_live_display_shows_units_probes_and_time():
    stream, clock = terminal(), Clock()
    with Display(stream, clock=clock, live=True) as display:
        display.on_event(Event("planned", total=12))
        for number in range(10):
            display.on_event(Event("unit_started", unit=str(number), label=f"[b]lora seed {number}", total=12, steps_total=200))
        clock.now = 5
        display.on_event(Event("probe", unit="0", total=12, steps_done=100, steps_total=200, measurements={"harm": 0.42, "utility": 0.98}))
        display._live.refresh()
        display.on_event(Event("unit_failed", unit="0", label="lora seed 0", total=12, done=1, message="out of memory"))
    shown = stream.getvalue()
    for part in ("0 of 12 runs", "12 left", "[b]lora seed 0", "100/200 steps", "harm 0.42, utility 0.98", "and 2 more", "about"):
        assert part in shown, part
    assert "failed: out of memory" in shown
    assert shown.rstrip().endswith("1 of 12 runs done in 5 s, 1 failed")


def test_a_live_display_says_what_it_waits_for_while_no_unit_runs():
    stream = terminal()
    with Display(stream, clock=Clock(), live=True) as display:
        display.on_event(Event("planned", total=1))
        display._live.refresh()
        assert "starting workers" in stream.getvalue()
        display.on_event(Event("unit_started", unit="a", label="attack seed 0", total=1))
        display.on_event(Event("unit_finished", unit="a", label="attack seed 0", total=1, done=1))
        display._live.refresh()
    assert "writing the report" in stream.getvalue()


def test_what_is_prepared_before_the_plan_is_said():
    stream = io.StringIO()
    with Display(stream, title="auditing organism:nano") as display:
        display.on_event(Event("preparing", message="organism:nano: guarding 20/100"))
    assert stream.getvalue() == "auditing organism:nano ...\norganism:nano: guarding 20/100\n"


def test_an_interrupted_display_says_how_far_it_came():
    stream, clock = io.StringIO(), Clock()
    try:
        with Display(stream, clock=clock) as display:
            display.on_event(Event("planned", total=4))
            display.on_event(Event("unit_finished", unit="a", label="a", total=4, done=1))
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert stream.getvalue().endswith("1 of 4 runs done in 0 s, stopped early\n")


def test_a_display_that_is_off_writes_nothing():
    stream, clock = io.StringIO(), Clock()
    with Display(stream, enabled=False, clock=clock) as display:
        course(display, clock)
    assert stream.getvalue() == ""


def test_standard_output_stays_clean(capsys):
    clock = Clock()
    with Display(clock=clock) as display:
        course(display, clock)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2 of 2 runs done" in captured.err


def test_a_search_counts_its_trials_and_then_the_steps_of_what_it_chose():
    clock = Clock()
    display = Display(terminal(), clock=clock, live=True)
    known = {"unit": "u0", "label": "full_finetune seed 0", "total": 1, "steps_total": 200, "trials_total": 3}
    display.on_event(Event("planned", total=1))
    display.on_event(Event("unit_started", **known))
    display.on_event(Event("probe", **known, measurements={"harm": 0.0}))  # of the untouched model, before the search
    unit = display._running["u0"]
    assert (unit.place, unit.share) == ("search 0/3", 0.0)
    for trial in (1, 2):
        clock.now += 10
        display.on_event(Event("trial", **known, trials_done=trial, message="held"))
    assert (unit.place, unit.share) == ("search 2/3", 0.5)
    assert display.seconds_left == 20
    display.on_event(Event("trial", **known, trials_done=3, message="broken"))
    display.on_event(Event("probe", **known, measurements={"harm": 0.9}, steps_done=100))
    assert (unit.place, unit.share) == ("100/200 steps", 0.875)


def test_trials_make_no_lines_where_nobody_watches_live():
    stream = io.StringIO()
    with Display(stream, live=False) as display:
        display.on_event(Event("unit_started", unit="u0", label="x", total=1, trials_total=2))
        before = stream.getvalue()
        display.on_event(Event("trial", unit="u0", label="x", total=1, trials_done=1, trials_total=2))
        assert stream.getvalue() == before


def test_what_falls_away_with_a_hardening_is_told_in_a_line_and_counts_neither_as_work_nor_as_failure() -> None:
    stream = io.StringIO()
    clock = iter(range(1000))
    with Display(stream, live=False, clock=lambda: float(next(clock))) as display:
        display.on_event(Event("planned", total=5))
        display.on_event(Event("unit_started", unit="h", label="hardening by tar seed 0", total=5))
        display.on_event(Event("training", unit="h", label="hardening by tar seed 0", total=5, steps_done=3, steps_total=9))
        display.on_event(Event("unit_failed", unit="h", label="hardening by tar seed 0", total=5, done=1, message="loss is nan"))
        display.on_event(Event("left_out", unit="h", label="hardening by tar seed 0", total=5, done=3, message="2 runs left out"))
        display.on_event(Event("unit_finished", unit="a", label="prefilling seed 0", total=5, done=4, measurements={"novel": 0.5}))
        assert display.seconds_left < 20  # one unit is left; what fell away took no time
    lines = stream.getvalue().splitlines()
    assert "[1/5] hardening by tar seed 0 failed: loss is nan" in lines
    assert "[3/5] 2 runs left out: hardening by tar seed 0 failed" in lines
    assert any("novel 0.50" in line for line in lines)
    assert lines[-1].endswith("1 failed, 2 left out")
