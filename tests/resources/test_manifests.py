"""Manifests: what is accepted, and for everything that is not, a sentence with file, line and path."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stigmer.errors import InvalidArgument
from stigmer.resources import documents, manifests
from stigmer.resources.manifests import Manifest, ManifestError

DATA = Path(__file__).parent.parent / "data" / "manifests"
AGENT = """\
api_version: agentic.stigmer.ai/v1
kind: Agent
metadata: {name: bot, owner_scope: organization, org: acme}
spec:
  instructions: long enough to pass
"""
WORKFLOW = """\
api_version: agentic.stigmer.ai/v1
kind: Workflow
metadata: {name: flow, owner_scope: organization}
spec:
  document: {dsl: "1.0.0", namespace: a, name: b, version: "1"}
  tasks:
    - name: t
      kind: WORKFLOW_TASK_KIND_CALL_ACTIVITY
      task_config: {activity: x, input: INPUT}
"""


def _one(text: str) -> Manifest:
    (found,) = manifests.parse(text, "m.yaml")
    return found


def _problems(text: str | bytes, source: str = "m.yaml") -> list[str]:
    with pytest.raises(ManifestError) as caught:
        manifests.parse(text, source)
    assert str(caught.value).splitlines()[0] == str(caught.value.problems[0])
    return [str(problem) for problem in caught.value.problems]


# --- accepted ------------------------------------------------------------------------------------------


def test_a_manifest_is_its_message() -> None:
    """Kind, message, slug, file and line are those of the text."""
    found = _one("\n# a comment\n" + AGENT)
    assert (found.kind.name, found.slug, found.where) == ("agent", "bot", "m.yaml:3")
    assert found.message.spec.instructions == "long enough to pass"


def test_several_documents_and_empty_ones() -> None:
    """Documents without content are skipped."""
    text = f"---\n---\n{AGENT}---\n# nothing\n---\n{AGENT.replace('bot', 'other')}..."
    assert [one.slug for one in manifests.parse(text, "m.yaml")] == ["bot", "other"]
    assert manifests.parse("", "m.yaml") == []


def test_field_names_in_camel_case_are_the_same() -> None:
    """Both spellings of a field make the same message."""
    snake = AGENT + "  mcp_servers: [{name: a, stdio: {command: x, working_dir: /}}]\n"
    camel = AGENT.replace("api_version", "apiVersion").replace("owner_scope", "ownerScope")
    camel += "  mcpServers: [{name: a, stdio: {command: x, workingDir: /}}]\n"
    assert _one(snake).message == _one(camel).message


def test_json_is_read_too() -> None:
    """A file of JSON, several values one after the other, and a list of items."""
    agent = {
        "apiVersion": "agentic.stigmer.ai/v1",
        "kind": "Agent",
        "metadata": {"name": "bot", "ownerScope": 2, "org": "acme"},
        "spec": {"instructions": "long enough to pass"},
    }
    other = json.loads(json.dumps(agent).replace("bot", "b2"))
    assert _one(json.dumps(agent)).message == _one(AGENT).message
    lines = f"{json.dumps(agent)}\n{json.dumps(other)}\n"
    assert [one.where for one in manifests.parse(lines, "m.json")] == ["m.json:1", "m.json:2"]
    items = json.dumps({"items": [agent, other]}, indent=2)
    assert [one.slug for one in manifests.parse(items, "m.json")] == ["bot", "b2"]
    assert [one.slug for one in manifests.parse(json.dumps([agent]), "stdin")] == ["bot"]


def test_status_is_dropped_without_a_look() -> None:
    """What `get` printed can be applied again; its status is the system's."""
    assert _one(AGENT + "status: {audit: {spec_audit: 5}}\n").message == _one(AGENT).message


def test_null_is_not_set_and_an_empty_map_is_there() -> None:
    """`null` leaves a field out; `{}` makes an empty message."""
    text = AGENT + "  description:\n  mcp_servers: ~\n  env_spec: {}\n"
    spec = _one(text).message.spec
    assert (spec.description, len(spec.mcp_servers), spec.HasField("env_spec")) == ("", 0, True)


def test_words_of_older_yaml_stay_strings() -> None:
    """In YAML 1.2 `on`, `yes` and a date are strings."""
    text = AGENT + "  description: yes\n  icon_url: 2020-01-01\n"
    spec = _one("%YAML 1.1\n---\n" + text).message.spec
    assert (spec.description, spec.icon_url) == ("yes", "2020-01-01")


