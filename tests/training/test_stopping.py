import signal
import threading

from m4v.training.stopping import StopSignal


def test_nothing_to_stop_for():
    assert StopSignal().reason() is None


def test_step_and_time_limits():
    stop = StopSignal(max_steps=2)
    stop.count_step()
    assert stop.reason() is None
    stop.count_step()
    assert "step limit" in stop.reason()
    assert "time limit" in StopSignal(max_seconds=0).reason()


def test_first_signal_is_noted_and_handlers_are_restored():
    before = signal.getsignal(signal.SIGTERM)
    stop = StopSignal()
    with stop.listening():
        signal.raise_signal(signal.SIGTERM)
        assert "SIGTERM" in stop.reason()
        # A second one must act as usual.
        assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_leave_signals_alone():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work():
        with StopSignal().listening():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
