"""The laws of sharing cores among workers."""

import random
import threading
import time

import pytest

from openlance.apps.serve.cores import Cores


def test_the_only_one_has_all_and_several_have_equal_shares():
    cores = Cores(5)
    shares = []
    for worker in "abcdefg":
        cores.join(worker)
        shares.append(cores.share)
    assert shares == [5, 2, 1, 1, 1, 1, 1]
    for worker in "bcdefg":
        cores.leave(worker)
    cores.join("a")
    assert cores.share == 5
    assert (Cores(5, 2).least, Cores(2, 4).least, Cores(5).least) == (2, 1, 5)


def test_who_comes_waits_for_the_end_of_a_step_with_all_cores():
    cores, started = Cores(2), threading.Event()
    cores.join("first")

    def come():
        cores.join("second")
        with cores.held(cores.count) as mine:
            assert mine == 1
            started.set()

    with cores.held(cores.count) as all_of_them:
        assert all_of_them == 2
        second = threading.Thread(target=come)
        second.start()
        assert not started.wait(0.1)
    assert started.wait(10)
    second.join()
    with cores.held(cores.count) as share:
        assert share == 1


def test_who_can_use_few_leaves_the_rest_to_others():
    cores = Cores(4, 2)
    cores.join("first")
    with cores.held(cores.least) as two:
        cores.join("second")
        with cores.held(cores.count) as others:
            assert (two, others) == (2, 2)


@pytest.mark.parametrize(("count", "workers"), [(1, 1), (2, 2), (4, 3), (8, 3), (2, 5)])
def test_no_core_is_given_twice_and_everyone_goes_on(count, workers):
    cores, lock = Cores(count), threading.Lock()
    held: dict[int, int] = {}
    most, done = [], []

    def work(number):
        choose = random.Random(number)
        for _ in range(40):
            cores.join(number)
            for _ in range(choose.randrange(1, 4)):
                with cores.held(cores.count) as mine:
                    with lock:
                        held[number] = mine
                        most.append(sum(held.values()))
                    time.sleep(choose.random() * 1e-3)
                    with lock:
                        del held[number]
            cores.leave(number)
        done.append(number)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == list(range(workers))
    assert max(most) <= max(count, workers)
    assert max(most) >= count if workers <= count else True