def test_an_alias_stands_for_its_anchor() -> None:
    """Aliases are expanded."""
    text = AGENT + "  mcp_servers:\n    - {name: a, enabled_tools: &tools [x, y]}\n"
    text += "    - {name: b, enabled_tools: *tools}\n"
    assert list(_one(text).message.spec.mcp_servers[1].enabled_tools) == ["x", "y"]


def test_free_forms_keep_their_types() -> None:
    """In a Struct a number is a number, a string a string, null null."""
    given = '{n: 1.5, i: 7, h: 0x10, s: "7", b: true, z: null, l: [1, {d: e}], on: off}'
    struct = _one(WORKFLOW.replace("INPUT", given)).message.spec.tasks[0].task_config["input"]
    assert dict(struct)["on"] == "off"
    assert [struct[key] for key in "nihsbz"] == [1.5, 7, 16, "7", True, None]
    assert struct["l"][0] == 1
    assert struct["l"][1]["d"] == "e"


def test_bytes_are_base64() -> None:
    """A callback token is written in base64."""
    text = """
    {api_version: agentic.stigmer.ai/v1, kind: AgentExecution, metadata: {name: x},
     spec: {message: hi, callback_token: aGVsbG8=}}
    """
    assert _one(text).message.spec.callback_token == b"hello"
    (problem,) = _problems(text.replace("aGVsbG8=", "aGVsbG8"))
    assert problem.endswith("spec.callback_token: expected bytes as base64, got other text")


# --- refused -------------------------------------------------------------------------------------------

# What is put below the spec of an agent -> the problem, which is always in line 6.
BAD_SPEC = [
    ("descriptoin: x", "spec.descriptoin: unknown field; did you mean description?"),
    ("frobnicate: x", "spec.frobnicate: unknown field; AgentSpec has: description, icon_url, instructions, "),
    ("<<: {a: b}", 'spec["<<"]: unknown field; merge keys are not part of YAML 1.2'),
    (
        "mcpServers: [github]",
        "spec.mcp_servers[0]: expected a message (McpServerDefinition: name, stdio | http | docker, enabled_tools), "
        'got the string "github"',
    ),
    ("mcp_servers: github", "spec.mcp_servers: expected a list (each entry a message (McpServerDefinition: "),
    (
        "mcp_servers: [{name: a, stdio: x}]",
        "spec.mcp_servers[0].stdio: expected a message (StdioServer: command, ",
    ),
    ("mcp_servers: [{stdio: {command: x}}]", "spec.mcp_servers[0].name: is required"),
    (
        "mcp_servers: [{name: a, stdio: {command: x}, http: {url: y}}]",
        "spec.mcp_servers[0].http: cannot be given together with stdio: only one of them can be",
    ),
    (
        "mcp_servers: [{name: a, http: {url: y, timeout_seconds: 1.5}}]",
        "spec.mcp_servers[0].http.timeout_seconds: expected a whole number, got the number 1.5",
    ),
    (
        'mcp_servers: [{name: a, http: {url: y, timeout_seconds: "5"}}]',
        'timeout_seconds: expected a whole number, got the string "5"; write it without quotes',
    ),
    (
        "mcp_servers: [{name: a, http: {url: y, timeout_seconds: 3000000000}}]",
        "timeout_seconds: 3000000000 is out of range: -2147483648 to 2147483647",
    ),
    (
        "description: 1.10",
        'spec.description: expected a string, got the number 1.10; put it in quotes: "1.10"',
    ),
    ("description: true", 'spec.description: expected a string, got true; put it in quotes: "true"'),
    ("description: [a]", "spec.description: expected a string, got a list"),
    ("instructions: again", "spec.instructions: is given twice"),
    ("env_spec: {data: [a]}", "spec.env_spec.data: expected a map of names to a message (EnvironmentValue: "),
    ("env_spec: {data: {A: {value: x}, A: {}}}", "spec.env_spec.data.A: is given twice"),
    (
        'env_spec: {data: {A: {is_secret: "true"}}}',
        "data.A.is_secret: expected true or false, got the string",
    ),
    ("skill_refs: [{kind: skil, slug: x}]", 'kind: "skil" is no ApiResourceKind; did you mean skill?'),
    ("skill_refs: [{kind: [], slug: x}]", "spec.skill_refs[0].kind: expected one of api_resource_version, "),
    (
        "skill_refs: [{kind: 43, slug: x, scope: 9}]",
        "skill_refs[0].scope: 9 is no value of ApiResourceOwnerScope",
    ),
    (
        "skill_refs: [{kind: 43.5, slug: x}]",
        "expected the name or number of an enum's value, got the number 43.5",
    ),
    ("skill_refs: [{kind: agent, slug: x}]", "spec.skill_refs[0].kind: must be skill; it is agent"),
    ("skill_refs: [{kind: skill, version: a/b}]", "spec.skill_refs[0].version: "),
]


