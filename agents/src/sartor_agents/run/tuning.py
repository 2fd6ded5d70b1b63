"""The baseline step: each setting of the documented grid is started and measured alone; the best one counts."""

import time
from collections.abc import Callable

from pydantic import JsonValue

from sartor_agents.measurement.messages import Endpoint, EvaluateRequest, EvaluateResponse
from sartor_agents.run.engines import BaselineServer, Engine, ServerError, Setting
from sartor_agents.run.role import RoleError
from sartor_api.search.records import BaselineRecord, FailureClass, GridPoint, Verdict

Ask = Callable[[EvaluateRequest, float], EvaluateResponse]
"""Runs the evaluator's process on a request within so many seconds. Raises `RoleError`."""


def tune(
    engine: Engine,
    server: BaselineServer,
    *,
    port: int,
    seconds: float,
    request: Callable[[Endpoint], EvaluateRequest],
    ask: Ask,
    progress: Callable[[str], None],
    fingerprint: dict[str, JsonValue],
    clock: Callable[[], float] = time.monotonic,
) -> BaselineRecord | Verdict:
    """Measure the grid and leave the best setting running.

    A setting that does not start or cannot be measured stays in the record with its reason; when none can, the step
    failed. A setting that would not end in time, going by the slowest so far, is not begun, and the record says so.
    """
    deadline = clock() + seconds
    settings = engine.settings()
    points: list[GridPoint] = []
    metric, failure_class, longest = "", FailureClass.INFRASTRUCTURE, 0.0
    for number, setting in enumerate(settings, start=1):
        begun = clock()
        if deadline - begun < longest and any(p.metric is not None for p in points):
            points.append(_point(setting, message="not tried: the time for the baseline was used up"))
            continue
        progress(f"baseline {number}/{len(settings)}: {setting.name} starts")
        try:
            running = server.ensure(setting, port)
            left = deadline - clock()
            response = ask(request(_endpoint(engine, running.url, running.process.pid)), left)
        except (ServerError, RoleError) as error:
            progress(f"baseline {number}/{len(settings)}: {setting.name}: {error.reason}")
            points.append(_point(setting, message=f"{error.reason}: {error}"))
            continue
        if response.objective is None:
            failure_class = response.failure_class or FailureClass.MEASUREMENT
            points.append(_point(setting, message=f"{response.reason.value}: {response.message}"))
            continue
        metric, longest = response.metric, max(longest, clock() - begun)
        progress(f"baseline {number}/{len(settings)}: {setting.name}: {response.objective:.1f} {metric}")
        points.append(_point(setting, value=response.objective, start_seconds=running.start_seconds, message=""))
    return _result(engine, points, metric, failure_class, fingerprint)


def _endpoint(engine: Engine, url: str, pid: int) -> Endpoint:
    return Endpoint(name="baseline", url=url, pid=pid, accepts_prediction=engine.accepts_prediction)


def _point(
    setting: Setting, *, value: float | None = None, start_seconds: float | None = None, message: str
) -> GridPoint:
    return GridPoint(
        name=setting.name,
        arguments=setting.arguments,
        environment=setting.environment,
        metric=value,
        start_seconds=start_seconds,
        message=message,
    )


def _result(
    engine: Engine,
    points: list[GridPoint],
    metric: str,
    failure_class: FailureClass,
    fingerprint: dict[str, JsonValue],
    clock: Callable[[], float] = time.monotonic,
) -> BaselineRecord | Verdict:
    measured = [point for point in points if point.metric is not None]
    if not measured:
        reasons = "; ".join(f"{point.name}: {point.message}" for point in points) or "the grid is empty"
        return Verdict(
            gate="baseline",
            passed=False,
            reason="BaselineNotMeasurable",
            message=f"{engine.name} {engine.version} could be measured with no setting: {reasons}",
            # A baseline cannot be the candidate's fault, whatever an evaluator of one server alone calls it.
            failure_class=FailureClass.INFRASTRUCTURE if failure_class is FailureClass.CANDIDATE else failure_class,
        )
    best = max(measured, key=lambda point: point.metric or 0.0)
    return BaselineRecord(
        engine=engine.name,
        version=engine.version,
        arguments=best.arguments,
        environment=best.environment,
        grid=tuple(points),
        chosen=best.name,
        metric=metric,
        fallback_reason=engine.fallback_reason,
        fingerprint=fingerprint,
    )
