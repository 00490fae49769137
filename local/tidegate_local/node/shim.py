"""Stands between the agent and one container: builds its world, starts it, writes its log and its end.

A program of its own (standard library alone, started with `python -I -S`), so that a killed agent takes no container
with it. It reads one JSON specification from stdin and leaves three files in the specification's folder:

| file         | when                   | holds                                                                        |
|--------------|------------------------|------------------------------------------------------------------------------|
| running.json | the command has begun  | pid, start_ticks (field 22 of /proc/PID/stat), started_at                    |
| log          | all the time           | `TIME STREAM F|P TEXT` lines, as the kubelet's                               |
| exit.json    | it has ended, or never | exit_code, finished_at, oom_kills, error (why it could not start, else "")   |
|              | began                  |                                                                              |

A byte on stdout says that one of the two JSON files is there. The container's world: mount, PID, cgroup, IPC and UTS
namespaces of its own; a root of read-only binds; a uid without capabilities that can gain none. The network is shared.
"""

# Importing pathlib would double the start-up time of every container.
# ruff: noqa: PTH102, PTH103, PTH104, PTH106, PTH110, PTH112, PTH120, PTH123, PTH211

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import selectors
import signal
import stat
import sys
import time
from typing import Any, NoReturn

_LOG_BYTES = 10 * 1024 * 1024
_LINE_BYTES = 16 * 1024

_CLONE_NEWNS, _CLONE_NEWCGROUP, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
_CLONE_NEWUSER, _CLONE_NEWPID = 0x10000000, 0x20000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_RDONLY, _MS_BIND = 2, 4, 8, 32, 1, 4096
_MS_REC, _MS_PRIVATE = 16384, 1 << 18
_MNT_DETACH = 2
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC, _MOVE_MOUNT_F_EMPTY_PATH = 1, os.O_CLOEXEC, 4
_MOUNT_ATTRS = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8}
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
# The newer calls have one number on every architecture; pivot_root is older than that agreement.
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    _fields_ = [
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("fd", ctypes.c_uint64),
    ]


def _checked(result: int, doing: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{doing}: {os.strerror(number)}")
    return result


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    encoded = [text.encode() for text in (source, target, kind)]
    _checked(_libc.mount(*encoded, ctypes.c_ulong(flags), data.encode()), f"mount {kind or source} on {target}")


def _unshare(flags: int) -> None:
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


# -- the parent: waits, writes


def main() -> None:
    """Run the container of the specification on stdin to its end."""
    specification = json.loads(sys.stdin.buffer.read())
    # The lock says that this process lives: the container must not hold it too.
    os.set_inheritable(specification["lock"], False)
    os.chdir(specification["folder"])
    os.umask(0o077)
    try:
        _supervise(specification)
    except OSError as error:
        _write_exit({"exit_code": 128, "finished_at": time.time(), "oom_kills": 0, "error": str(error)})
        _say_ready()


def _supervise(specification: dict[str, Any]) -> None:
    if specification["rootless"]:
        _enter_user_namespace(0, 0)
    _unshare(_CLONE_NEWPID)
    streams = {name: os.pipe() for name in ("stdout", "stderr")}
    failed_read, failed_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become_container(specification, streams["stdout"][1], streams["stderr"][1], failed_write)
    for descriptor in (failed_write, *(write for _, write in streams.values())):
        os.close(descriptor)
    with os.fdopen(failed_read, "rb") as pipe:
        failure = pipe.read().decode()
    if not failure:
        running = {"pid": pid, "start_ticks": _start_ticks(pid), "started_at": time.time()}
        _write_json("running.json", running)
        _say_ready()
        _write_log({read: name for name, (read, _) in streams.items()})
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    code = 128 - code if code < 0 else code
    kills = _oom_kills(specification["oom_file"])
    if failure and kills:
        # The memory limit was too small even for the set-up: that is the limit's fault, not the command's.
        failure, code = "", 137
    exit_code = 128 if failure else code
    _write_exit({"exit_code": exit_code, "finished_at": time.time(), "oom_kills": kills, "error": failure})
    _say_ready()


def _say_ready() -> None:
    try:
        os.write(1, b"\n")
    except OSError:
        # The agent has gone; its successor reads the files.
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _write_json(name: str, content: dict[str, Any]) -> None:
    with open(f".{name}", "w") as file:
        json.dump(content, file)
    os.rename(f".{name}", name)


def _write_exit(content: dict[str, Any]) -> None:
    _write_json("exit.json", content)


def _start_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def _oom_kills(path: str) -> int:
    """Kills by the container's own limit: `oom_kill N` in memory.oom_control (v1) or memory.events (v2)."""
    with open(path) as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("oom_kill "))


