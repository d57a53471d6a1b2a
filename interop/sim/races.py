"""The line of code that orders two accesses of one array in a simulation."""

from interop._order.accesses import Access
from interop._order.findings import Finding, Party


def race(earlier: Access[Party], later: Party, *, on_host: bool) -> Finding:
    """The report of two accesses that nothing orders; *on_host* says whether the host makes the later one."""
    before, after = earlier.who.stream, later.stream
    if earlier.by_host:
        fix = f"{_line('gpu.hear({thread})', thread=before)}, once that thread has told this one that it is done"
    elif on_host:
        fix = _line("interop.as_stream({producer}).synchronize()", producer=before)
    else:
        fix = _line("interop.as_stream({consumer}).wait_stream({producer})", consumer=after, producer=before)
    return Finding(earlier.who, later, fix)


def _line(code: str, **names: str) -> str:
    """*code* with the names filled in, if all are identifiers; else with placeholders, and a list of their meanings."""
    if all(map(str.isidentifier, names.values())):
        return code.format(**names)
    meant = " and ".join(f"{word} is {name}" for word, name in names.items())
    return f"{code.format(**{word: word for word in names})}, where {meant}"
