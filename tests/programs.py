"""Random programs of records and waits over three streams: what the clocks say that they order, and how to run them."""

from hypothesis import strategies as st

import interop
from interop.ordering import Clocks, StreamKind

STREAMS = ("a", "b", "c")
EVENTS = ("e", "f", "g")
PAIRS = [(producer, consumer) for producer in STREAMS for consumer in STREAMS if producer != consumer]

steps = st.one_of(
    st.tuples(st.just("record"), st.sampled_from(EVENTS), st.sampled_from(STREAMS)),
    st.tuples(st.just("wait"), st.sampled_from(STREAMS), st.sampled_from(EVENTS)),
)


def runnable(program):
    """*program* without its waits for unrecorded events, which interop refuses."""
    recorded, kept = set(), []
    for step in program:
        if step[0] == "record":
            recorded.add(step[1])
        if step[0] == "record" or step[2] in recorded:
            kept.append(step)
    return kept


programs = st.lists(steps, max_size=12).map(runnable)


def expected(program, producer, consumer):
    """Whether, by the clocks, work on *producer* before the program comes before work on *consumer* after it."""
    clocks = Clocks()
    for stream in STREAMS:
        clocks.add_stream(stream, context="here", kind=StreamKind.NON_BLOCKING)
    work = clocks.enqueue(producer, "host")
    for step in program:
        getattr(clocks, step[0])(*step[1:], "host")
    return clocks.happens_before(work, consumer, "host")


def replay(program, streams):
    """Run *program* on *streams*, of a GPU or of the simulator."""
    events = {name: interop.Event() for name in EVENTS}
    for kind, *names in program:
        if kind == "record":
            streams[names[1]].record_event(events[names[0]])
        else:
            streams[names[0]].wait_event(events[names[1]])
