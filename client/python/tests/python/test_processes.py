import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
from conftest import expected

import headwater

CORE = int(os.environ["HEADWATER_TEST_CORE_PID"])


def _stop_core():
    """Returns when the core stands still: the signal takes effect when the thread that gets it has its turn, and others run until then."""
    os.kill(CORE, signal.SIGSTOP)
    threads = pathlib.Path(f"/proc/{CORE}/task")
    while any(_state(thread) not in "Tt" for thread in threads.iterdir()):
        time.sleep(0.001)


def _state(thread):
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "T"


def _check(dataset, numbers, results):
    batch = dataset.read(numbers)
    fine = all(np.array_equal(batch["img"][i], expected(n, 784)) for i, n in enumerate(numbers))
    results.put((os.getpid(), fine, dataset.client.stats().connections))


def _in_children(method, dataset):
    context = multiprocessing.get_context(method)
    results = context.Queue()
    children = [context.Process(target=_check, args=(dataset, [n, n + 5], results)) for n in range(3)]
    for child in children:
        child.start()
    said = [results.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert all(fine for _, fine, _ in said)
    assert {connections for _, _, connections in said} == {1}
    assert os.getpid() not in {pid for pid, _, _ in said}


def test_children_by_fork_connect_themselves(images):
    images.read([1])
    _in_children("fork", images)
    assert np.array_equal(images[3]["img"], expected(3, 784))


def test_children_by_spawn_connect_themselves(images):
    _in_children("spawn", images)


def test_an_epoch_goes_on_in_the_parent_and_not_in_a_child(images):
    epoch = images.batches(16)
    held = next(epoch)
    child = os.fork()
    if child == 0:
        # Whatever happens, this copy of the tests must not go on.
        try:
            next(epoch)
            os._exit(1)
        except RuntimeError as error:
            del held
            os._exit(0 if "fork" in str(error) else 2)
    assert os.waitpid(child, 0)[1] == 0
    assert len(next(epoch)) == 16


def test_others_run_while_one_waits(images):
    """The interpreter's lock is free while a read waits for a core that stands still."""
    images.read([1])
    _stop_core()
    try:
        reader = threading.Thread(target=images.read, args=([2],))
        reader.start()
        turns = 0
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            turns += 1
            time.sleep(0.001)
        assert reader.is_alive() and turns > 50
    finally:
        os.kill(CORE, signal.SIGCONT)
    reader.join(60)
    assert not reader.is_alive()


INTERRUPTED = """
import signal, sys, headwater
# Whoever runs the tests in the background has it ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
images = headwater.connect().dataset("lab/images@latest")
images.read([1])
print("ready", flush=True)
sys.stdin.readline()
try:
    print("reads", flush=True)
    images.read([2])
except KeyboardInterrupt:
    print("interrupted", flush=True)
sys.stdin.readline()
print(images[3].number, flush=True)
"""


def test_control_c_ends_a_read_that_waits():
    with subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        # One that goes on waiting ends all the same, and says nothing.
        watchdog = threading.Timer(60, child.kill)
        watchdog.start()
        try:
            assert child.stdout.readline() == "ready\n"
            _stop_core()
            try:
                child.stdin.write("go\n")
                child.stdin.flush()
                assert child.stdout.readline() == "reads\n"
                time.sleep(0.5)
                child.send_signal(signal.SIGINT)
                assert child.stdout.readline() == "interrupted\n"
            finally:
                os.kill(CORE, signal.SIGCONT)
            child.stdin.write("go\n")
            child.stdin.flush()
            assert child.stdout.readline() == "3\n"
            assert child.wait(60) == 0
        finally:
            watchdog.cancel()
            child.kill()


def test_a_closed_connection_is_made_again(images):
    client = images.client
    client.close()
    assert images[9].number == 9
    assert client.stats().connections >= 2


def test_the_log_is_written_where_it_is_asked_for():
    script = "import headwater; headwater.log('headwater_client=debug'); headwater.connect().dataset('lab/images@latest')[0]"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout == ""
    wrong = subprocess.run([sys.executable, "-c", "import headwater; headwater.log('=,=')"], capture_output=True, text=True)
    assert "is no filter of a log" in wrong.stderr


def test_a_core_that_is_not_there_is_an_error():
    try:
        headwater.connect(core="127.0.0.1:9")
        raise AssertionError("it connected")
    except headwater.UnreachableError as error:
        assert error.code == "HW-3006" and error.hint
