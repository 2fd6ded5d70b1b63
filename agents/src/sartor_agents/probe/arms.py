"""Asking one arm: a connection of its own for each request, its answer read while it comes.

A fresh connection lets the arm's Service choose an endpoint each time; it is open before the clock starts, as the gateway's
is for a user.
"""

from sartor_agents.measurement.http1 import Clock, Connection, Exchange
from sartor_agents.measurement.samples import ErrorClass
from sartor_agents.probe.pairing import ArmAnswer
from sartor_agents.probe.reading import AnswerReader

HANDOVER_HEADER = b"x-sartor-handover"
"""A stack sends it with an answer that is the baseline's."""
LARGEST_ANSWER = 16 * 1024 * 1024
"""Bytes of an answer, headers and framing included, after which it is given up."""
CONNECT_SECONDS = 10.0


class ArmConnection(Connection):
    """A connection that keeps nothing of the answer but what `AnswerReader` does, and no more than `LARGEST_ANSWER`."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.reader = AnswerReader()
        self.handed_over = False
        self.bytes = 0
        self.too_large = False
        self._received = 0

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > LARGEST_ANSWER:
            self.too_large = True
            self._fail(ErrorClass.PROTOCOL, "the answer is too large")
            self.close()
            return
        super().data_received(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if name.lower() == HANDOVER_HEADER:
            self.handed_over = True

    def on_body(self, body: bytes) -> None:
        if self._exchange is None:
            return
        self.bytes += len(body)
        if self._exchange.status == 200:
            self.reader.take(self._now, body)


async def ask(url: str, request: bytes, *, clock: Clock, timeout: float) -> ArmAnswer:
    """Send `request` to the arm at `url` and read its answer, for `timeout` seconds at most.

    Sent once, never again. Whatever the arm does is in the answer: this raises nothing for it. Cancelling closes the
    connection, so that the arm stops working on it.
    """
    begun = clock()
    try:
        connection = await ArmConnection.open(url, clock, timeout=min(timeout, CONNECT_SECONDS))
    except OSError:  # a time-out is one, too
        return ArmAnswer("failed", "connect", clock() - begun)
    try:
        exchange = await connection.exchange(request, timeout=timeout, stall_timeout=timeout)
    finally:
        connection.close()
    return answer(exchange, connection.reader, connection)


def answer(exchange: Exchange, reader: AnswerReader, connection: ArmConnection) -> ArmAnswer:
    """What came back, on a clock that begins when the request was sent."""
    reason = _reason(exchange, reader, connection)
    return ArmAnswer(
        outcome="ok" if not reason else "cut" if reader.began else "failed",
        reason=reason,
        duration=exchange.end - exchange.sent,
        arrivals=[(time - exchange.sent, size) for time, size in reader.arrivals],
        texts=reader.texts(),
        tokens=reader.tokens,
        stopped=reader.stopped,
        choices=reader.choices,
        handed_over=connection.handed_over,
        bytes=connection.bytes,
    )


def _reason(exchange: Exchange, reader: AnswerReader, connection: ArmConnection) -> str:
    """Why an answer is not `ok`; empty for one that is."""
    if exchange.status not in (0, 200):
        return str(exchange.status)  # also where its body was cut: the status says more
    if connection.too_large:
        return "large"
    if exchange.error is not None:
        return exchange.error.value
    if exchange.content_type.partition(";")[0].strip().lower() != "text/event-stream":
        return "protocol"
    if reader.fault or not reader.done:
        return reader.fault or "stream"
    return ""