@pytest.mark.parametrize(("line", "problem"), BAD_SPEC, ids=[line for line, _ in BAD_SPEC])
def test_what_is_wrong_in_a_spec_is_named(line: str, problem: str) -> None:
    """File, line and path, what was expected, and what came."""
    (found,) = _problems(f"{AGENT}  {line}\n")
    assert found.startswith("m.yaml:6: spec")
    assert problem in found


@pytest.mark.parametrize(
    ("text", "command"),
    [
        (f"{AGENT}  descriptoin: x\n", "stigmer explain agent.spec"),
        (
            f"{AGENT}  mcp_servers: [{{name: a, http: {{url: [y]}}}}]\n",
            "stigmer explain agent.spec.mcp_servers.http.url",
        ),
        (f"{AGENT}  env_spec: {{data: {{A: {{value: [y]}}}}}}\n", "stigmer explain agent.spec.env_spec.data"),
        ("items: [{kind: Agent, metadata: {nme: x}}]", "stigmer explain agent.metadata"),
        ("kind: Agnet", "stigmer kinds"),
    ],
)
def test_the_hint_is_the_command_that_explains_the_place(text: str, command: str) -> None:
    """It can be typed as it is."""
    with pytest.raises(ManifestError) as caught:
        manifests.parse(text, "m.yaml")
    assert caught.value.hint == f"see what there is: {command}"


BAD_TEXT = [
    ("a: b: c", "m.yaml:1: not YAML: mapping values are not allowed here"),
    ("a:\n\tb: c", "m.yaml:2: not YAML: a tab where none can be; YAML is indented with spaces"),
    ("a: [1\nb: 2", "m.yaml:2: not YAML: "),
    ("a: *b", "m.yaml:1: the alias *b stands for nothing before it"),
    ("a: &a [*a]", "m.yaml:1: the alias *a stands for what it is inside of"),
    ("? [a]\n: b", "m.yaml:1: a key must be a plain word, not a list or a map"),
    ("a: !!python/object:os.system x", "m.yaml:1: the tag "),
    ("a: \x00", "m.yaml:1: not YAML: it contains U+0000"),
    ('a:\n - "\\ud800"', "m.yaml:2: an escape stands for half a character (a lone surrogate)"),
    (b"a: b\nc: \xff", "m.yaml:2: not UTF-8 text: byte 0xff; save the file as UTF-8"),
    ("just words", "m.yaml:1: expected a manifest (api_version, kind, metadata, spec), got the string"),
    ("- x", "m.yaml:1: [0]: expected a manifest"),
    ("metadata: {}", "m.yaml:1: kind: is missing; there is: Agent, AgentExecution, "),
    ("kind: Agnet", 'm.yaml:1: kind: the string "Agnet" is not a kind; there is: Agent, AgentExecution, '),
    ("kind: agents", 'm.yaml:1: kind: the string "agents" is not a kind; did you mean Agent?'),
    ("kind: 5", "m.yaml:1: kind: the number 5 is not a kind; there is: "),
    (AGENT.replace("name: bot, ", ""), "m.yaml:3: metadata.name: is missing: every resource has a name"),
    (AGENT.replace("name: bot", 'name: " "'), "m.yaml:3: metadata.name: is missing"),
    (AGENT.replace("name: bot", 'name: "ÄÖ"'), "m.yaml:3: metadata.name: "),
    (AGENT.replace("name: bot", "name: bot, id: a/b"), "m.yaml:3: metadata.id: "),
    (AGENT.replace("metadata", "meta"), "m.yaml:1: metadata: is required"),
    (
        AGENT.replace("owner_scope: organization, ", ""),
        "m.yaml:3: metadata.owner_scope: must be platform or ",
    ),
    (
        AGENT.replace("stigmer.ai/v1", "stigmer.ai/v2"),
        'm.yaml:1: api_version: must be "agentic.stigmer.ai/v1", is ',
    ),
]


