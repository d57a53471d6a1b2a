"""What two real processes say to each other: claims, refusals, and the death of either side. CUDA is not needed."""

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from interop._between import desk, peers
from interop._between.desk import BACK, UNUSED, Desk, Lease
from interop.errors import InvalidTokenError, ProcessDiedError

CUDA = SimpleNamespace(simulation=None)
NAME, DIGEST = b"n" * 16, b"d" * 32
LIMIT = 20


class End:
    """What the producer's side does, noted."""

    def __init__(self):
        self.is_given_back = False
        self.is_passed = False

    def give_back(self):
        self.is_given_back = True

    def is_ordered(self):
        return self.is_given_back

    def is_done(self):
        return self.is_passed


def soon(condition):
    deadline = time.monotonic() + LIMIT
    while not (answer := condition()) and time.monotonic() < deadline:
        time.sleep(0.002)
    return answer


@pytest.fixture
def new_desk():
    """Makes desks, which are closed at the end."""
    made = []

    def new():
        made.append(Desk(CUDA))
        return made[-1]

    yield new
    for one in made:
        with one.lock:
            one.close()


@pytest.fixture
def here(new_desk):
    return new_desk()


@pytest.fixture
def offer(here):
    def offer(name=NAME, timeout=60.0):
        with here.lock:
            lease = here.leases[name] = Lease(name, DIGEST, time.monotonic() + timeout, End())
            return lease, here.address()

    return offer


def claimed(desk, address, peer=None, claim=NAME + DIGEST, timeout=5.0):
    me = peers.me(CUDA)
    return desk.claim(address, peer or me, claim, me.start, timeout)


def consumer(pipe, address, peer, words, claim=NAME + DIGEST):
    """In another process: claim, say what there is to say, and wait to be killed, or end."""
    there = Desk(CUDA)
    try:
        loan = there.claim(address, peer, claim, peers.me(CUDA).start, 5.0)
        for word in words:
            loan.say(word)
        pipe.send("claimed")
    except Exception as error:
        pipe.send(repr(error))
    pipe.poll(LIMIT)
    os._exit(0)


def producer(pipe):
    """In another process: offer a lease."""
    there = Desk(CUDA)
    with there.lock:
        there.leases[NAME] = Lease(NAME, DIGEST, time.monotonic() + 60, End())
        address = there.address()
    pipe.send((address, peers.me(CUDA)))
    pipe.poll(LIMIT)
    os._exit(0)


@contextlib.contextmanager
def process(function, *arguments):
    context = multiprocessing.get_context("spawn")
    pipe, end = context.Pipe()
    child = context.Process(target=function, args=(end, *arguments), daemon=True)
    child.start()
    end.close()
    try:
        assert pipe.poll(LIMIT), "the other process does not answer"
        yield SimpleNamespace(pid=child.pid, said=pipe.recv(), end=lambda: (pipe.send(None), child.join(LIMIT)))
    finally:
        child.kill()
        child.join(LIMIT)


def kill(child):
    os.kill(child.pid, signal.SIGKILL)


def test_a_consumer_that_is_killed_is_noticed_when_it_is_gone(offer):
    lease, address = offer()
    with process(consumer, address, peers.me(CUDA), []) as child:
        assert child.said == "claimed"
        assert lease.peer[0] == child.pid
        time.sleep(0.1)
        assert not lease.outcome
        kill(child)
        assert soon(lambda: lease.outcome)
    assert lease.outcome == "lost"
    assert not lease.is_back
    assert lease.end is None


def test_a_consumer_that_is_stopped_is_not_taken_for_dead(offer):
    lease, address = offer()
    with process(consumer, address, peers.me(CUDA), []) as child:
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(0.2)
        assert not lease.outcome
        os.kill(child.pid, signal.SIGCONT)


def test_memory_is_kept_until_the_process_is_gone(offer, monkeypatch):
    """The kernel closes the socket first, and ends the CUDA contexts later."""
    gone = threading.Event()
    monkeypatch.setattr(desk.peers, "has_ended", lambda *_: gone.is_set())
    lease, address = offer()
    with process(consumer, address, peers.me(CUDA), []) as child:
        kill(child)
        assert soon(lambda: lease.is_cut)
        time.sleep(0.05)
        assert lease.end is not None
        gone.set()
        assert soon(lambda: lease.outcome)


def test_an_array_is_back_when_the_consumer_has_said_so_and_its_lease_is_over_when_the_device_is_done(offer):
    lease, address = offer()
    end = lease.end
    with process(consumer, address, peers.me(CUDA), [BACK]):
        assert soon(lambda: lease.is_back)
        assert end.is_given_back
        time.sleep(0.05)
        assert not lease.outcome
        end.is_passed = True
        assert soon(lambda: lease.outcome)
    assert lease.outcome == "returned"


def test_a_consumer_that_has_not_used_it_says_so(offer):
    lease, address = offer()
    end = lease.end
    with process(consumer, address, peers.me(CUDA), [UNUSED]):
        assert soon(lambda: lease.outcome)
    assert (lease.outcome, end.is_given_back) == ("returned", False)


