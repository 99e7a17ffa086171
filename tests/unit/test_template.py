"""The part of Go's templates that `--format` knows, and what it says to the rest."""

from __future__ import annotations

from typing import Any

import pytest

from hybrid.cli.format import Field, formatted
from hybrid.cli.template import Open, Template
from hybrid.errors import HybridError

DATA: dict[str, Any] = {
    "Name": "web",
    "State": {"Status": "running", "Running": True, "ExitCode": 0, "Health": None},
    "Cmd": ["nginx", "-g"],
    "Labels": Open(team="a", b="x"),
    "Networks": Open(n1={"IP": "10.0.0.2"}, n0={"IP": "10.0.0.1"}),
    "None": [],
}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("{{.Name}}", "web"),
        ("{{ .Name }}-{{.State.Status}}", "web-running"),
        ("{{.State.Running}} {{.State.ExitCode}} {{.State.Health}}", "true 0 <no value>"),
        ("{{.Cmd}} {{.Labels}}", "[nginx -g] map[b:x team:a]"),
        ("{{json .Cmd}} {{json .Networks.n0}}", '["nginx","-g"] {"IP":"10.0.0.1"}'),
        ("{{json .Name}}", '"web"'),
        ("{{upper .Name}} {{.Name | upper | lower}} {{len .Cmd}}", "WEB web 2"),
        ('{{join .Cmd ", "}} {{.Cmd | len}}', "nginx, -g 2"),
        ('{{index .Labels "team"}} {{index .Cmd 1}} {{index .Labels "none"}}', "a -g <no value>"),
        ("{{.Labels.team}}{{.Labels.missing}}", "a<no value>"),
        ("{{range .Cmd}}<{{.}}>{{end}}", "<nginx><-g>"),
        ("{{range .Networks}}{{.IP}} {{end}}", "10.0.0.1 10.0.0.2 "),
        ("{{range .None}}x{{else}}none{{end}}", "none"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if .State.ExitCode}}bad{{end}}", ""),
        ("{{with .State}}{{.Status}}{{end}}", "running"),
        ("{{if .None}}a{{else}}{{if .Name}}b{{end}}{{end}}", "b"),
        ("a {{- .Name -}} b", "awebb"),
        ("{{`raw`}} {{\"quo\\\"ted\"}}", 'raw quo"ted'),
        ("{{println .Name}}", "web\n"),
    ],
)  # fmt: skip
def test_templates(text: str, shown: str) -> None:
    assert Template(text).render(DATA) == shown


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{.Name", "not closed"),
        ("{{}}", "not understood"),
        ("{{range .Cmd}}x", "no {{end}}"),
        ("{{end}}", "closes nothing"),
        ("{{nothing .Name}}", "nothing is no function"),
        ("{{(.Name)}}", "not understood"),
        ("{{$x := .Name}}", "not understood"),
        ("{{.Name .Cmd}}", "not understood"),
        ("{{.Name | .Cmd}}", "not understood"),
        ("{{.Nmae}}", "no field .Nmae"),
        ("{{.State.Nothing}}", "no field .State.Nothing"),
        ("{{.Name.Status}}", "there is no .Status"),
        ("{{range .Name}}x{{end}}", "range goes over"),
        ('{{index .Cmd "x"}}', "index does not go"),
        ("{{len .State.ExitCode}}", "len does not go"),
        ("{{json}}", "json does not go"),
    ],
)
def test_what_is_not_known_is_an_error(text: str, says: str) -> None:
    with pytest.raises(HybridError) as caught:
        Template(text).render(DATA)
    assert says in caught.value.what
    if text == "{{.Nmae}}":
        assert "Name" in caught.value.mend


FIELDS = (Field("Name", "NAME", usual=True), Field("ID", "ID", usual=True), Field("Status", "STATUS"))
ROWS = [{"Name": "web", "ID": "1", "Status": "Up"}, {"Name": "cache\x1b[2J", "ID": "22", "Status": "Down"}]


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        ("table", ["NAME           ID", "web            1", "cache\\x1b[2J   22"]),
        ("table {{.ID}}\\t{{.Status}}", ["ID   STATUS", "1    Up", "22   Down"]),
        ("table {{upper .Status}}", ["STATUS", "UP", "DOWN"]),
        ("{{.Name}}\\t{{.ID}}", ["web\t1", "cache\\x1b[2J\t22"]),
        ("json", ["[]"]),
    ],
)
def test_lists(form: str, shown: list[str]) -> None:
    assert list(formatted(form, FIELDS, ROWS, [])) == shown