@pytest.mark.parametrize(("text", "problem"), BAD_TEXT, ids=[repr(text)[:40] for text, _ in BAD_TEXT])
def test_what_is_wrong_in_a_text_is_named(text: str | bytes, problem: str) -> None:
    """Whatever the text holds, the answer is a sentence with a line."""
    assert any(found.startswith(problem) for found in _problems(text)), _problems(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1,\n "b": }', "m.json:2: not JSON: Expecting value"),
        ('{"a": NaN}', "m.json:1: not JSON: NaN is not a number that JSON has"),
        ("a: b", "m.json:1: not JSON: Expecting value"),
        ('{"kind": "Agent", "kind": "Skill"}', "m.json:1: kind: is given twice"),
    ],
)
def test_what_is_wrong_in_json_is_named(text: str, problem: str) -> None:
    """JSON's problems have lines too."""
    assert any(found.startswith(problem) for found in _problems(text, "m.json"))


def test_all_problems_of_a_file_are_reported_together() -> None:
    """The file of broken manifests makes exactly this report."""
    text = (DATA / "broken.yaml").read_text(encoding="utf-8")
    with pytest.raises(ManifestError) as caught:
        manifests.parse(text, "broken.yaml")
    assert str(caught.value) + "\n" == (DATA / "broken.txt").read_text(encoding="utf-8")


def test_a_secret_is_never_shown_in_a_problem() -> None:
    """Of a secret of the wrong type, or that stands a step too high, only the type is told."""
    text = "{kind: Environment, metadata: {name: x}, spec: {data: {A: {value: 9876, is_secret: true}}}}"
    assert "9876" not in "".join(_problems(text))
    for data in "{A: s3cret}", "{A: [s3cret]}", "s3cret":
        problems = "".join(_problems(f"{{kind: Environment, metadata: {{name: x}}, spec: {{data: {data}}}}}"))
        assert "s3cret" not in problems
        assert "got a " in problems


def test_a_masked_secret_is_refused_with_a_hint() -> None:
    """What was printed with its secrets hidden must not replace them when it comes back."""
    text = """
api_version: agentic.stigmer.ai/v1
kind: Environment
metadata: {name: x, owner_scope: organization}
spec: {data: {A: {value: "(secret, not shown)", is_secret: true}}}
"""
    (problem,) = _problems(text)
    assert problem.startswith("m.yaml:5: spec.data.A.value: is the text that stands for a secret")
    assert "--show-secrets" in problem


def test_whole_numbers_that_would_lose_digits_are_refused() -> None:
    """A Struct holds doubles: an id of 17 digits must be quoted."""
    assert "quotes" in _problems(WORKFLOW.replace("INPUT", "{id: 9007199254740993}"))[0]
    for number in ("1e999", ".inf", ".nan", "9" * 5000, "0x" + "f" * 5000):
        assert "not a number that can be kept" in _problems(WORKFLOW.replace("INPUT", f"{{id: {number}}}"))[0]
    _one(WORKFLOW.replace("INPUT", "{id: 9007199254740992}"))


def test_problems_are_many_but_a_message_is_not_endless() -> None:
    """The message shows the first ones and counts the rest; the exception has them all."""
    text = AGENT + "".join(f"  field{number}: x\n" for number in range(200))
    with pytest.raises(ManifestError) as caught:
        manifests.parse(text, "m.yaml")
    assert len(caught.value.problems) == 200
    assert str(caught.value).splitlines()[-1] == "... and 150 more"
    assert isinstance(caught.value, InvalidArgument)


# --- bounds --------------------------------------------------------------------------------------------


def _quickly(text: str, source: str = "m.yaml") -> str:
    started = time.process_time()  # what a busy machine gives to others does not count
    problem = _problems(text, source)[0]
    assert time.process_time() - started < 10
    return problem


def test_a_bomb_of_aliases_is_refused_at_once() -> None:
    """Ten aliases in each of twenty levels are counted, not built."""
    bomb = "a0: &a0 [x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 20))
    assert "comes to more than 32 MiB with its aliases expanded" in _quickly(bomb)
    assert "comes to more than 32 MiB" in _quickly(f"a: &a {'x' * 1_000_000}\nb: [{', '.join(['*a'] * 40)}]")


@pytest.mark.parametrize("text", ["[" * 50_000, "- " * 50_000 + "x", "{a: " * 50_000, '{"a":' * 50_000])
def test_deep_nesting_is_refused(text: str) -> None:
    """No text makes Python run out of stack, as YAML or as JSON."""
    assert "more than 64 lists and maps inside each other" in _quickly(text)
    assert "inside each other" in _quickly("[" * 100_000 + "]" * 100_000, "m.json")


