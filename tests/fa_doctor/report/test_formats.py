"""Every format, made from a report with every kind of finding, and from hostile text."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from html.parser import HTMLParser
from xml.etree import ElementTree

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fa_doctor.diagnosis.actions import SetVariable
from fa_doctor.diagnosis.engine import summarise
from fa_doctor.diagnosis.model import (
    Evidence,
    Finding,
    Fix,
    Need,
    Safety,
    Status,
    Verdict,
    failed,
    passed,
    skipped,
    unknown,
    warned,
)
from fa_doctor.facts.gpus import Gpu, Gpus, OtherGpu
from fa_doctor.facts.machine import Machine
from fa_doctor.level import Level
from fa_doctor.report import document, formats, npd

FIX = Fix(
    "Set the variable",
    ("export FLASH_ATTENTION_TRITON_AMD_ENABLE=TRUE",),
    ("unset FLASH_ATTENTION_TRITON_AMD_ENABLE",),
    Need.RESTART,
    Safety.SAFE,
    SetVariable("FLASH_ATTENTION_TRITON_AMD_ENABLE", "TRUE"),
    "FAT101",
)
FINDINGS = [
    Finding("GPU001", "gpu.present", passed("an AMD GPU is there", Evidence("/sys/class/kfd", "gfx942"))),
    Finding(
        "FAT101", "flash.flag", failed("the flag is not set", Evidence("environment", "unset"), cause="x", fixes=[FIX])
    ),
    Finding("SPD101", "speed.numa", warned("NUMA balancing is on", Evidence("/proc/sys/kernel/numa_balancing", "1"))),
    Finding("LIB101", "library.map", unknown("nothing was recorded")),
    Finding("CON101", "container.shm", skipped("not in a container")),
    Finding("SPD102", "speed.power", failed("capped", cause="y"), ignored="on purpose (until 2027-01-01)"),
]
MACHINE = Machine(
    "live",
    "this machine",
    gpus=Gpus(
        (Gpu(0, "gfx942", "gfx942", "AMD Instinct MI300X", "CDNA3", 64, 304, 206 << 30, integrated=False),),
        1,
        (OtherGpu("NVIDIA", "RTX 4080", "0000:01:00.0", "nvidia", "ROCm cannot use it"),),
    ),
)


def report(findings: list[Finding] = FINDINGS) -> document.Document:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    return document.build(MACHINE, findings, Level.QUICK, 0.25, now=moment)


def test_the_document_has_the_promised_form() -> None:
    made = report()
    jsonschema.validate(made, document.schema())
    assert made["generated_at"] == "2026-01-02T03:04:05Z"
    assert made["summary"] == {"status": "fail", "pass": 1, "warn": 1, "fail": 1, "skip": 1, "unknown": 1}
    assert json.loads(formats.render(made, "json")) == made
    broken = {**made, "findings": [{**made["findings"][0], "status": "good"}]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, document.schema())


def test_text_says_what_is_wrong_first_and_what_to_type() -> None:
    text = formats.render(report(), "text")
    assert "\x1b" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.index("FAT101") < text.index("SPD101") < text.index("LIB101")
    assert "export FLASH_ATTENTION_TRITON_AMD_ENABLE=TRUE" in text
    assert "on purpose (until 2027-01-01)" in text
    assert "CON101" not in text
    assert "CON101" in formats.render(report(), "text", verbose=True)
    assert "RTX 4080" in text


def test_a_long_command_stays_one_line() -> None:
    command = "docker run " + " ".join(f"--option-{number}" for number in range(40))
    findings = [
        Finding("CON101", "container.devices", failed("x", cause="y", fixes=[Fix("start it anew", (command,))]))
    ]
    assert command in formats.render(report(findings), "text")


def test_junit_counts() -> None:
    suite = ElementTree.fromstring(formats.render(report(), "junit"))[0]
    assert suite.attrib["failures"] == "1"
    assert suite.attrib["errors"] == "1"
    assert suite.attrib["skipped"] == "2"
    assert len(suite) == len(FINDINGS)


def test_github_annotations_escape_what_the_runner_would_read() -> None:
    findings = [Finding("GPU001", "gpu.x", failed("50%: a,b", cause="c", detail="one\ntwo"))]
    line = formats.render(report(findings), "github").splitlines()[0]
    assert line == "::error title=GPU001 50%25%3A a%2Cb::one%0Atwo"


def test_markdown_fences_cannot_be_broken_out_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    evidence = Evidence("/home/alice/log", "``` ends the block\nHF_TOKEN=hf_abcdefghijklmnopqrstuvwx")
    text = formats.render(report([Finding("GPU001", "gpu.x", failed("a", evidence, cause="c"))]), "markdown")
    assert "````" in text
    assert "alice" not in text
    assert "hf_abc" not in text


class Page(HTMLParser):
    """The tags of a page, and that each is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.shown = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onclick"}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.shown += data


