"""What config/ has for packages and operators, checked by the programs that read it: systemd, logrotate, Prometheus, Kubernetes."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path

import kubernetes_validate
import yaml

from kit.deadline import DEADLINE, until
from kit.server import ROOT, Server, binary

CONFIG = ROOT / "config"

# The score of `systemd-analyze security`, from 0 (safe) to 10.
EXPOSURE_MAX = 2.0

# A unit's restrictions that another process can put on, in front of the server: no capability, no new privileges, the
# system calls of SystemCallFilter=.
RESTRICTED = """
import os, sys
allowed, arguments = sys.argv[1].split(), sys.argv[2:]
import pyseccomp
filter = pyseccomp.SyscallFilter(pyseccomp.ERRNO(1))
for name in allowed:
    try:
        filter.add_rule(pyseccomp.ALLOW, name)
    except Exception:
        pass  # a system call of another architecture, or one that this libseccomp does not know
filter.load()
os.execv(arguments[0], arguments)
"""


def run(*command, **options):
    found = shutil.which(command[0], path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if found is None:
        raise AssertionError(f"expected {command[0]}, found none: install Debian's package")
    options = {"capture_output": True, "text": True, "timeout": 60, **options}
    return subprocess.run([found, *command[1:]], check=False, **options)


def directory(test):
    made = Path(tempfile.mkdtemp(prefix="oneport-packaging-"))
    test.addCleanup(shutil.rmtree, made, ignore_errors=True)
    return made


def unit():
    """The settings of oneport.service, each with its values in order."""
    settings = {}
    for line in (CONFIG / "systemd/oneport.service").read_text(encoding="utf-8").splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith(("#", ";")):
            settings.setdefault(name, []).append(value)
    return settings


class Systemd(unittest.TestCase):
    def test_units_are_in_order(self):
        here = directory(self)
        for name in "oneport.service", "oneport.socket":
            text = (CONFIG / "systemd" / name).read_text(encoding="utf-8")
            # The package has these two.
            text = text.replace("/usr/bin/oneport", str(binary())).replace("man:oneport(1)", "man:systemd(1)")
            (here / name).write_text(text, encoding="utf-8")
        done = run("systemd-analyze", "verify", "--man=no", str(here / "oneport.service"), str(here / "oneport.socket"))
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))

    def test_service_is_hardened(self):
        done = run("systemd-analyze", "security", "--offline=true", "--no-pager", str(CONFIG / "systemd/oneport.service"))
        score = re.search(r"Overall exposure level for oneport.service: ([\d.]+)", done.stdout)
        self.assertIsNotNone(score, done.stdout + done.stderr)
        self.assertLess(float(score.group(1)), EXPOSURE_MAX, done.stdout)

    def test_stop_has_more_time_than_a_drain_takes(self):
        stop = int(unit()["TimeoutStopSec"][0].removesuffix("s"))
        self.assertGreater(stop, 30)  # timeouts.drain and drain.delay, by default

    def test_exit_codes_that_another_start_does_not_change_prevent_it(self):
        self.assertEqual(unit()["RestartPreventExitStatus"], ["64 78"])

    def test_server_lives_with_the_system_calls_of_the_unit(self):
        """Starts, serves, writes its database, reloads, drains; one call that the filter refuses would show."""
        allowed = self.calls()
        self.assertIn("epoll_wait", allowed)
        self.assertNotIn("ptrace", allowed)

        def restricted(*command):
            python = [sys.executable, "-c", RESTRICTED, " ".join(sorted(allowed)), *map(str, command)]
            return ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", *python]

        refused = run(*restricted("/usr/sbin/chroot", "/", "/bin/true"))
        self.assertIn("Operation not permitted", refused.stderr, "the filter has no effect")

        def start(command, **options):
            return subprocess.Popen(restricted(*command), **options)

        config = """
        [session]
        store = "sqlite:state.db"

        [http]
        middleware = ["hosts", "session"]

        [[http.route]]
        path = "/files/{*path}"
        view = "static"
        options = { dir = "files" }

        [[websocket.route]]
        path = "/ws/echo/"
        consumer = "echo"
        """
        server = self.enterContext(Server(config, start=start, files={"files/a.bin": b"x" * 300_000}))
        self.assertEqual(len(server.request("/files/a.bin")[2]), 300_000)
        server.reload(config + "\n[[http.route]]\npath = '/x/'\nview = 'respond'\n")
        status, _, _ = server.request("/files/none")
        self.assertEqual(status, 404)
        self.assertTrue((server.directory / "state.db").exists())
        self.assertNotRegex(server.log(), r"(?i)operation not permitted|panicked")
        server.stop()

    def calls(self):
        """The system calls that SystemCallFilter= allows, by name."""
        listed = {}
        name = None
        for line in run("systemd-analyze", "syscall-filter", "--no-pager").stdout.splitlines():
            if line.startswith("@"):
                name = line.strip()
                listed[name] = set()
            elif name and line.startswith("    ") and not line.strip().startswith("#"):
                listed[name].add(line.strip())

        def flat(name):
            found = set()
            for call in listed[name]:
                found |= flat(call) if call.startswith("@") else {call}
            return found

        allowed = set()
        for value in unit()["SystemCallFilter"]:
            for name in value.removeprefix("~").split():
                allowed = allowed - flat(name) if value.startswith("~") else allowed | flat(name)
        # systemd adds it to each list, to start the program.
        return allowed | flat("@default") | {"execve"}


class Logrotate(unittest.TestCase):
    def test_logs_are_rotated_and_the_server_is_told(self):
        here = directory(self)
        (here / "access.log").write_text("a line\n" * 1000, encoding="utf-8")
        text = (CONFIG / "logrotate/oneport").read_text(encoding="utf-8")
        self.assertIn("--signal=USR1 oneport.service", text)
        told = here / "told"
        text = text.replace("/var/log/oneport", str(here)).replace("systemctl kill", f"echo >> {told}; true")
        (here / "oneport").write_text(text, encoding="utf-8")
        os.chmod(here / "oneport", 0o644)
        done = run("logrotate", "--force", "--state", str(here / "state"), str(here / "oneport"))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertTrue((here / "access.log.1").exists())
        self.assertFalse((here / "access.log").exists())
        self.assertEqual(told.read_text(encoding="utf-8"), "\n")


class Manual(unittest.TestCase):
    def pages(self):
        here = directory(self)
        done = run(str(binary()), "man", str(here))
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))
        pages = sorted(here.glob("*.1"))
        self.assertIn(here / "oneport-serve.1", pages)
        return pages

    def test_pages_are_in_order(self):
        pages = [str(page) for page in self.pages()]
        # "oneport-help(1)" and the like would be references to pages that do not exist: not known to mandoc.
        done = run("mandoc", "-T", "lint", *pages)
        complaints = [line for line in done.stdout.splitlines() if "referenced manual not found" not in line]
        self.assertEqual(complaints, [])

    def test_man_shows_each_page(self):
        for page in self.pages():
            environment = {**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MANPAGER": "cat"}
            done = run("man", "--warnings=w", "-l", str(page), env=environment)
            self.assertEqual((done.returncode, done.stderr), (0, ""), page.name)
            self.assertIn("SYNOPSIS", done.stdout)

    def test_a_directory_that_cannot_be_written_is_a_failure(self):
        done = run(str(binary()), "man", "/dev/null/man")
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot write to /dev/null/man", done.stderr)

    def test_bash_takes_the_completions(self):
        script = run(str(binary()), "completions", "bash").stdout
        done = run("bash", "-c", f"{script}\ncomplete -p oneport")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("oneport", done.stdout)


class Kubernetes(unittest.TestCase):
    def setUp(self):
        text = (CONFIG / "kubernetes/oneport.yaml").read_text(encoding="utf-8")
        self.objects = {found["kind"]: found for found in yaml.safe_load_all(text)}

    def test_objects_follow_the_schemas_of_kubernetes(self):
        self.assertEqual(set(self.objects), {"ConfigMap", "Deployment", "Service", "PodDisruptionBudget"})
        for found in self.objects.values():
            for version in "1.30", "1.33":
                kubernetes_validate.validate(found, version, strict=True)

    def test_a_wrong_field_would_be_found(self):
        self.objects["Deployment"]["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(self.objects["Deployment"], "1.30", strict=True)

    def file(self):
        return self.objects["ConfigMap"]["data"]["oneport.toml"]

    def test_pod_has_the_time_that_its_drain_takes(self):
        [delay] = re.findall(r'delay = "(\d+)s"', self.file())
        [drain] = re.findall(r'drain = "(\d+)s"', self.file())
        pod = self.objects["Deployment"]["spec"]["template"]["spec"]
        self.assertGreaterEqual(pod["terminationGracePeriodSeconds"], int(delay) + int(drain) + 5)
        probe = pod["containers"][0]["readinessProbe"]
        self.assertGreater(int(delay), probe["periodSeconds"] * probe["failureThreshold"])

    def test_probes_by_the_pod_s_address_are_answered_by_the_file_of_the_manifest(self):
        container = self.objects["Deployment"]["spec"]["template"]["spec"]["containers"][0]
        paths = [container[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe")]
        config = self.file().replace("${REDIS_URL}", "memory").replace("${POD_NAME}", "pod")
        config = config.replace('delay = "10s"', 'delay = "3s"').replace('format = "json"', 'format = "text"')
        # The kit asks by the loopback address whether the server is up.
        config = re.sub(r"bind +=.*", "", config).replace('["chat.example.com"]', '["chat.example.com", "127.0.0.1"]')
        server = self.enterContext(Server(textwrap.dedent(config)))
        pod = {"Host": "10.1.2.3:8000"}
        # The kit's own route is for allowed hosts only.
        self.assertEqual(server.request("/metrics", headers=pod)[0], 400)
        self.assertEqual([server.request(path, headers=pod)[0] for path in paths], [200, 200])
        server.signal(signal.SIGTERM)
        until(lambda: server.request(paths[0], headers=pod)[0] == 503, "a readiness probe that fails")
        self.assertEqual(server.request(paths[1], headers=pod)[0], 200)
        server.wait()


class Prometheus(unittest.TestCase):
    RULES = CONFIG / "prometheus/oneport.yml"

    def test_rules_are_in_order_and_fire_when_they_should(self):
        for command in ("check", self.RULES), ("test", CONFIG / "prometheus/oneport_test.yml"):
            done = run("promtool", command[0], "rules", str(command[1]), cwd=self.RULES.parent)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_every_alert_has_a_series_that_fires_it(self):
        alerts = set(re.findall(r"alert: (\w+)", self.RULES.read_text(encoding="utf-8")))
        tested = (CONFIG / "prometheus/oneport_test.yml").read_text(encoding="utf-8")
        self.assertEqual(alerts, set(re.findall(r'alertname="(\w+)"', tested)))


class Grafana(unittest.TestCase):
    def test_panels_have_queries_and_none_lies_on_another(self):
        dashboard = json.loads((CONFIG / "grafana/oneport.json").read_text(encoding="utf-8"))
        places = set()
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            for x in range(place["x"], place["x"] + place["w"]):
                for y in range(place["y"], place["y"] + place["h"]):
                    self.assertNotIn((x, y), places, panel["title"])
                    places.add((x, y))
            if panel["type"] != "row":
                self.assertTrue(all(target["expr"] for target in panel["targets"]), panel["title"])
        numbers = [panel["id"] for panel in dashboard["panels"]]
        self.assertEqual(len(set(numbers)), len(numbers))

    def test_prometheus_parses_every_query(self):
        dashboard = json.loads((CONFIG / "grafana/oneport.json").read_text(encoding="utf-8"))
        rules = []
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                query = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$route", ".*")
                rules.append({"record": f"panel:{len(rules)}", "expr": query})
        file = directory(self) / "panels.yml"
        file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
        done = run("promtool", "check", "rules", str(file))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class Docker(unittest.TestCase):
    def test_dockerfile_is_in_order(self):
        hadolint = Path(sys.executable).with_name("hadolint")
        done = run(str(hadolint), str(CONFIG / "docker/Dockerfile"))
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))

    def context(self):
        """What the build reads: a copy of the files that Dockerfile.dockerignore lets in."""
        here = directory(self)
        for line in (CONFIG / "docker/Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines():
            if not line.startswith("!"):
                continue
            source, copy = ROOT / line[1:], here / line[1:]
            self.assertTrue(source.exists(), line)
            copy.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy)
        return here

    def test_cargo_takes_the_manifest_with_what_the_build_copies(self):
        done = run("cargo", "metadata", "--no-deps", "--offline", "--format-version=1", cwd=self.context())
        self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()
