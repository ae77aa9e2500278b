"""The files of `examples/deploy` are what the programs that read them accept.

Each is given to the program that it is for. Where that is not installed the test is skipped, by the
program's name; what needs none of them always runs.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import trustme
import yaml

from support.cli import environment, start

pytestmark = pytest.mark.alike

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "examples" / "deploy"
COMMAND = "/opt/comptroller/bin/comptroller"


def accepted_by(program, *words, **settings):
    """What `program` says of it on stderr; it has to accept it."""
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed")
    said = subprocess.run(
        [found, *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
        **settings,
    )
    assert said.returncode == 0, said.stderr
    return said.stderr


def lines(name, word):
    """The rest of each line of a file that begins with `word`, continued lines joined."""
    text = (DEPLOY / name).read_text().replace("\\\n", " ")
    return re.findall(rf"^{word}\s+(.*)", text, re.MULTILINE)


@pytest.mark.parametrize(
    "unit", ["comptroller.service", "comptroller-backup.service", "comptroller-backup.timer"]
)
def test_systemd_knows_every_word_of_a_unit(unit, tmp_path):
    """Its program and its user are of the machine that it is for."""
    for path in DEPLOY.glob("comptroller*.*"):
        text = path.read_text().replace(COMMAND, shutil.which("true"))
        (tmp_path / path.name).write_text(text.replace("User=comptroller", "User=root"))
    assert accepted_by("systemd-analyze", "verify", "--man=no", tmp_path / unit) == ""


@pytest.mark.parametrize("unit", ["comptroller.service", "comptroller-backup.service"])
def test_the_commands_of_units_are_ours(unit):
    from typer.main import get_command

    from comptroller.cli import app

    [line] = re.findall(r"^ExecStart=(.*)", (DEPLOY / unit).read_text(), re.MULTILINE)
    words = shlex.split(line)
    if words[0] == "/bin/sh":
        words = shlex.split(words[2].removeprefix("exec "))
    assert words[0] == COMMAND
    command = get_command(app).commands[words[1]]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_a_service_is_let_end_in_order():
    """Its patience is longer than the grace that the server takes."""
    text = (DEPLOY / "comptroller.service").read_text()
    grace, patience = (int(re.search(rf"{name}(\d+)", text)[1]) for name in
                       ("--grace ", "TimeoutStopSec="))  # fmt: skip
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    stop = int(compose["services"]["comptroller"]["stop_grace_period"].removesuffix("s"))
    assert min(patience, stop) > grace


class TestContainer:
    def test_it_is_built_of_what_a_build_needs(self):
        """Where a file that pyproject.toml names were not copied, the build would fail."""
        copied = {word for line in lines("Containerfile", "COPY") for word in line.split()[:-1]}
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        needed = {project["project"]["readme"], *project["project"]["license-files"]}
        packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
        needed |= {"pyproject.toml", *(Path(path).parts[0] for path in packages)}
        assert needed == copied
        assert all((ROOT / path).exists() for path in copied)

    def test_it_installs_an_extra_that_there_is(self):
        [install, user] = lines("Containerfile", "RUN")
        assert shlex.split(install)[-1] == ".[serve]"
        assert "--uid 10001" in user
        assert lines("Containerfile", "USER") == ["comptroller"]

    def test_what_it_runs_serves_and_is_found_healthy(self, tmp_path):
        """Its command and its health check are run here, at another port."""
        [entry], [command] = (
            map(json.loads, lines("Containerfile", word)) for word in ("ENTRYPOINT", "CMD")
        )
        assert entry == ["comptroller"]
        [check] = re.findall(r"CMD (\[.*\])$", lines("Containerfile", "HEALTHCHECK")[0])
        words = ["0" if word == "7878" else word for word in command]
        ledger = environment(COMPTROLLER_LEDGER=str(tmp_path / "ledger.db"))
        with start(*words, env=ledger) as child:
            try:
                [port] = re.findall(r":(\d+)$", child.stdout.readline().strip())
                warning = json.loads(child.stderr.readline())
                assert "plain HTTP on 0.0.0.0" in warning["message"]
                python, *rest = (word.replace("7878", port) for word in json.loads(check))
                assert python == "python"
                subprocess.run([sys.executable, *rest], check=True, timeout=100)
            finally:
                child.kill()

    def test_the_composition_is_one(self):
        jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
        schema = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text())
        composed = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
        jsonschema.Draft7Validator(schema).validate(composed)
        built = composed["services"]["comptroller"]["build"]
        context = (DEPLOY / built["context"]).resolve()
        assert context == ROOT
        assert (context / built["dockerfile"]).is_file()
        named = {
            mount.partition(":")[0]
            for service in composed["services"].values()
            for mount in service["volumes"]
        }
        assert {name for name in named if not name.startswith(".")} == set(composed["volumes"])
        assert all((DEPLOY / name).is_file() for name in named if name.startswith("."))


class TestProxies:
    def test_nginx_reads_its_configuration(self, tmp_path):
        certificate = trustme.CA().issue_cert("budgets.example.com")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
        text = (DEPLOY / "nginx.conf").read_text().replace("/etc/ssl/comptroller", str(tmp_path))
        (tmp_path / "site.conf").write_text(text)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        places = " ".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)
        (tmp_path / "nginx.conf").write_text(
            f"pid {tmp_path}/pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; {places} include {tmp_path}/site.conf; }}\n"
        )
        said = accepted_by("nginx", "-t", "-e", "stderr", "-p", tmp_path, "-c",
                           tmp_path / "nginx.conf")  # fmt: skip
        assert "test is successful" in said
        assert "[warn]" not in said

    def test_caddy_reads_its_configuration(self, tmp_path):
        home = {**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
        words = ("validate", "--adapter", "caddyfile", "--config", DEPLOY / "Caddyfile")
        assert '"level":"warn"' not in accepted_by("caddy", *words, env=home)

    @pytest.mark.parametrize("name", ["nginx.conf", "Caddyfile"])
    def test_neither_shows_the_counts_to_the_world(self, name):
        text = (DEPLOY / name).read_text()
        assert "/metrics" in text
        assert "/healthz" in text


class TestPrometheus:
    def test_promtool_accepts_scrapes_and_rules(self):
        accepted_by("promtool", "check", "config", DEPLOY / "prometheus.yml")

    def test_rules_are_of_metrics_that_there_are(self):
        page = (ROOT / "docs" / "operating.md").read_text()
        table = page.partition("## What Prometheus is told")[2].partition("\n## ")[0]
        known = set(re.findall(r"^\| `(comptroller_\w+)", table, re.MULTILINE))
        rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
        used = {
            name.removesuffix("_bucket")
            for rule in rules
            for name in re.findall(r"comptroller_\w+", rule["expr"])
        }
        assert len(rules) > 4
        assert used <= known


def test_every_file_is_named_in_the_documentation():
    page = (ROOT / "docs" / "operating.md").read_text()
    assert [path.name for path in DEPLOY.iterdir() if path.name not in page] == []
