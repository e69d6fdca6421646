"""The entry point: quick help, exit codes, quiet pipes."""

import json
import os
import subprocess
import sys
import time
from importlib import import_module

import pytest

from m4v import __version__
from m4v.cli.json_output import with_explicit_target
from m4v.cli.main import VERBS, main
from m4v.cli.verb import Action
from m4v.core.errors import UserError


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_overview_names_every_verb(m4v, words):
    outcome = m4v(*words)
    assert outcome.code == 0
    for verb in VERBS:
        assert verb in outcome.out


def test_version(m4v):
    assert m4v("--version").out == f"m4v {__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_answers_without_torch(verb):
    verb_object = import_module(VERBS[verb][0]).VERB
    paths = [[verb]] if isinstance(verb_object, Action) else [[verb], *([verb, action] for action in verb_object)]
    if verb == "train":
        paths.append(["train", "debug"])
    calls = [f"main({[*path, '--help']!r})" for path in paths]
    script = (
        "import sys\nfrom m4v.cli.main import main\n"
        f"codes = [{', '.join(calls)}]\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'numba', 'av'} & set(sys.modules)\n"
        "print(codes, sorted(heavy), file=sys.stderr)\n"
    )
    finished = python(script)
    assert finished.stderr.strip().endswith(f"{[0] * len(paths)} []"), finished.stderr
    assert "usage: m4v" in finished.stdout


def test_help_is_quick():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert python("from m4v.cli.main import main; main(['--help'])").returncode == 0
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5


def test_user_errors_of_any_depth_are_code_2(monkeypatch, capsys):
    def fail(arguments):
        raise UserError("the value was 3; expected 4; do that")

    import m4v.cli.doctor as doctor

    monkeypatch.setattr(doctor, "VERB", Action(doctor.DoctorArguments, fail))
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err == "Error: the value was 3; expected 4; do that\n"


def test_a_closed_pipe_is_quiet():
    reading_end, writing_end = os.pipe()
    os.close(reading_end)
    command = [sys.executable, "-m", "m4v.cli.main", "--help"]
    finished = subprocess.run(command, stdout=writing_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing_end)
    assert finished.returncode == 0
    assert finished.stderr == ""


def test_a_verb_of_several_actions_lists_them(m4v):
    outcome = m4v("toybox", "--help")
    assert outcome.code == 0
    assert "render" in outcome.out
    assert m4v("toybox").code == 2
    assert "no m4v toybox 'paint'" in m4v("toybox", "paint").err


@pytest.mark.parametrize(
    ("words", "read_as"),
    [
        (["--json"], ["--json", "-"]),
        (["--json", "--seed", "1"], ["--json", "-", "--seed", "1"]),
        (["--json", "a red ball"], ["--json", "-", "a red ball"]),
        (["--json", "r.json", "x"], ["--json", "r.json", "x"]),
        (["--json", "-", "x"], ["--json", "-", "x"]),
        (["x", "--json=r.json"], ["x", "--json=r.json"]),
    ],
)
def test_a_bare_json_flag_means_standard_output(words, read_as):
    assert with_explicit_target(words) == read_as


def test_doctor_reports_for_people_and_programs(m4v, tmp_path):
    outcome = m4v("doctor")
    assert outcome.code == 0
    assert "bundled models  tiny" in outcome.out
    report = json.loads(m4v("doctor", "--json").out)
    assert report["m4v"] == __version__
    assert report["video"] == {"h264": True, "problem": None}
    assert report["packages"]["torch"]
    assert list(report["bundled_models"]) == ["tiny"]
    assert m4v("doctor", "--json", "d.json").code == 0
    assert json.loads((tmp_path / "d.json").read_text())["python"] == report["python"]
