"""The escape battery: one function for each way out of a sandbox, run as `python attempts.py NAME WORLD`.

Each returns what it got hold of, or raises. `WORLD` is JSON that says where the test planted things, or `@PATH` of a file
with that in base64 (so that what is looked for is not found in the very file that names it). Standard library only: it is
run inside the sandbox and, as its own control, outside of it or with the protection removed that should stop it.
"""

import base64
import contextlib
import ctypes
import json
import mmap
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

World = dict[str, Any]
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER = 0x10000000
SYSTEM_CALLS = {"clone": 56, "keyctl": 250, "perf_event_open": 298, "name_to_handle_at": 303, "process_vm_readv": 310,
                "userfaultfd": 323, "io_uring_setup": 425, "open_tree": 428, "clone3": 435, "memfd_secret": 447}  # fmt: skip


class DeniedError(Exception):
    """The attempt came to nothing without the system saying no."""


def call(name: str, *arguments: Any) -> int:
    """A system call by its number on x86-64; raises `OSError`."""
    whole = [
        ctypes.c_long(one) if isinstance(one, int) else one for one in arguments
    ]  # not half of it, and what was there
    result = LIBC.syscall(SYSTEM_CALLS[name], *whole)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


# --- secrets and sealed data ------------------------------------------------------------------------------------------


def _read(path: str, canary: str) -> str:
    text = Path(path).read_text()
    if canary not in text:
        raise DeniedError(f"{path} is there without the secret")
    return text


def read_home(world: World) -> str:
    return _read(world["home_secret"], world["canary"])


def read_sealed(world: World) -> str:
    return _read(world["sealed_key"], world["canary"])


def read_sibling(world: World) -> str:
    return _read(world["sibling"], world["canary"])


def read_grant(world: World) -> str:
    """What the step may spend at the model proxy; its own agent has it."""
    return _read(world["grant"], world["canary"])


def read_answer_key(world: World) -> str:
    """The answers of a made checkpoint lie in the model's folder, which a command may read."""
    for folder in ("/model", world["model"]):
        with contextlib.suppress(OSError, DeniedError):
            return _read(f"{folder}/chain.json", world["canary"])
    raise DeniedError("no answers in sight")


def read_environment_of_others(world: World) -> str:
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if world["canary"].encode() in path.read_bytes():
                return str(path)
    raise DeniedError("no process has it in its environment")


def read_own_environment(world: World) -> str:
    for name, value in os.environ.items():
        if world["canary"] in value:
            return name
    raise DeniedError("not in the environment")


def read_inherited_descriptor(world: World) -> str:
    for number in range(3, 256):
        with contextlib.suppress(OSError):
            if world["canary"].encode() in os.pread(number, 4096, 0):
                return f"descriptor {number}"
    raise DeniedError("no descriptor leads to it")


def connect_to_host_socket(world: World) -> str:
    """As to a container engine's socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(world["host_socket"])
    return "connected"


# --- in a pod ---------------------------------------------------------------------------------------------------------


def read_anywhere(world: World) -> str:
    """Every file that this user can read, by its content."""
    wanted = world["canary"].encode()
    for folder in ("/sartor", "/etc", "/run", "/var", "/work", "/tmp", "/home", "/root", "/dev/shm"):
        for parent, _, names in os.walk(folder):
            for name in names:
                path = Path(parent) / name
                with contextlib.suppress(OSError):
                    if path.is_file() and path.stat().st_size < 1 << 20 and wanted in path.read_bytes():
                        return str(path)
    raise DeniedError("in no file")


def read_seal(world: World) -> str:
    """Where the sealed seed lies in the pods of judge and evaluator."""
    return Path("/sartor/seal/seed").read_text()


def read_other_pods(world: World) -> str:
    """The node's folder of all pods with what is mounted into them, a neighbour's Secret included."""
    wanted = world["canary"].encode()
    for parent, _, names in os.walk(world["pods"]):
        for name in names:
            path = Path(parent) / name
            with contextlib.suppress(OSError):
                if path.is_file() and wanted in path.read_bytes():
                    return str(path)
    raise DeniedError("in no pod's folder")


def read_service_account(world: World) -> str:
    return Path("/var/run/secrets/kubernetes.io/serviceaccount/token").read_text()[:10]


def read_identity(world: World) -> str:
    """The token for the run's repository, which other containers of the pod have."""
    return Path("/sartor/identity/token").read_text()[:10]


