"""What interop has to know about acme_streams. Imported by interop, when the first object of ours turns up."""

import acme_streams
from interop.adapters.base import LEGACY, Adapter, Source


class AcmeAdapter(Adapter):
    """acme_streams.Stream."""

    library = "acme_streams"

    def stream_handle(self, stream: object) -> int | None:
        """The address; our null stream is the legacy one, and must be spelled so: a handle is never 0."""
        return stream.raw or LEGACY if isinstance(stream, acme_streams.Stream) else None

    def make_stream(self, source: Source) -> object:
        """Keep *source* alive: it holds the owner of the CUDA stream."""
        return acme_streams.Stream(source.handle, keep_alive=source)

    def current_stream(self) -> object:
        """Of the calling thread."""
        return acme_streams.get_stream()

    def enter(self, stream: object, before: object) -> None:  # noqa: ARG002
        """*before* is what was current, which comes back to :meth:`leave`."""
        acme_streams.set_stream(stream)

    def leave(self, before: object) -> None:
        """The very object that was current before."""
        acme_streams.set_stream(before)