def _write_log(streams: dict[int, str]) -> None:
    """Copy both pipes to the log until the last writer is gone."""
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    written = 0
    waiting = selectors.DefaultSelector()
    pending = dict.fromkeys(streams, b"")
    for descriptor in streams:
        waiting.register(descriptor, selectors.EVENT_READ)
    while waiting.get_map():
        for key, _ in waiting.select():
            chunk = os.read(key.fd, 65536)
            if not chunk:
                waiting.unregister(key.fd)
            text, pending[key.fd] = _log_lines(pending[key.fd] + chunk, streams[key.fd], ended=not chunk)
            if written + len(text) > _LOG_BYTES:
                os.rename("log", "log.1")
                os.close(log)
                log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                written = 0
            written += len(text)
            while text:
                text = text[os.write(log, text) :]
    os.close(log)


def _log_lines(data: bytes, stream: str, *, ended: bool) -> tuple[bytes, bytes]:
    """The log text of the whole lines in `data`, and what is left of it."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z"
    whole, partial = f"{moment} {stream} F ".encode(), f"{moment} {stream} P ".encode()
    lines = data.split(b"\n")
    rest = lines.pop()
    out = []
    for line in lines:
        while len(line) > _LINE_BYTES:
            out += [partial, line[:_LINE_BYTES], b"\n"]
            line = line[_LINE_BYTES:]
        out += [whole, line, b"\n"]
    while len(rest) > _LINE_BYTES or (ended and rest):
        out += [partial, rest[:_LINE_BYTES], b"\n"]
        rest = rest[_LINE_BYTES:]
    return b"".join(out), rest


# -- the child: builds the world, drops what it does not need, becomes the command


def _become_container(specification: dict[str, Any], stdout: int, stderr: int, failed: int) -> NoReturn:
    try:
        os.umask(0o022)
        os.setsid()
        _unshare(_CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWIPC)
        hostname = specification["hostname"].encode()
        _checked(_libc.sethostname(hostname, len(hostname)), "sethostname")
        _build_root(specification)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        _drop_privileges(
            specification["uid"], specification["gid"], specification["groups"], rootless=specification["rootless"]
        )
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        _execute(specification["argv"], specification["environment"], specification["working_directory"])
    except BaseException as error:  # noqa: BLE001 - a fork must never return into its parent's code
        words = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
        os.write(failed, words.encode()[:2048])
    os._exit(128)


def _execute(argv: list[str], environment: dict[str, str], directory: str) -> NoReturn:
    try:
        os.chdir(directory)
    except OSError as error:
        raise OSError(error.errno, f"working directory {directory!r}: {error.strerror}") from None
    try:
        os.execvpe(argv[0], argv, environment)  # noqa: S606
    except OSError as error:
        missing = error.errno == errno.ENOENT
        why = "executable file not found in $PATH" if missing and "/" not in argv[0] else os.strerror(error.errno or 0)
        raise OSError(error.errno, f"exec: {argv[0]!r}: {why}") from None


def _enter_user_namespace(uid: int, gid: int) -> None:
    """Become `uid` in a user namespace of one's own: what an ordinary user needs for mounts."""
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    _unshare(_CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {outer_uid} 1"), ("gid_map", f"{gid} {outer_gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _build_root(specification: dict[str, Any]) -> None:
    """A root of the specification's mounts alone; the machine's own is gone when this returns.

    Sources are opened before the change of root, targets are resolved after it: no link that a container left in a
    volume can lead a mount, or the folder made for it, out of the container.
    """
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    mounts = [(each, _source(each)) for each in specification["mounts"]]
    joined = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in specification["cgroup_procs"]]
    root = specification["root"]
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755,size=16m")
    old = f"{root}/.machine"
    os.mkdir(old)
    os.chdir(root)
    number = _SYS_PIVOT_ROOT[os.uname().machine]
    _checked(_libc.syscall(ctypes.c_long(number), b".", b".machine"), "pivot_root")
    os.chdir("/")
    for each, tree in mounts:
        _attach(each, tree)
    for path, destination in specification["links"].items():
        _make_parents(path)
        os.symlink(destination, path)
    _checked(_libc.umount2(b"/.machine", _MNT_DETACH), "umount the machine's root")
    os.rmdir("/.machine")
    for descriptor in joined:
        os.write(descriptor, b"0")
        os.close(descriptor)
    _unshare(_CLONE_NEWCGROUP)
    if specification["read_only_root"]:
        _mount("none", "/", "", _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)


def _source(mount: dict[str, Any]) -> int:
    """A detached copy of what is to be mounted; -1 for file systems that the kernel makes."""
    if mount["kind"] != "bind":
        return -1
    descriptor = os.open(mount["source"], os.O_PATH | os.O_CLOEXEC)
    # Folders that containers write to are walked step by step: a link among the steps is refused.
    for step in filter(None, mount["inside"].split("/")):
        try:
            inner = os.open(step, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
        except FileNotFoundError:
            if not mount["creates"]:
                raise
            # Whoever runs here is not who made the folder: it is open to all, as the volume itself is. By umask, for
            # a chmod by name could be led elsewhere by a link.
            before = os.umask(0)
            os.mkdir(step, 0o777, dir_fd=descriptor)
            os.umask(before)
            inner = os.open(step, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
        if stat.S_ISLNK(os.fstat(inner).st_mode):
            raise OSError(errno.ELOOP, f"{mount['source']}/{mount['inside']}: links are not followed in volumes")
        os.close(descriptor)
        descriptor = inner
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_EMPTY_PATH | _AT_RECURSIVE
    tree = _checked(_libc.syscall(_SYS_OPEN_TREE, descriptor, b"", flags), f"open {mount['source']}")
    os.close(descriptor)
    attributes = _MountAttr(sum(_MOUNT_ATTRS[name] for name in mount["options"]), 0, 0, 0)
    flags = _AT_EMPTY_PATH | _AT_RECURSIVE
    size = ctypes.sizeof(attributes)
    result = _libc.syscall(_SYS_MOUNT_SETATTR, tree, b"", flags, ctypes.byref(attributes), ctypes.c_size_t(size))
    _checked(result, f"set {mount['options']} on {mount['source']}")
    return int(tree)


def _attach(mount: dict[str, Any], tree: int) -> None:
    target = mount["target"]
    _make_parents(target)
    if tree >= 0 and not stat.S_ISDIR(os.fstat(tree).st_mode):
        if not os.path.exists(target):
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    elif not os.path.isdir(target):
        os.mkdir(target, 0o755)
    if tree >= 0:
        flags = _MOVE_MOUNT_F_EMPTY_PATH
        _checked(_libc.syscall(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, target.encode(), flags), f"mount on {target}")
        os.close(tree)
    else:
        _mount(mount["kind"], target, mount["kind"], _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, mount["data"])


def _make_parents(path: str) -> None:
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)


def _drop_privileges(uid: int, gid: int, groups: list[int], *, rootless: bool) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if rootless:
        _enter_user_namespace(uid, gid)
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    for capability in range(last + 1):
        _checked(_libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), "drop capability")
    if not rootless:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs")
    # After the change of uid, which clears it: a container never outlives the one that writes its log and its end.
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "set the parent-death signal")


if __name__ == "__main__":
    main()
