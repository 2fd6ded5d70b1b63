"""A line of Envoy's access log as a record: the lines are what Envoy 1.40 behind Contour 1.33 wrote."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sartor_operator.rollout.record_samples import sample_of
from sartor_operator.rollout.records import FIELDS, LONGEST, Backend, End, RequestRecord, backend_of, parse
from sartor_operator.rollout.verdict.samples import ArmName, Outcome

WHOLE: dict[str, Any] = {
    "start_time": "1795273200.123456",
    "request_id": "5f0c",
    "method": "GET",
    "path": "/",
    "contour_config_kind": "HTTPRoute",
    "contour_config_namespace": "team-a",
    "contour_config_name": "editor",
    "upstream_cluster": "team-a_stack_8000",
    "upstream_host": "10.244.1.5:8000",
    "upstream_request_attempt_count": 1,
    "response_code": 200,
    "response_code_details": "via_upstream",
    "response_flags": "-",
    "request_duration": 0,
    "response_duration": 12,
    "response_tx_duration": 30,
    "duration": 42,
    "bytes_received": 7,
    "bytes_sent": 512,
    "protocol": "HTTP/1.1",
    "content_type": "text/event-stream; charset=utf-8",
}
ARMS = {Backend("team-a", "vllm", 8000): ArmName.BASELINE, Backend("team-a", "stack", 8000): ArmName.CANDIDATE}


def line(**changes: Any) -> str:
    """A line like `WHOLE`; None takes a field away, as Envoy does with what does not apply."""
    return json.dumps({k: v for k, v in {**WHOLE, **changes}.items() if v is not None})


def record(**changes: Any) -> RequestRecord:
    found = parse(line(**changes))
    assert found is not None
    return found


def test_a_whole_stream() -> None:
    assert record() == RequestRecord(
        started=1795273200.123456,
        end=End.WHOLE,
        duration=0.042,
        first_byte=0.012,
        request_read=0.0,
        answer_sent=0.030,
        request_id="5f0c",
        route=("team-a", "editor"),
        backend=Backend("team-a", "stack", 8000),
        host="10.244.1.5:8000",
        attempts=1,
        status=200,
        details="via_upstream",
        flags=frozenset(),
        bytes_in=7,
        bytes_out=512,
        protocol="HTTP/1.1",
        content_type="text/event-stream; charset=utf-8",
        handover=None,
    )
    assert record().streamed is True


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({}, End.WHOLE),
        ({"response_code": 500}, End.WHOLE),
        (
            {
                "response_flags": "UC",
                "response_code_details": "upstream_reset_after_response_started{connection_termination}",
                "response_tx_duration": None,
            },
            End.CUT_BY_SERVER,
        ),
        (
            {
                "response_flags": "DC",
                "response_code_details": "downstream_remote_disconnect",
                "response_tx_duration": None,
            },
            End.CUT_BY_CLIENT,
        ),
        (
            {
                "response_flags": "DC",
                "response_code": 0,
                "response_code_details": "downstream_remote_disconnect",
                "response_duration": None,
                "response_tx_duration": None,
            },
            End.CUT_BY_CLIENT,
        ),
        (
            {
                "response_flags": "UT",
                "response_code_details": "response_timeout",
                "response_tx_duration": None,
            },
            End.CUT_BY_GATEWAY,
        ),
        (
            {
                "response_flags": "UT",
                "response_code": 504,
                "response_code_details": "response_timeout",
                "response_duration": None,
                "response_tx_duration": None,
            },
            End.WHOLE,
        ),
        (
            {
                "response_flags": "UH",
                "response_code": 503,
                "response_code_details": "no_healthy_upstream",
                "upstream_host": None,
                "response_duration": None,
                "response_tx_duration": None,
            },
            End.WHOLE,
        ),
        ({"response_flags": None}, End.UNKNOWN),
        ({"response_tx_duration": None}, End.UNKNOWN),
        ({"response_code_details": None}, End.UNKNOWN),
        ({"response_code_details": "something_new"}, End.UNKNOWN),
        ({"response_code_details": None, "response_duration": None}, End.UNKNOWN),
    ],
)
def test_how_it_ended(changes: dict[str, Any], end: End) -> None:
    assert record(**changes).end is end


@pytest.mark.parametrize(
    "foreign",
    [
        "",
        "\n",
        "null",
        "[]",
        "17",
        '"start_time"',
        "{}",
        '{"start_time": "now"}',
        '{"start_time": "-1"}',
        '{"start_time": NaN}',
        '{"start_time": Infinity}',
        '{"start_time": true}',
        '{"start_time": 1795273200.1',
        '[2026-11-21T15:00:00.000Z] "GET / HTTP/1.1" 200 - 0 12',
        "[" * 100_000,
        b"\xff\xfe{}",
        b'{"start_time": "1", "request_id": "\xff"}',
        " " * (LONGEST + 1),
    ],
)
def test_a_line_of_something_else_is_no_record(foreign: str | bytes) -> None:
    assert parse(foreign) is None


def test_bytes_and_a_newline_are_read_as_well() -> None:
    assert parse(f"{line()}\n".encode()) == record()


@pytest.mark.parametrize("name", FIELDS[1:])
@pytest.mark.parametrize("value", [None, "", "-", [], {}, True, -1, "12ms", 1e400, 1.5])
def test_what_is_missing_or_impossible_is_not_made_up(name: str, value: object) -> None:
    """Nothing else changes, but what follows from the field."""
    found, whole = record(**{name: value}), record()
    changed = {slot for slot in RequestRecord.__slots__ if getattr(found, slot) != getattr(whole, slot)}
    of = {
        "request_id": {"request_id"},
        "contour_config_namespace": {"route"},
        "contour_config_name": {"route"},
        "upstream_cluster": {"backend"},
        "upstream_host": {"host"},
        "upstream_request_attempt_count": {"attempts"},
        "response_code": {"status"},
        "response_code_details": {"details", "end"},
        "response_flags": {"flags", "end"},
        "request_duration": {"request_read"},
        "response_duration": {"first_byte", "end"},
        "response_tx_duration": {"answer_sent", "end"},
        "duration": {"duration"},
        "bytes_received": {"bytes_in"},
        "bytes_sent": {"bytes_out"},
        "protocol": {"protocol"},
        "content_type": {"content_type"},
        "handover": {"handover"},
    }
    assert changed <= of[name]
    if name.endswith("duration") and value == 1.5:  # a later Envoy may write parts of a millisecond
        assert changed <= of[name] - {"end"}
    elif name not in ("handover", "response_flags", "response_code_details", "request_id", "protocol"):
        slot = next(iter(of[name] - {"end"}))
        text = slot in ("route", "host", "backend", "content_type") and value == "12ms"
        assert text or getattr(found, slot) is None


def test_flags_are_a_set_and_nothing_is_not_missing() -> None:
    assert record(response_flags="UF,URX").flags == {"UF", "URX"}
    assert record(response_flags="-").flags == frozenset()
    assert record(response_flags=None).flags is None


def test_numbers_may_be_text() -> None:
    found = record(response_code="503", duration="42")
    assert (found.status, found.duration) == (503, 0.042)


def test_no_answer_has_no_status() -> None:
    assert record(response_code=0).status is None


@pytest.mark.parametrize(
    ("cluster", "backend"),
    [
        ("team-a_stack_8000", Backend("team-a", "stack", 8000)),
        ("a_b_1", Backend("a", "b", 1)),
        ("team-a/stack/8000/da39a3ee5e", None),
        ("team-a_stack", None),
        ("team-a_stack_0", None),
        ("team-a_stack_70000", None),
        ("team_a_stack_8000", None),
        ("envoy-admin", None),
        (None, None),
    ],
)
def test_the_service_in_the_name_of_a_cluster(cluster: str | None, backend: Backend | None) -> None:
    assert backend_of(cluster) == backend


@pytest.mark.parametrize(
    ("kind", "streamed"),
    [("text/event-stream", True), ("Text/Event-Stream;x=y", True), ("application/json", False), (None, None)],
)
def test_streams_are_known_by_their_type(kind: str | None, streamed: bool | None) -> None:
    assert record(content_type=kind).streamed is streamed


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the first text ever drawn takes seconds
@given(st.dictionaries(st.sampled_from([*FIELDS, "other"]), st.none() | st.booleans() | st.floats() | st.text()))
def test_no_object_is_too_odd(content: dict[str, object]) -> None:
    found = parse(json.dumps(content))
    if found is not None:
        for value in (found.started, found.duration, found.first_byte, found.answer_sent, found.request_read):
            assert value is None or value >= 0
        sample_of(found, ARMS)


class TestSamples:
    def test_of_each_arm(self) -> None:
        found = sample_of(record(), ARMS)
        assert found is not None
        assert (found.arm, found.outcome, found.arrival) == (ArmName.CANDIDATE, Outcome.OK, 1795273200.123456)
        assert (found.duration, found.first_byte, found.bytes, found.handed_over) == (0.042, 0.012, 512, False)
        other = sample_of(record(upstream_cluster="team-a_vllm_8000", handover="length"), ARMS)
        assert other is not None
        assert (other.arm, other.handed_over) == (ArmName.BASELINE, True)

    def test_a_cut_by_the_server_is_its_failure_and_one_by_the_client_is_not(self) -> None:
        server = sample_of(record(response_flags="UC", response_tx_duration=None), ARMS)
        client = sample_of(record(response_flags="DC", response_tx_duration=None), ARMS)
        assert server is not None
        assert client is not None
        assert (server.outcome, server.failed) == (Outcome.CUT, True)
        assert (client.outcome, client.failed) == (Outcome.CUT, False)

    @pytest.mark.parametrize(
        "changes",
        [
            {"upstream_cluster": "team-a_other_8000"},
            {"upstream_cluster": None},
            {"duration": None},
            {"response_flags": None},
            {"response_flags": "NR", "response_code": 404, "response_duration": None},
            {"response_tx_duration": None},
        ],
    )
    def test_what_says_nothing_of_an_arm_is_no_sample(self, changes: dict[str, Any]) -> None:
        assert sample_of(record(**changes), ARMS) is None

    def test_an_arm_without_endpoints_fails_its_requests(self) -> None:
        found = sample_of(
            record(
                response_flags="UH",
                response_code=503,
                response_code_details="no_healthy_upstream",
                response_duration=None,
                response_tx_duration=None,
            ),
            ARMS,
        )
        assert found is not None
        assert (found.outcome, found.failed, found.first_byte) == (Outcome.FAILED, True, None)
