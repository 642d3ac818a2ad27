"""What a webhook is sent: the record of an audit, or a message of Slack or Teams made of it. Each is of a bounded size.

    generic   the record, as in OUTPUT/audit/audit.json
    slack     blocks of text, for incoming webhooks: docs.slack.dev/reference/block-kit
    teams     an Adaptive Card in a message, for webhooks of Workflows: learn.microsoft.com, "Create incoming webhooks with
              Workflows"

Names in a record come from an archive and may hold any text: Slack is shown them escaped and preformatted, Teams in elements
that know no Markdown.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

Form = Literal["generic", "slack", "teams"]
FORMS: tuple[Form, ...] = get_args(Form)

MOST = {  # characters of JSON
    "generic": 256 * 1024,
    "slack": 12_000,  # blocks of about 13,000 characters in all are refused
    "teams": 13_000,  # 28 KB, where a character may count as two bytes
}
SECTION = 3000  # characters of a Slack section
SHOWN, LINE = 20, 300  # alarms and proposals in a message for people, and characters of each
COMMAND = 500  # characters of one, which is shown whole or not at all
_BY_CATEGORY = ("listed", "skipped", "changes", "category_counts")

Message = dict[str, Any]


def message_of(record: Mapping[str, Any], form: Form) -> bytes:
    """The body of the request."""
    if form == "generic":
        whole = json.dumps(record)
        if len(whole) <= MOST[form]:
            return whole.encode()
        return _largest(lambda n: _shortened(record, n), _n_entries(record), MOST[form])
    make = _slack if form == "slack" else _teams
    return _largest(lambda n: make(record, n), min(_n_entries(record), SHOWN), MOST[form])


def _n_entries(record: Mapping[str, Any]) -> int:
    return max(len(record["alarms"]), len(record["proposals"]))


def _largest(made: Callable[[int], Message], n: int, most: int) -> bytes:
    """The message of the first so many alarms and proposals that fit."""
    fitting = bisect_right(range(1, n + 1), most, key=lambda first: len(_text(made(first))))
    return _text(made(fitting)).encode()


def _text(message: Message) -> str:
    return json.dumps(message, ensure_ascii=False)


def _shortened(record: Mapping[str, Any], n: int) -> Message:
    """The record without counts by category, and with the first n alarms and proposals."""
    kept = {key: value for key, value in record.items() if key not in _BY_CATEGORY}
    for name in ("alarms", "proposals"):
        kept[name] = record[name][:n]
        kept[f"{name}_left_off"] = len(record[name]) - len(kept[name])
    return kept


def _heading(record: Mapping[str, Any]) -> str:
    n = len(record["alarms"])
    alarms = "1 alarm" if n == 1 else f"{n} alarms" if n else "no alarm"
    return f"Audit of the night {record['dt']}: {alarms}"


def _facts(record: Mapping[str, Any]) -> list[str]:
    counts = ", ".join(f"{n:,} {status}" for status, n in record["counts"].items() if n)
    facts = [f"images: {counts or 'none'}", f"audit {record['audit_id']}"]
    return facts + ([f"report {record['report']}"] if record["report"] else [])


def _lines(record: Mapping[str, Any], n: int) -> list[str]:
    """The first n alarms and proposals, and how many more there are."""
    lines = [_cut(f"ALARM {alarm['text']}") for alarm in record["alarms"][:n]]
    lines += _more(record["alarms"], n)
    for proposal in record["proposals"][:n]:
        lines.append(_cut(proposal_text(proposal)))
        command = proposal["command"]
        if command is not None:
            lines.append(command if len(command) <= COMMAND else "its command is in audit.json")
    return lines + _more(record["proposals"], n)


def _more(found: Sequence[object], n: int) -> list[str]:
    return [f"and {len(found) - n} more in audit.json"] if len(found) > n else []


def proposal_text(proposal: Mapping[str, Any]) -> str:
    """What is proposed, and why."""
    part = f", {proposal['attribute']} {proposal['attribute_value']}" if proposal["attribute"] else ""
    return f"{proposal['action'].upper()} {proposal['category']}{part}: {proposal['reason']}"


def _cut(text: str) -> str:
    """One line, and not a long one."""
    line = " ".join(text.split())
    return line if len(line) <= LINE else line[: LINE - 1] + "…"


def _slack(record: Mapping[str, Any], n: int) -> Message:
    heading, facts = _escaped(_heading(record)), _escaped("\n".join(map(_cut, _facts(record))))
    sections = [""]
    for line in map(_escaped, _lines(record, n)):
        if len(sections[-1]) + len(line) + len("``````\n") > SECTION:
            sections.append("")
        sections[-1] += f"{line}\n"
    texts = [f"*{heading}*\n{facts}", *(f"```{text}```" for text in sections if text)]
    blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}} for text in texts]
    return {"text": heading, "blocks": blocks}


def _escaped(text: str) -> str:
    """For Slack, where <!channel> would call everyone; backticks would end what is preformatted, and quotes mean something."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("`", "\N{MODIFIER LETTER GRAVE ACCENT}")


def _teams(record: Mapping[str, Any], n: int) -> Message:
    heading = _run(_heading(record), weight="Bolder", size="Medium")
    rows = [heading, *(_run(_cut(fact), isSubtle=True) for fact in _facts(record))]
    rows += [_run(line) for line in _lines(record, n)]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "msteams": {"width": "Full"},
        "body": rows,
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _run(text: str, **look: Any) -> Message:
    """A paragraph as it stands: the text of a TextRun is no Markdown, unlike that of a TextBlock."""
    return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": text, **look}]}