def read_own_grant(world: World) -> str:
    """What the step may spend at the model proxy: the agent has it, commands do not."""
    return Path("/sartor/grant/token").read_text()[:12]


def _status(url: str) -> int:
    request = urllib.request.Request(url)
    try:
        with urllib.request.urlopen(request, timeout=5, context=ssl._create_unverified_context()) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def api_server_as_somebody(world: World) -> str:
    """Where the network lets it through, it is nobody there: no list of Secrets."""
    status = _status(f"{world['api']}/api/v1/secrets")
    if status != 200:
        raise DeniedError(f"status {status}")
    return "Secrets of the cluster"


def repository_as_somebody(world: World) -> str:
    """Where the network lets it through, it is nobody there: no history of any run."""
    status = _status(f"{world['repository']}/info/refs?service=git-upload-pack")
    if status != 200:
        raise DeniedError(f"status {status}")
    return "the run's repository"


def reach_api_server(world: World) -> str:
    return f"status {_status(world['api'])}"


def reach_repository(world: World) -> str:
    return f"status {_status(world['repository'])}"


def reach_neighbour(world: World) -> str:
    """The server of another pod."""
    return f"status {_status(world['neighbour'])}"


# --- processes of the host --------------------------------------------------------------------------------------------


def signal_host_process(world: World) -> str:
    os.kill(world["victim"], 0)
    if b"victim" not in Path(f"/proc/{world['victim']}/cmdline").read_bytes():
        raise DeniedError("the number is another process's here")
    return "could signal it"


def see_host_process(world: World) -> str:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes()
            if world["victim_name"].encode() in words and b"attempts.py" not in words:  # this program's own hold it too
                return str(path)
    raise DeniedError("not to be seen")


def change_first_program(world: World) -> str:
    """The program that starts the command, holds it to its time and says what is kept."""
    with Path(f"/proc/{os.getppid()}/mem").open("r+b"):
        return "it can be written"


# --- what lasts -------------------------------------------------------------------------------------------------------


def write_planted(world: World) -> str:
    (Path(world["run"]) / "planted").write_text("x")
    return "written"


def write_answer(world: World) -> str:
    """What the container after this one takes for the agent's words."""
    Path(world["answer"]).write_text("{}")
    return "written"


def write_packages(world: World) -> str:
    """A `sitecustomize.py` there would run in judge and evaluator."""
    for place in (sys.prefix, sys.base_prefix, str(Path(os.__file__).parent)):
        if os.access(place, os.W_OK):
            return place
    raise DeniedError("nowhere")


def write_system(world: World) -> str:
    for place in ("/usr/bin", "/usr/lib", "/etc", "/etc/passwd", "/"):
        with contextlib.suppress(OSError):
            if os.access(place, os.W_OK):
                if Path(place).is_dir():
                    probe = Path(place) / world["token"]
                    probe.touch()
                    probe.unlink()
                return place
    raise DeniedError("nowhere")


def open_kernel_settings(world: World) -> str:
    os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))
    return "core_pattern can be written"


def open_kernel_log(world: World) -> str:
    os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK))
    return "kmsg"


def make_device(world: World) -> str:
    path = Path(world["scratch"]) / f"device-{world['token']}"
    with contextlib.suppress(FileNotFoundError):
        os.mknod(path, 0o020600, os.makedev(1, 1))
        path.unlink()
        return "made /dev/mem anew"
    os.mknod("/tmp/device", 0o020600, os.makedev(1, 1))
    return "made /dev/mem anew"