def test_depth_by_aliases_is_refused() -> None:
    """Aliases of aliases are as deep as what they stand for."""
    chain = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 2000))
    assert "more than 64 lists and maps inside each other" in _quickly(chain)


def test_a_struct_that_protobuf_could_not_read_again_is_refused() -> None:
    """Within the bound of the text, but beyond protobuf's own."""
    for deep in ("[" * 48 + "]" * 48, "{a: " * 50 + "b" + "}" * 50):
        assert "too deep in each other to be kept" in _problems(WORKFLOW.replace("INPUT", f"{{x: {deep}}}"))[0]


def test_a_file_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not even looked at."""
    file = tmp_path / "large.yaml"
    with file.open("wb") as stream:
        stream.truncate(documents.TEXT_BYTES_MAX + 1)
    with pytest.raises(ManifestError, match="is larger than 16 MiB"):
        manifests.load([str(file)])


@given(
    st.text(st.sampled_from("ab:- \n\t[]{},&*!|>'\"%@`#?~<=0123.\\\x85\u2028\ufeffé\U0001f600"))
    | st.text()
    | st.binary()
)
@settings(deadline=None)  # the first example imports the YAML library
def test_no_text_makes_anything_but_manifests_or_their_error(text: str | bytes) -> None:
    """Whatever is read, as YAML or as JSON, alone or where a value is expected."""
    for content, source in [(text, "m.yaml"), (text, "m.json"), (f"{AGENT}  description: {text!s}\n", "m.yaml")]:
        with contextlib.suppress(ManifestError):
            manifests.parse(content, source)


# --- files ---------------------------------------------------------------------------------------------


def test_a_directory_is_read_in_order_without_hidden_files(tmp_path: Path) -> None:
    """All manifests below it, sorted by path."""
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("z.yaml", "a.yml", "b/c.json", "README.md", ".hidden.yaml", ".git/x.yaml"):
        text = AGENT.replace("bot", name[0])
        (tmp_path / name).write_text(json.dumps({"kind": "Agent"}) if name.endswith("json") else text)
    (tmp_path / "b/c.json").write_text(
        '{"kind": "McpServer", "api_version": "agentic.stigmer.ai/v1", "metadata": {"name": "c"}}'
    )
    found = manifests.load([str(tmp_path)])
    assert [os.path.relpath(one.source, tmp_path) for one in found] == ["a.yml", "b/c.json", "z.yaml"]


def test_stdin_files_and_directories_can_be_mixed(tmp_path: Path) -> None:
    """ "-" is what the caller reads; problems of all sources are one report."""
    file = tmp_path / "a.yaml"
    file.write_text(AGENT)
    other = AGENT.replace("bot", "other").encode()
    found = manifests.load(["-", str(file)], lambda _size: other)
    assert [(one.slug, one.source) for one in found] == [("other", "stdin"), ("bot", str(file))]
    with pytest.raises(ManifestError) as caught:
        manifests.load(["-", str(tmp_path / "none.yaml"), str(tmp_path)], lambda _size: b"kind: x")
    sources = [problem.source for problem in caught.value.problems]
    assert sources == ["stdin", str(tmp_path / "none.yaml")]
    assert "No such file" in caught.value.problems[1].problem


def test_a_directory_without_manifests_is_a_problem(tmp_path: Path) -> None:
    """Nothing to do is more likely a wrong path than a wish."""
    with pytest.raises(ManifestError, match=r"has no manifest in it \(\*.yaml, \*.yml, \*.json\)"):
        manifests.load([str(tmp_path)])


def test_two_manifests_of_one_resource_are_refused_naming_both() -> None:
    """The same kind, organization and slug, or the same id; another organization is another resource."""
    (problem,) = _problems(f"{AGENT}---\n{AGENT.replace('name: bot', 'name: Bot')}")
    assert problem == (
        'm.yaml:7: metadata.slug: the agent with the slug "bot" in organization "acme" is given already by m.yaml:1'
    )
    with_id = AGENT.replace("name: bot", "name: bot, id: agt-1")
    (problem,) = _problems(f"{with_id}---\n{with_id.replace('name: bot', 'name: other')}")
    assert "the agent with the id" in problem
    assert len(manifests.parse(f"{AGENT}---\n{AGENT.replace('acme', 'other')}", "m.yaml")) == 2
