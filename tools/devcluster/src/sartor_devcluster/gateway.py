"""The Gateway: how Contour and Envoy are told what they are.

Contour serves one Gateway, `GATEWAY` in `NAMESPACE`, that takes routes of all namespaces. As on a cloud it has an address
of its own: a Service of type LoadBalancer whose address leads to Envoy. All pods share the network of this Envoy, and
Contour has it listen on 0.0.0.0 at the Gateway's port + 8000: that port is then nobody else's, so the Gateway's is not 80,
whose 8080 many pods want.
"""

import json
import subprocess

from sartor_devcluster import addresses as at
from sartor_devcluster.errors import DevclusterError
from sartor_devcluster.layout import Layout

NAMESPACE, GATEWAY, GATEWAY_CLASS = "gateways", "inference", "contour"
LISTENER = "http"
CONTROLLER = "projectcontour.io/gateway-controller"
BOOTSTRAP_SECONDS = 20.0

FLUSH_MILLISECONDS = 200
"""Until a request that has ended is in the access log; Envoy's own 10 s would be the slowest part of every verdict."""

ACCESS_LOG_FIELDS = (
    # Wall clock, in Unix seconds with microseconds.
    "start_time=%START_TIME(%s.%6f)%",
    "request_id",
    "method",
    "path=%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "authority",
    "protocol",
    # The route that matched, and the Service that was chosen: NAMESPACE_NAME_PORT.
    "contour_config_kind",
    "contour_config_namespace",
    "contour_config_name",
    "upstream_cluster",
    "upstream_host",
    "upstream_request_attempt_count",
    "upstream_transport_failure_reason",
    "response_code",
    "response_code_details",
    "response_flags",
    "connection_termination_details",
    # Milliseconds since the start: request read, request sent on, first byte of the answer; and from there to its last byte.
    "request_duration",
    "request_tx_duration",
    "response_duration",
    "response_tx_duration",
    "duration",
    "bytes_received",
    "bytes_sent",
    "content_type=%RESP(CONTENT-TYPE)%",
    # What a stack says of a request that it handed over to the baseline.
    "handover=%RESP(X-SARTOR-HANDOVER)%",
)
"""What Envoy writes of a request when it has ended, one JSON object a line; what does not apply is left out. Contour accepts
the operators of Envoy that it knows, and COMMON_DURATION (microseconds, first byte sent to the client) is not among them."""


CONTOUR_SWITCHES = ("--insecure", "--disable-leader-election")
"""Without TLS to Envoy, which is by loopback; and there is one Contour. Its flags take no `=true`."""


def contour_arguments(layout: Layout) -> dict[str, object]:
    """Flags of `contour serve`."""
    return {
        "kubeconfig": layout.component_kubeconfig("contour"),
        "config-path": layout.contour_configuration,
        "xds-address": at.HOST,
        "xds-port": at.CONTOUR_XDS_PORT,
        "http-address": at.HOST,
        "http-port": at.CONTOUR_METRICS_PORT,
        "health-address": at.HOST,
        "health-port": at.CONTOUR_HEALTH_PORT,
        "debug-http-address": at.HOST,
        "debug-http-port": at.CONTOUR_DEBUG_PORT,
        "stats-address": at.ENVOY_ADDRESS,
        "stats-port": at.ENVOY_STATS_PORT,
        "envoy-http-access-log": layout.access_log,
        "envoy-https-access-log": layout.access_log,
        "envoy-service-namespace": NAMESPACE,
        "envoy-service-name": "envoy",
        # The default of 20 requests a second makes statuses lag behind many changes of a route.
        "kubernetes-client-qps": 200,
        "kubernetes-client-burst": 400,
    }


def contour_configuration() -> str:
    """Contour's configuration file (JSON is YAML)."""
    return json.dumps(
        {
            "gateway": {"gatewayRef": {"namespace": NAMESPACE, "name": GATEWAY}},
            "accesslog-format": "json",
            "json-fields": list(ACCESS_LOG_FIELDS),
        },
        indent=1,
    )


def envoy_arguments(layout: Layout) -> tuple[str, ...]:
    """Two workers, and as quiet as the other components. Paths are relative: a socket's may have 107 characters at most."""
    return (
        "--config-path",
        layout.envoy_bootstrap.name,
        "--service-cluster",
        NAMESPACE,
        "--service-node",
        f"envoy-{GATEWAY}",
        "--concurrency",
        "2",
        "--disable-hot-restart",  # its shared memory is the machine's: a second cluster's Envoy would not start
        "--file-flush-interval-msec",
        str(FLUSH_MILLISECONDS),
        "--log-level",
        "warning",
    )


def write_envoy_bootstrap(layout: Layout, contour: str) -> None:
    """What Envoy begins with, as Contour writes it: where Contour is. Raises `DevclusterError` with what it said."""
    command = [
        contour,
        "bootstrap",
        layout.envoy_bootstrap.name,
        f"--admin-address={layout.envoy_admin.name}",
        f"--xds-address={at.HOST}",
        f"--xds-port={at.CONTOUR_XDS_PORT}",
        f"--namespace={NAMESPACE}",
    ]
    try:
        done = subprocess.run(
            command,
            cwd=layout.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BOOTSTRAP_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DevclusterError(f"{contour} cannot write Envoy's bootstrap: {error}") from error
    if done.returncode != 0:
        raise DevclusterError(f"{contour} cannot write Envoy's bootstrap: {(done.stderr or done.stdout).strip()}")