def outlive(world: World) -> str:
    """A daemon: other session, no parent, deaf to signals."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            quiet = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(quiet, number)
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", world["token"]])
        os._exit(0)
    time.sleep(0.3)
    return "left behind"


# --- what there is not enough of -----------------------------------------------------------------------------------------


def fork_bomb(world: World) -> str:
    """Gets through with more processes than the sandbox may have."""
    made = 0
    while made < world["processes"]:
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        made += 1
        time.sleep(0.002)
    time.sleep(2)
    return f"{made} processes"


def fill_disk(world: World) -> str:
    """Gets through with more bytes than the sandbox may write."""
    folder, piece, written = Path(os.environ["TMPDIR"]), bytes(4 << 20), 0
    while written < world["disk"]:
        (folder / f"{written}").write_bytes(piece)
        written += len(piece)
        time.sleep(0.02)
    return f"{written} bytes"


def fill_memory(world: World) -> str:
    held = bytearray()
    while len(held) < world["memory"]:
        held += bytes(16 << 20)
        time.sleep(0.005)
    return f"{len(held)} bytes"


# --- the network ------------------------------------------------------------------------------------------------------


def _connect(host: str, port: int) -> str:
    with socket.create_connection((host, port), timeout=3) as connection:
        return connection.recv(100).decode()


def metadata_address(world: World) -> str:
    return _connect("169.254.169.254", 80)


def api_server(world: World) -> str:
    return _connect("10.96.0.1", 443)


def other_network(world: World) -> str:
    return _connect("203.0.113.7", 8443)


def loopback_of_host(world: World) -> str:
    return _connect("127.0.0.1", 8000)


def name_service(world: World) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(3)
        sender.sendto(b"?", ("10.96.0.10", 53))
        return sender.recv(100).decode()


def before_the_connection(world: World) -> str:
    """TCP Fast Open: sends without a call to connect."""
    with socket.socket() as sender:
        sender.sendto(b"?", 0x20000000, ("169.254.169.254", 80))  # without a timeout, which would make it not wait
        sender.settimeout(3)
        return sender.recv(100).decode()


def abstract_socket(world: World) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(3)
        connection.connect("\0sartor-battery")
        return connection.recv(100).decode()


# --- system calls -----------------------------------------------------------------------------------------------------


def new_user_namespace(world: World) -> str:
    if LIBC.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    return "capabilities again"


def new_user_namespace_by_clone(world: World) -> str:
    pid = call("clone", CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "capabilities again"


def kernel_keys(world: World) -> str:
    return f"keyring {call('keyctl', 0, -3, 1)}"


def io_uring(world: World) -> str:
    parameters = ctypes.create_string_buffer(256)
    return f"ring {call('io_uring_setup', 4, parameters)}"


def memory_of_sibling(world: World) -> str:
    """Allowed to a profiler alone."""
    secret = ctypes.create_string_buffer(b"in the parent")
    address = ctypes.addressof(secret)
    child = subprocess.run(
        [sys.executable, __file__, "look_into", json.dumps({"pid": os.getpid(), "address": address})],
        capture_output=True,
        text=True,
        check=False,
    )
    if "ESCAPED" not in child.stdout:
        raise DeniedError(child.stdout)
    return child.stdout


def look_into(world: World) -> str:
    class Vector(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    target = ctypes.create_string_buffer(16)
    near, far = Vector(ctypes.addressof(target), 13), Vector(world["address"], 13)
    call("process_vm_readv", world["pid"], ctypes.byref(near), 1, ctypes.byref(far), 1, 0)
    return target.value.decode()


def handles_instead_of_paths(world: World) -> str:
    handle, mount = ctypes.create_string_buffer(256), ctypes.c_int()
    ctypes.memmove(handle, (128).to_bytes(4, "little"), 4)
    call("name_to_handle_at", -100, b"/usr", handle, ctypes.byref(mount), 0)
    return "a handle of /usr"


def hypervisor_socket(world: World) -> str:
    socket.socket(socket.AF_VSOCK).close()
    return "vsock"


def no_address_randomisation(world: World) -> str:
    if LIBC.personality(0x0040000) == -1:
        raise OSError(ctypes.get_errno(), "personality")
    return "ADDR_NO_RANDOMIZE"


def other_architecture(world: World) -> str:
    """getpid by int 0x80: numbers of 32 bit, which a filter for 64 bit would misread."""
    code = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    if function() != os.getpid():
        raise DeniedError("no 32-bit calls here")
    return "a 32-bit call"


def become_root(world: World) -> str:
    os.setuid(0)
    os.chown(world["scratch"], 12345, 12345)
    os.chown(world["scratch"], 0, 0)
    return "with a root's rights"


def main(name: str, world: World) -> int:
    attempt: Callable[[World], str] = globals()[name]
    try:
        print(f"ESCAPED {attempt(world)}", flush=True)
    except (OSError, MemoryError, DeniedError) as error:
        print(f"DENIED {type(error).__name__}: {error}", flush=True)
    return 0


def read_world(text: str) -> World:
    data = base64.b64decode(Path(text[1:]).read_bytes()) if text.startswith("@") else text
    return json.loads(data)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], read_world(sys.argv[2])))
