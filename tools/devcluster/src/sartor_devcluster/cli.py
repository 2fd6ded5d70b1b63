"""The command `sartor-devcluster`."""

import argparse
import os
import sys
import time
from collections.abc import Sequence

from sartor_devcluster import components
from sartor_devcluster.binaries import Source, find_addons, find_binaries
from sartor_devcluster.cluster import DevCluster, clusters
from sartor_devcluster.errors import DevclusterError
from sartor_devcluster.health import Status, without
from sartor_devcluster.layout import Layout, state_root
from sartor_devcluster.lifecycle import remove

DESCRIPTION = "A real Kubernetes control plane as one process tree, without Docker and without root."
LOG_LINES = 20


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except DevclusterError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sartor-devcluster", description=DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        added.add_argument("--name", default="default", help="of the cluster (default: default)")
        added.set_defaults(run=run)
        return added

    up = command("up", _up, "start a cluster unless it runs, and wait until it is ready")
    up.add_argument(
        "--arg",
        action="append",
        default=[],
        metavar="COMPONENT=--FLAG",
        help=f"an argument for a component ({', '.join(components.NAMES)}); repeatable",
    )
    up.add_argument("--user-namespace", action="store_true", help="use a user namespace even as root")
    up.add_argument("--gateway", action="store_true", help="have Contour, Envoy and Prometheus as well")
    optional = tuple(components.CONSEQUENCES)
    for flag, text in (("--require", "fail where this machine cannot have it"), ("--without", "leave it out")):
        help = f"{text} ({', '.join(optional)}); repeatable"
        up.add_argument(flag, action="append", default=[], choices=optional, metavar="COMPONENT", help=help)
    down = command("down", _down, "end a cluster and remove its folder")
    down.add_argument("--keep", action="store_true", help="keep its data and logs; `up` goes on with them")
    status = command("status", _status, "how a cluster is")
    status.add_argument("--all", action="store_true", help="every cluster, one line each")
    command("kubeconfig", _kubeconfig, "the path of its kubeconfig")
    logs = command("logs", _logs, "what its components wrote")
    logs.add_argument(
        "component", nargs="?", choices=(*components.NAMES, "supervisor"), help="default: all, the end only"
    )
    logs.add_argument("-f", "--follow", action="store_true", help="go on as it grows")
    for name, help in (("stop", "end a component and keep it ended"), ("start", "start a stopped component")):
        fault = command(name, _stop if name == "stop" else _start, help)
        fault.add_argument("component", choices=components.NAMES)
        if name == "stop":
            fault.add_argument("--kill", action="store_true", help="by SIGKILL")
    kubectl = command("kubectl", _kubectl, "run kubectl against the cluster")
    kubectl.add_argument("command", nargs=argparse.REMAINDER, metavar="ARGUMENT")
    execute = command("exec", _exec, "run a command in the cluster's network namespace")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    command("shell", _shell, "a shell in the cluster's network namespace, with KUBECONFIG set")
    binaries = command("binaries", _binaries, "find, download or build the Kubernetes binaries and tell their folder")
    binaries.add_argument("--gateway", action="store_true", help="those of the Gateway as well")
    binaries.add_argument("--from", action="append", choices=tuple(Source), dest="sources", help="only from there")
    return parser


