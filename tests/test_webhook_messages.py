"""What webhooks are sent: its shape, its size, and names that mean something to who reads it."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from audit_records import a_proposal, a_record, an_alarm

from differnet_ray.cli import audit
from differnet_ray.webhook_messages import COMMAND, FORMS, LINE, MOST, SECTION, Form, message_of

LONG = "ü&<漢>" * 400
EVIL = "<!channel> *bold* `code` & [click](http://evil.example) <http://evil.example|here>"


def sent(record: dict[str, Any], form: Form) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(message_of(record, form))
    return message


def slack_texts(message: dict[str, Any]) -> list[str]:
    return [block["text"]["text"] for block in message["blocks"]]


def teams_texts(message: dict[str, Any]) -> list[str]:
    (attachment,) = message["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert attachment["content"]["type"] == "AdaptiveCard"
    body = attachment["content"]["body"]
    assert {block["type"] for block in body} == {"RichTextBlock"}
    return [run["text"] for block in body for run in block["inlines"]]


def test_the_forms_are_those_of_the_option() -> None:
    (option,) = [option for option in audit.audit.params if "--webhook-format" in option.opts]
    assert tuple(option.type.choices) == FORMS == get_args(Form)  # type: ignore[attr-defined]
    assert set(MOST) == set(FORMS)


def test_a_night_says_the_same_in_each_form() -> None:
    record = a_record([an_alarm()], [a_proposal()])
    assert sent(record, "generic") == record
    for said in ("\n".join(slack_texts(sent(record, "slack"))), "\n".join(teams_texts(sent(record, "teams")))):
        assert "Audit of the night 2026-01-31: 1 alarm" in said
        assert "ALARM screw, line B: 31 of 400 images anomalous" in said
        assert "REFIT screw: it moved" in said
        assert "differnet-ray fit --category=screw" in said
        assert record["audit_id"] in said
        assert record["report"] in said


def test_a_night_without_alarms_is_a_message_too() -> None:
    record = a_record([], report=None, counts={})
    assert slack_texts(sent(record, "slack")) == [
        "*Audit of the night 2026-01-31: no alarm*\nimages: none\naudit 20260131-0123456789ab"
    ]
    assert len(teams_texts(sent(record, "teams"))) == 3


@pytest.mark.parametrize("n", [1, 19, 20, 21, 500])
@pytest.mark.parametrize("text", ["short", LONG])
def test_however_many_alarms_there_are_the_message_is_taken(n: int, text: str) -> None:
    command = f"differnet-ray fit --manifest={'&' * COMMAND}"[:COMMAND]
    record = a_record(
        [an_alarm(reason=f"{k} {text}") for k in range(n)], [a_proposal(f"c{k}", command=command) for k in range(n)]
    )
    slack = message_of(record, "slack")
    assert len(slack.decode()) <= MOST["slack"]
    blocks = json.loads(slack)["blocks"]
    assert len(blocks) <= 50
    assert all(len(block["text"]["text"]) <= SECTION for block in blocks)
    teams = message_of(record, "teams")
    assert len(teams.decode("utf-8").encode("utf-16-le")) <= 28_000
    for texts in (slack_texts(json.loads(slack)), teams_texts(json.loads(teams))):
        said = "\n".join(texts)
        assert "ALARM screw, line B: 0 " in said
        shown = said.count("ALARM")
        assert (f"and {n - shown} more in audit.json" in said) == (shown < n)
    generic = message_of(record, "generic")
    assert len(generic) <= 4 * MOST["generic"]
    assert len(generic.decode()) <= MOST["generic"]
    body = json.loads(generic)
    assert body["audit_id"] == record["audit_id"]
    assert len(body["alarms"]) + body.get("alarms_left_off", 0) == n


def test_a_record_that_is_too_large_loses_counts_by_category_and_the_last_alarms() -> None:
    many = {f"category {n}": n for n in range(20_000)}
    whole = a_record([an_alarm()], listed=many)
    body = sent(whole, "generic")
    assert "listed" not in body
    assert (body["alarms"], body["alarms_left_off"]) == (whole["alarms"], 0)
    assert body["counts"] == whole["counts"]


def test_names_are_no_markup_in_slack() -> None:
    message = sent(a_record([an_alarm(category=EVIL)]), "slack")
    assert message["text"] == "Audit of the night 2026-01-31: 1 alarm"
    said = slack_texts(message)[1]
    assert said.startswith("```")
    assert said.endswith("```")
    assert "`" not in said.strip("`")
    assert "<" not in said
    assert "&lt;!channel&gt; *bold*" in said
    assert "code" in said
    assert "&amp; [click]" in said


def test_names_are_no_markup_in_teams() -> None:
    texts = teams_texts(sent(a_record([an_alarm(category=EVIL)]), "teams"))  # a TextRun knows none
    assert f"ALARM {EVIL}, line B: 31 of 400 images anomalous" in texts


def test_a_name_of_several_lines_is_one_line() -> None:
    texts = teams_texts(sent(a_record([an_alarm(attribute_value="B\n\nALARM all is well")]), "teams"))
    assert "ALARM screw, line B ALARM all is well: 31 of 400 images anomalous" in texts


def test_a_command_is_shown_whole_or_not_at_all() -> None:
    whole, long = "differnet-ray fit " + "x" * LINE, "differnet-ray fit " + "x" * COMMAND
    texts = teams_texts(
        sent(a_record([], [a_proposal(command=whole), a_proposal(command=long), a_proposal(command=None)]), "teams")
    )
    assert texts[4:] == [
        "REFIT screw: it moved",
        whole,
        "REFIT screw: it moved",
        "its command is in audit.json",
        "REFIT screw: it moved",
    ]
