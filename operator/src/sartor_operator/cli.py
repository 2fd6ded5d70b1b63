"""`sartor-operator run`: the command line of the operator."""

import argparse
import json
import logging
import os
import secrets
import socket
import sys
from dataclasses import replace
from pathlib import Path

from kubernetes.config import ConfigException

from sartor_operator.connection import Connection, own_namespace
from sartor_operator.errors import PortError
from sartor_operator.settings import DefaultImages, RoleResources, Settings
from sartor_operator.shell import Options, run

REPOSITORY_TOKEN = Path("/var/run/secrets/sartor.dev/repository/token")


def parser() -> argparse.ArgumentParser:
    """The options; their help is the reference."""
    defaults = Settings()
    root = argparse.ArgumentParser(prog="sartor-operator", description="Sartor's Kubernetes operator.")
    commands = root.add_subparsers(dest="command", required=True)
    start = commands.add_parser("run", help="watch the cluster and work until a signal ends it")
    where = start.add_argument_group("cluster")
    where.add_argument(
        "--kubeconfig", help="file; by default the pod's own service account, $KUBECONFIG, ~/.kube/config"
    )
    where.add_argument("--context", help="context of the kubeconfig")
    scope = where.add_mutually_exclusive_group()
    scope.add_argument("--namespace", help="work in this namespace only")
    scope.add_argument("--all-namespaces", action="store_true", help="work in all namespaces (the default)")
    where.add_argument(
        "--lease-namespace", default=own_namespace(), help="namespace of the Lease (default: %(default)s)"
    )
    where.add_argument("--lease-name", default="sartor-operator", help="name of the Lease (default: %(default)s)")
    where.add_argument(
        "--lease-seconds", type=float, default=15.0, help="duration of the Lease; 0: no Lease (default: %(default)s)"
    )
    where.add_argument("--identity", help="of this process in the Lease; by default $POD_NAME, or one of its own")
    pods = start.add_argument_group("pods")
    for name in ("stack", "baseline", "agent", "evaluator"):
        image = getattr(defaults.images, name)
        pods.add_argument(
            f"--{name}-image", default=image, help="where a HardwareTarget names none (default: %(default)s)"
        )
    pods.add_argument(
        "--role-command", default=" ".join(defaults.role_command), help="starts a role (default: %(default)s)"
    )
    pods.add_argument("--stack-command", default=" ".join(defaults.stack_command), help="default: %(default)s")
    pods.add_argument(
        "--role-requests", type=json.loads, default=defaults.roles.requests, help="JSON (default: %(default)s)"
    )
    pods.add_argument(
        "--role-limits", type=json.loads, default=defaults.roles.limits, help="JSON (default: %(default)s)"
    )
    pods.add_argument("--repository", default=defaults.repository, help="run repositories (default: %(default)s)")
    pods.add_argument("--repository-token", type=Path, default=REPOSITORY_TOKEN, help="file (default: %(default)s)")
    pods.add_argument("--drain-seconds", type=int, default=defaults.drain_seconds, help="default: %(default)s")
    pods.add_argument(
        "--probe-command",
        default=" ".join(defaults.probe_command),
        help="starts a rollout's probe (default: %(default)s)",
    )
    pods.add_argument("--no-network-policies", action="store_true", help="do not make NetworkPolicies")
    rollouts = start.add_argument_group("rollouts")
    rollouts.add_argument(
        "--access-log",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="access log of the gateway, as JSON lines; once for each Envoy. Without it gatewayAccessLog is no source",
    )
    process = start.add_argument_group("process")
    process.add_argument(
        "--metrics-port", type=int, default=0, help="serve /metrics there; 0: not at all (the default)"
    )
    process.add_argument(
        "--workers", type=int, default=8, help="objects looked at at the same time (default: %(default)s)"
    )
    process.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    return root


def options_of(arguments: argparse.Namespace) -> Options:
    """Raises `ConfigException` where there is no cluster to connect to."""
    settings = replace(
        Settings(),
        images=DefaultImages(
            stack=arguments.stack_image,
            baseline=arguments.baseline_image,
            agent=arguments.agent_image,
            evaluator=arguments.evaluator_image,
        ),
        roles=RoleResources(requests=arguments.role_requests, limits=arguments.role_limits),
        role_command=tuple(arguments.role_command.split()),
        stack_command=tuple(arguments.stack_command.split()),
        probe_command=tuple(arguments.probe_command.split()),
        repository=arguments.repository.rstrip("/"),
        drain_seconds=arguments.drain_seconds,
        network_policies=not arguments.no_network_policies,
    )
    unique = f"{socket.gethostname()}-{secrets.token_hex(4)}"
    return Options(
        connection=Connection.load(arguments.kubeconfig, arguments.context),
        settings=settings,
        namespace=arguments.namespace,
        identity=arguments.identity or os.environ.get("POD_NAME") or unique,
        lease_namespace=arguments.lease_namespace,
        lease_name=arguments.lease_name,
        lease_seconds=arguments.lease_seconds,
        metrics_port=arguments.metrics_port,
        workers=arguments.workers,
        token_file=arguments.repository_token,
        access_logs=tuple(arguments.access_log),
    )


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 ended by a signal, 2 no cluster or no port for the metrics, 3 the lease was lost."""
    given = parser().parse_args(arguments)
    logging.basicConfig(level=given.log_level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    logging.getLogger("kopf").setLevel("ERROR" if given.log_level == "ERROR" else "WARNING")
    try:
        options = options_of(given)
    except (ConfigException, OSError) as error:
        sys.stderr.write(f"sartor-operator: no cluster to connect to: {error}; name one with --kubeconfig\n")
        return 2
    try:
        run(options)
    except PortError as error:
        sys.stderr.write(f"sartor-operator: {error}; name another one with --metrics-port (0: none)\n")
        return 2
    return 0
