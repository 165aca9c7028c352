"""The report as JUnit XML: a test case for each finding, so that a CI system shows them as it shows tests."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from fa_doctor.report.document import Document

__all__ = ["render"]

# XML 1.0 has no way to write these, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(document: Document) -> str:
    """JUnit XML. A failing finding is a failure, an unknown one an error, warnings are test output."""
    summary = document["summary"]
    suite = ElementTree.Element(
        "testsuite",
        name="fa-doctor",
        tests=str(len(document["findings"])),
        failures=str(summary["fail"]),
        errors=str(summary["unknown"]),
        skipped=str(sum(_is_skipped(finding) for finding in document["findings"])),
        time=f"{document['duration_s']:.3f}",
        timestamp=document["generated_at"].removesuffix("Z"),
    )
    for finding in document["findings"]:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=f"fa-doctor.{finding['check'].split('.')[0]}",
            name=_clean(f"{finding['id']} {finding['check']}"),
            time=f"{finding['duration_s']:.4f}",
        )
        body = _body(finding)
        if _is_skipped(finding):
            ElementTree.SubElement(case, "skipped", message=_clean(finding["ignored"] or finding["title"]))
        elif finding["status"] in ("fail", "unknown"):
            tag = "failure" if finding["status"] == "fail" else "error"
            element = ElementTree.SubElement(case, tag, message=_clean(finding["title"]), type=finding["cause"] or tag)
            element.text = body
        elif finding["status"] == "warn":
            ElementTree.SubElement(case, "system-out").text = f"warning: {body}"
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _is_skipped(finding: Document) -> bool:
    return finding["status"] == "skip" or finding["ignored"] is not None


def _body(finding: Document) -> str:
    lines = [finding["title"], finding["detail"]]
    lines += [f"{evidence['source']}: {evidence['text']}" for evidence in finding["evidence"]]
    for fix in finding["fixes"]:
        lines += [f"Fix: {fix['title']}", *(f"  {command}" for command in fix["commands"])]
    return _clean("\n".join(line for line in lines if line))


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