def extra_arguments(given: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`["kube-apiserver=--v=4"]` as `{"kube-apiserver": ("--v=4",)}`. Raises `DevclusterError` for another form."""
    found: dict[str, tuple[str, ...]] = {}
    for text in given:
        component, equals, argument = text.partition("=")
        if not equals or not argument.startswith("--"):
            raise DevclusterError(f"--arg {text}: write COMPONENT=--FLAG or COMPONENT=--FLAG=VALUE")
        found[component] = (*found.get(component, ()), argument)
    return found


def status_lines(status: Status) -> list[str]:
    """What `status` prints."""
    if not status.running:
        return [f"cluster {status.name}: not running"]
    lines = [
        f"cluster {status.name}: {'ready' if status.ready else 'not ready'}, Kubernetes {status.version} "
        f"({status.source}), https://127.0.0.1:{status.port}, supervisor {status.supervisor_pid}"
    ]
    for component in status.components:
        ended = f", restarted {component.restarts} times" if component.restarts else ""
        health = "well" if component.well else "not well" if component.phase == "running" else component.phase
        reason = f": {component.reason}" if component.reason else ""
        lines.append(f"  {component.name:25} {component.pid or '-':>8}  {health}{ended}{reason}")
    return lines


def _say(words: str) -> None:
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()


def _print(words: str) -> None:
    sys.stdout.write(f"{words}\n")


def _found(options: argparse.Namespace) -> DevCluster:
    return DevCluster.find(options.name)


def _up(options: argparse.Namespace) -> None:
    cluster = DevCluster.up(
        options.name,
        extra_arguments=extra_arguments(options.arg),
        user_namespace=options.user_namespace,
        require=options.require,
        without=options.without,
        gateway=options.gateway,
        say=_say,
    )
    _print(f"export KUBECONFIG={cluster.kubeconfig}")


def _down(options: argparse.Namespace) -> None:
    layout = Layout.of(options.name, state_root())
    if not layout.folder.exists():
        _say(f"no cluster {options.name}")
        return
    begun = time.monotonic()
    remove(layout, keep=options.keep)
    _say(f"cluster {options.name} ended in {time.monotonic() - begun:.1f} s")


def _status(options: argparse.Namespace) -> None:
    if options.all:
        for cluster in clusters():
            _print(status_lines(cluster.status())[0])
        return
    status = _found(options).status()
    for line in status_lines(status):
        _print(line)
    sys.exit(0 if status.ready else 1)


def _kubeconfig(options: argparse.Namespace) -> None:
    _print(str(_found(options).kubeconfig))


def _logs(options: argparse.Namespace) -> None:
    cluster = _found(options)
    names = [options.component] if options.component else [*components.NAMES, "supervisor"]
    paths = [str(path) for path in map(cluster.log, names) if path.exists()]
    lines = "+1" if options.component and not options.follow else str(LOG_LINES)
    os.execvp("tail", ["tail", "-n", lines, *(["-F"] if options.follow else []), *paths])


def _stop(options: argparse.Namespace) -> None:
    _found(options).stop_component(options.component, kill=options.kill)


def _start(options: argparse.Namespace) -> None:
    _found(options).start_component(options.component)


def _command(options: argparse.Namespace) -> list[str]:
    """What was given behind the command's own options, with or without `--`."""
    given: list[str] = options.command
    return given[1:] if given[:1] == ["--"] else given


def _kubectl(options: argparse.Namespace) -> None:
    cluster = _found(options)
    os.execv(cluster.kubectl_path, ["kubectl", f"--kubeconfig={cluster.kubeconfig}", *_command(options)])


def _exec(options: argparse.Namespace) -> None:
    command = _command(options)
    if not command:
        raise DevclusterError("name the command to run: sartor-devcluster exec -- COMMAND …")
    _enter(_found(options), command)


def _shell(options: argparse.Namespace) -> None:
    _enter(_found(options), [os.environ.get("SHELL", "/bin/sh")])


def _enter(cluster: DevCluster, command: Sequence[str]) -> None:
    argv = cluster.enter(command)
    os.execvpe(argv[0], argv, {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)})


def _binaries(options: argparse.Namespace) -> None:
    sources = [Source(name) for name in options.sources] if options.sources else tuple(Source)
    found = find_binaries(sources=sources, say=_say)
    addons = find_addons(found, gateway=options.gateway, sources=sources, say=_say)
    for name, reason in addons.absent.items():
        _say(without(name, reason))
    _print(str(found["kube-apiserver"].parent))


if __name__ == "__main__":
    main()