def test_a_consumer_that_gave_back_and_is_killed_before_the_device_is_done(offer):
    lease, address = offer()
    with process(consumer, address, peers.me(CUDA), [BACK]) as child:
        assert soon(lambda: lease.is_back)
        kill(child)
        assert soon(lambda: lease.outcome)
    assert lease.outcome == "lost"


def test_a_producer_that_is_killed_is_noticed(here):
    with process(producer) as child:
        address, peer = child.said
        loan = claimed(here, address, peer)
        time.sleep(0.05)
        assert not loan.lost
        kill(child)
        assert soon(lambda: loan.lost)
    assert not here.loans
    with pytest.raises(ProcessDiedError, match=f"process {peer.pid}, which has shared this array, has ended"):
        claimed(here, address, peer)


def test_what_was_given_back_is_not_lost(here):
    with process(producer) as child:
        address, peer = child.said
        loan = claimed(here, address, peer)
        loan.say(BACK)
        kill(child)
        assert soon(lambda: not here.loans)
    assert not loan.lost


def test_one_claim_is_granted_of_many_at_once(offer, new_desk):
    lease, address = offer()
    here, said = peers.me(CUDA), []

    def claim():
        there = new_desk()
        try:
            claimed(there, address, here)
            said.append("granted")
        except InvalidTokenError as error:
            said.append(str(error))

    threads = [threading.Thread(target=claim) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert said.count("granted") == 1
    assert sum("used before" in text for text in said) == 15
    assert lease.peer


@pytest.mark.parametrize(
    ("claim", "text"),
    [
        (b"x" * 16 + DIGEST, "its lease is over"),
        (NAME + b"x" * 32, "it was changed on its way"),
        (NAME, "its lease is over"),
        (NAME + DIGEST + b"more", "its lease is over"),
    ],
    ids=["another name", "another digest", "too short", "too long"],
)
def test_wrong_claims_are_refused_and_leave_the_lease(offer, claim, text, new_desk):
    lease, address = offer()
    with pytest.raises(InvalidTokenError, match=text):
        claimed(new_desk(), address, claim=claim)
    assert lease.peer is None
    claimed(new_desk(), address)


def test_nobody_answers_for_a_lease_that_is_over(here, offer, new_desk):
    lease, address = offer()
    here.finish(lease, "revoked")
    with pytest.raises(InvalidTokenError, match="its lease is over"):
        claimed(new_desk(), address)
    assert soon(lambda: here._selector is None)
    with pytest.raises(InvalidTokenError, match="its lease is over"):
        claimed(new_desk(), address)


def test_a_lease_that_nobody_claims_is_over_in_time(here, offer):
    lease, _ = offer(timeout=0.05)
    assert soon(lambda: lease.outcome)
    assert lease.outcome == "expired"
    assert not here.leases


def test_another_process_at_the_address_is_refused(offer, new_desk):
    _, address = offer()
    other = peers.me(CUDA)._replace(pid=1)
    with pytest.raises(InvalidTokenError, match="another process, or one of another user"):
        claimed(new_desk(), address, other)


def test_another_user_is_refused(offer, monkeypatch):
    lease, address = offer()
    monkeypatch.setattr(desk.peers, "other_end", lambda _: (os.getpid(), os.geteuid() + 1))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.settimeout(LIMIT)
        stranger.connect(f"\0{address}")
        with contextlib.suppress(OSError):
            stranger.send(NAME + DIGEST + bytes(8))
            assert stranger.recv(8) == b""
    assert lease.peer is None


def test_who_connects_and_says_nothing_is_put_out(offer, monkeypatch):
    monkeypatch.setattr(desk, "_CLAIM_TIME", 0.05)
    _, address = offer()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.settimeout(LIMIT)
        stranger.connect(f"\0{address}")
        assert stranger.recv(8) == b""


def test_strangers_do_not_keep_the_desk_from_others(offer, monkeypatch, new_desk):
    monkeypatch.setattr(desk, "_MOST_CLAIMS", 3)
    monkeypatch.setattr(desk, "_CLAIM_TIME", 0.3)
    lease, address = offer()
    strangers = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(8)]
    for stranger in strangers:
        stranger.connect(f"\0{address}")

    def granted():
        with contextlib.suppress(InvalidTokenError):
            return claimed(new_desk(), address)

    assert soon(granted)
    assert lease.peer
    for stranger in strangers:
        stranger.close()


def test_a_process_that_does_not_answer_is_not_waited_for_long(new_desk):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind("\0interop-test-silent")
        listener.listen()
        with pytest.raises(TimeoutError, match=r"has not answered for 0\.1 s"):
            claimed(new_desk(), "interop-test-silent", timeout=0.1)


def test_a_forked_child_does_not_keep_a_connection_open(here):
    with process(producer) as child:
        address, peer = child.said
        loan = claimed(here, address, peer)
        forked = os.fork()
        if not forked:
            os._exit(0 if loan.connection.fileno() == -1 and not here.loans else 1)
        assert os.waitpid(forked, 0)[1] == 0
        assert not loan.lost