def test_the_page_needs_nothing_else_and_shows_all() -> None:
    page = Page(formats.render(report(), "html"))
    assert not {"script", "link", "img", "iframe"} & set(page.seen)
    assert page.shown.index("the flag is not set") < page.shown.index("NUMA balancing is on")
    for said in ("export FLASH_ATTENTION_TRITON_AMD_ENABLE=TRUE", "nothing was recorded", "not in a container"):
        assert said in page.shown
    assert "on purpose (until 2027-01-01)" in page.shown


def test_a_page_shows_hostile_text_as_text() -> None:
    evidence = Evidence("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>')
    findings = [Finding("GPU001", "gpu.x", failed("</title><b>", evidence, cause="c", fixes=[Fix("</pre>", ("<i>",))]))]
    page = Page(formats.render(report(findings), "html"))
    assert not {"script", "img", "i"} & set(page.seen)
    assert "<script>alert(1)</script>" in page.shown


def test_npd_is_one_short_ascii_line_with_its_own_codes() -> None:
    assert npd.exit_code(report()) == 1
    assert npd.exit_code(report(FINDINGS[:1])) == 0
    assert npd.exit_code(report([FINDINGS[3]])) == 2
    line = npd.render(report([Finding("GPU001", "gpu.x", failed("ü" * 200, cause="c"))] * 3))
    assert len(line) <= npd.MESSAGE_LIMIT + 1
    assert line.isascii()
    assert line.count("\n") == 1
    assert "(+2)" in line


def test_the_whole_is_unknown_only_if_nothing_could_be_decided() -> None:
    assert summarise([FINDINGS[3]])["status"] == "unknown"
    assert summarise([FINDINGS[3], FINDINGS[0]])["status"] == "pass"
    assert summarise([FINDINGS[2]])["status"] == "warn"
    assert summarise([FINDINGS[2]], strict=True)["status"] == "fail"
    assert summarise([FINDINGS[5]])["status"] == "pass"
    assert formats.exit_code(report([FINDINGS[3]])) == 3
    assert formats.exit_code(report([FINDINGS[2]])) == 0
    assert formats.exit_code(report()) == 1


@settings(max_examples=60, deadline=None)
@given(title=st.text(min_size=1, max_size=200), detail=st.text(max_size=300), status=st.sampled_from(Status))
def test_no_text_breaks_a_format(title: str, detail: str, status: Status) -> None:
    verdict = Verdict(status, title, detail, "cause", (Evidence(title, detail),), (Fix(title, (detail,)),))
    made = report([Finding("GPU001", "gpu.x", verdict)])
    jsonschema.validate(made, document.schema())
    for name in formats.FORMATS:
        rendered = formats.render(made, name, verbose=True)
        assert rendered.endswith("\n")
    ElementTree.fromstring(formats.render(made, "junit").encode("utf-8", "replace"))
    assert len(formats.render(made, "npd").encode()) <= npd.MESSAGE_LIMIT + 1
