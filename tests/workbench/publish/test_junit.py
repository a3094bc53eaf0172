from xml.etree import ElementTree

import pytest

from tests.workbench.publish import samples
from workbench.publish.junit import comparison_junit, decision_junit

# Jenkins' junit-10.xsd: element -> (required attributes, optional attributes, children in the order we write them)
SCHEMA = {
    "testsuites": (set(), {"name", "tests", "failures", "errors", "time"}, ["testsuite"]),
    "testsuite": (
        {"name", "tests", "failures", "errors"},
        {"skipped", "time", "timestamp"},
        ["properties", "testcase", "system-out"],
    ),
    "properties": (set(), set(), ["property"]),
    "property": ({"name", "value"}, set(), []),
    "testcase": ({"name"}, {"classname", "time"}, ["skipped", "error", "failure", "system-out"]),
    "skipped": (set(), {"message", "type"}, []),
    "error": (set(), {"message", "type"}, []),
    "failure": (set(), {"message", "type"}, []),
    "system-out": (set(), set(), []),
}


def check(element: ElementTree.Element) -> None:
    required, optional, children = SCHEMA[element.tag]
    assert required <= set(element.keys()) <= required | optional, element.tag
    places = [children.index(child.tag) for child in element]
    assert places == sorted(places), element.tag
    for child in element:
        check(child)


def parse(text: str) -> ElementTree.Element:
    root = ElementTree.fromstring(text.encode("utf-8"))
    check(root)
    suite = root[0]
    cases = suite.findall("testcase")
    assert int(suite.attrib["tests"]) == len(cases)
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.attrib[name]) == len(suite.findall(f"testcase/{tag}"))
    assert all(len([c for c in case if c.tag != "system-out"]) <= 1 for case in cases)
    return suite


def outcome_of(suite: ElementTree.Element, name: str) -> str:
    case = next(case for case in suite.findall("testcase") if case.attrib["name"] == name)
    return next((child.tag for child in case if child.tag != "system-out"), "passed")


def test_failing_is_a_failure_holding_an_error_and_passing_nothing():
    suite = parse(decision_junit(samples.decision(), samples.comparison()))
    assert outcome_of(suite, "arc_easy kept") == "failure"
    assert outcome_of(suite, "openbookqa kept") == "error"
    assert outcome_of(suite, "piqa kept") == "passed"
    assert outcome_of(suite, "decision") == "failure"
    error = suite.find("testcase[@name='openbookqa kept']/error")
    assert error is not None and error.attrib["type"] == "hold" and error.attrib["message"]


def test_a_comparison_has_a_case_for_each_required_task():
    suite = parse(comparison_junit(samples.comparison()))
    names = [case.attrib["name"] for case in suite.findall("testcase")]
    assert names == [*(task.task for task in samples.TASKS if task.required), "comparison"]
    failure = suite.find("testcase[@name='arc_easy']/failure")
    assert failure is not None
    assert failure.attrib["message"] == "forgot: −12.3 points [−15.0, −9.7], margin 2"


def test_advisory_results_are_properties_and_output_but_no_cases():
    suite = parse(decision_junit(samples.decision(), samples.comparison()))
    assert suite.find("testcase[@name='boolq kept']") is None
    listed = {p.attrib["name"]: p.attrib["value"] for p in suite.iter("property")}
    assert listed["advisory boolq kept"].startswith("hold: ")
    assert "boolq kept" in suite.findtext("system-out", "")


def test_an_overridden_rule_is_skipped_with_the_name_of_who_did_it():
    rules = [samples.rule(samples.FORGOT, overridden="Ann Example: retired exam"), samples.rule(samples.KEPT)]
    suite = parse(decision_junit(samples.decision(*rules, outcome="pass"), samples.comparison()))
    skipped = suite.find("testcase[@name='arc_easy kept']/skipped")
    assert skipped is not None and skipped.attrib["message"] == "fail, overridden: Ann Example: retired exam"
    assert outcome_of(suite, "decision") == "passed"


@pytest.mark.parametrize(("outcome", "tag"), [("hold", "error"), ("fail", "failure")])
def test_a_gate_that_does_not_pass_is_never_green_even_without_rules(outcome, tag):
    made = samples.decision(samples.rule(samples.UNINFORMATIVE), outcome=outcome)
    suite = parse(decision_junit(made))
    assert [outcome_of(suite, case.attrib["name"]) for case in suite.findall("testcase")] == [tag]


def test_hostile_text_and_characters_that_xml_forbids_are_written_safely():
    for text in (
        decision_junit(samples.hostile_decision(), samples.hostile_comparison()),
        comparison_junit(samples.hostile_comparison()),
    ):
        suite = parse(text)
        assert "<script>alert(1)</script>" in ElementTree.tostring(suite, encoding="unicode", method="text")
        assert "⟨U+0000⟩" in text and "\x00" not in text and "\ufffe" not in text
