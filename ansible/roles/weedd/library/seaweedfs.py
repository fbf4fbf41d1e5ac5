#!/usr/bin/python3
"""Finds, stops and starts the SeaweedFS processes of a host, one by one and by their own pids."""

import os
import pwd
import signal
import subprocess
import time

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: seaweedfs
short_description: SeaweedFS processes of a host
description:
  - Finds the processes of this host that are C(weed) master, volume or server, stops them, or starts them
    again as they were.
  - A process is only ever signalled by its own pid, after a look whether that is still the same process. One that
    systemd runs as a service is stopped and disabled there.
author: weedd maintainers
options:
  state:
    description: Whether they are only to be found, or to be stopped, or to run.
    choices: [found, stopped, started]
    default: found
    type: str
  processes:
    description: What C(found) returned before, for the other two.
    type: list
    elements: dict
    default: []
  timeout:
    description: Seconds that a process may take to end.
    type: int
    default: 90
"""

EXAMPLES = r"""
- name: Find them
  seaweedfs:
  register: weed

- name: Stop them
  seaweedfs:
    state: stopped
    processes: "{{ weed.processes }}"
"""

RETURN = r"""
processes:
  description: Those found, or given. The data directories and ports are those of the command line.
  returned: always
  type: list
  elements: dict
"""

ROLES = ("master", "volume", "server")


def read(pid, name):
    with open("/proc/%s/%s" % (pid, name), "rb") as f:
        return f.read()


def began(pid):
    """When a process was started, in ticks since the boot: with the pid it names one process for good."""
    return int(read(pid, "stat").rpartition(b")")[2].split()[19])


def runs(process):
    try:
        state = read(process["pid"], "stat").rpartition(b")")[2].split()[0]
        return began(process["pid"]) == process["began"] and state != b"Z"
    except (OSError, IndexError, ValueError):
        return False


def service(pid):
    """The service of systemd that has the process as its main one, or nothing."""
    unit = ""
    for line in read(pid, "cgroup").decode().splitlines():
        name = line.rsplit("/", 1)[-1]
        if name.endswith(".service"):
            unit = name
    if unit:
        main = subprocess.run(["systemctl", "show", "--property", "MainPID", "--value", unit],
                              capture_output=True, text=True, check=False).stdout.strip()
        if main == str(pid):
            return unit
    return ""


def options(args):
    """The options of a command line in the manner of Go: -name=value, -name value, --name=value, -name."""
    found = {}
    rest = list(args)
    while rest:
        name = rest.pop(0)
        if not name.startswith("-"):
            continue
        name, equals, value = name.lstrip("-").partition("=")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("-") else "true"
        found[name] = value
    return found


def describe(pid):
    """What there is to know of a process, or None if it is none of SeaweedFS's."""
    argv = [a.decode("utf-8", "surrogateescape") for a in read(pid, "cmdline").split(b"\0")[:-1]]
    if not argv or os.path.basename(argv[0]) != "weed":
        return None
    role = next((a for a in argv[1:] if not a.startswith("-")), "")
    if role not in ROLES:
        return None
    cwd = os.readlink("/proc/%s/cwd" % pid)
    opts = options(argv[argv.index(role) + 1:])
    volumes = role in ("volume", "server")
    dirs = [os.path.realpath(os.path.join(cwd, d)) for d in opts.get("dir", "/tmp").split(",")] if volumes else []
    port = {"master": "port", "volume": "port", "server": "volume.port"}[role]
    status = dict(line.split(":", 1) for line in read(pid, "status").decode().splitlines() if ":" in line)
    return {
        "pid": pid,
        "began": began(pid),
        "role": role,
        "argv": argv,
        "exe": os.readlink("/proc/%s/exe" % pid),
        "cwd": cwd,
        "uid": int(status["Uid"].split()[1]),
        "gid": int(status["Gid"].split()[1]),
        "environ": [e.decode("utf-8", "surrogateescape") for e in read(pid, "environ").split(b"\0") if e],
        "output": os.readlink("/proc/%s/fd/1" % pid),
        "unit": service(pid),
        "dirs": dirs,
        "index": opts.get("dir.idx", ""),
        "port": int(opts.get(port, 9333 if role == "master" else 8080)),
        "master_port": int(opts.get("master.port", 9333)) if role == "server" else 0,
    }


def find():
    found = []
    for pid in sorted(int(p) for p in os.listdir("/proc") if p.isdigit()):
        try:
            process = describe(pid)
        except (OSError, KeyError):
            continue  # it ended meanwhile, or is a thread of the kernel
        if process:
            found.append(process)
    return found


def stop(module, processes):
    # Volume servers first, so that they can take leave of their master.
    for p in sorted(processes, key=lambda p: p["role"] == "master"):
        if p["unit"]:
            module.run_command(["systemctl", "disable", "--now", p["unit"]], check_rc=True)
        elif runs(p):
            os.kill(p["pid"], signal.SIGTERM)
        end = time.monotonic() + module.params["timeout"]
        while runs(p):
            if time.monotonic() > end:
                module.fail_json(msg="process %d (%s) does not end; nothing was forced" % (p["pid"], " ".join(p["argv"])))
            time.sleep(0.1)


def start(module, processes):
    for p in sorted(processes, key=lambda p: p["role"] != "master"):
        if p["unit"]:
            module.run_command(["systemctl", "enable", "--now", p["unit"]], check_rc=True)
            continue
        output = p["output"] if os.path.isfile(p["output"]) else os.devnull
        name = pwd.getpwuid(p["uid"]).pw_name
        with open(output, "ab") as out:
            subprocess.Popen(p["argv"], executable=p["exe"], cwd=p["cwd"], env=dict(e.partition("=")[::2] for e in p["environ"]),
                             stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                             user=p["uid"], group=p["gid"], extra_groups=os.getgrouplist(name, p["gid"]))


def same(a, b):
    return a["argv"] == b["argv"] and a["cwd"] == b["cwd"]


def main():
    module = AnsibleModule(supports_check_mode=True, argument_spec={
        "state": {"choices": ["found", "stopped", "started"], "default": "found"},
        "processes": {"type": "list", "elements": "dict", "default": []},
        "timeout": {"type": "int", "default": 90},
    })
    state, processes = module.params["state"], module.params["processes"]
    if state == "found":
        module.exit_json(changed=False, processes=find())
    running = find()
    if state == "stopped":
        todo = [p for p in processes if runs(p)]
    else:
        todo = [p for p in processes if not any(same(p, r) for r in running)]
    if todo and not module.check_mode:
        (stop if state == "stopped" else start)(module, todo)
    module.exit_json(changed=bool(todo), processes=processes)


if __name__ == "__main__":
    main()
