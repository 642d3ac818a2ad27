"""The card of a model: what people want to know before they trust it, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def card(record: Mapping[str, Any]) -> str:
    """The card of a model, from its model.json: data, recipe, curves, threshold and how sure, notes and limits."""
    decision, lineage, recipe, backbone = (record[key] for key in ("decision", "lineage", "recipe", "backbone"))
    paragraphs = [
        f"# {record['category']} {record['version']}",
        *([] if backbone["pretrained"] else ["**Its backbone has random, untrained weights: for demonstrations only.**"]),
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in _rows(record).items())]),
        *([f"![Loss, and scores of unseen good images]({record['curves']})"] if record.get("curves") else []),
        _rests(decision, lineage),
        *_section("Notes", _notes(lineage)),
        *_section("Limits", _limits(recipe["extractor"]["image_size"])),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _rows(record: Mapping[str, Any]) -> dict[str, str]:
    decision, lineage, recipe = record["decision"], record["lineage"], record["recipe"]
    extractor, losses, test = recipe["extractor"], lineage["losses"], lineage.get("test")
    fits = f"{_count(lineage['n_fits'], 'fit')} in {lineage['seconds']:.0f} s"
    loss = f"{losses[0]:.3f} in the first epoch, {losses[-1]:.3f} in the last" if len(losses) > 1 else f"{losses[0]:.3f}"
    transforms = _count(len(record["transforms"]["angles"]), "transform")
    memory = f", {lineage['peak_memory'] / 1e9:.1f} GB of memory" if lineage.get("peak_memory") else ""
    rows = {
        "data": ", ".join(lineage["data"]),
        "good images": f"{lineage['n_fitted']} fitted, {lineage['n_held_out']} held out, {len(lineage['skipped'])} skipped",
        **_groups(lineage, recipe["calibration"]),
        "backbone": _backbone(record["backbone"]["name"], extractor),
        "flow": _flow(recipe["flow"]),
        "fit": f"{_count(len(losses), 'epoch')}, seed {recipe['fit']['seed']}, {fits} on {lineage['device']}{memory}",
        "loss": loss,
        "scores": f"of features averaged over {transforms}"
        if recipe["transforms"]["pooled"]
        else f"averaged over {transforms}",
        "pose": lineage.get("pose") or f"{recipe['transforms'].get('pose', 'any')}, as it was given",
        "threshold": f"{decision['threshold']:.4f}",
        "review from": f"{decision['review_threshold']:.4f}",
    }
    if grey_range := recipe.get("images", {}).get("grey_range"):
        rows["grey values"] = f"{grey_range[0]:.10g} is black, {grey_range[1]:.10g} is white"
    if test:
        images = f"{test['n_good']:.0f} good and {test['n_anomalous']:.0f} anomalous test images"
        rows["AUROC"] = f"{100 * test['auroc']:.1f} % on {images}, by which nothing was chosen"
    return rows


def _groups(lineage: Mapping[str, Any], calibration: Mapping[str, Any]) -> dict[str, str]:
    """What is held out together, and how similar unseen and fitted images are; nothing in records older than groups."""
    if lineage.get("n_groups") is None:
        return {}
    near = f"{lineage['separation']:.2f} times as far from fitted ones as independent images are"
    return {
        "groups": f"{lineage['n_groups']}, by --group-by {calibration['group_by']}",
        "unseen images": f"{near}; near duplicates have under 0.9",
    }


def _backbone(name: str, extractor: Mapping[str, Any]) -> str:
    """Weights, scales, and of a network of timm's its name and layers; records older than those are of AlexNet."""
    scales = f"{_count(extractor['n_scales'], 'scale')} from {extractor['image_size']} pixels"
    layers = ", ".join(map(str, extractor.get("layers", ())))
    return f"{name}, {scales}" if not layers else f"{name}, layers {layers} of {extractor['network']}, {scales}"


def _flow(flow: Mapping[str, Any]) -> str:
    if flow["n_blocks"]:
        return f"{_count(flow['n_blocks'], 'block')}, {flow['hidden']} wide"
    return f"fixed layers only: power {flow['power']:g}, {flow['first_layer']}, shrinkage {flow['shrinkage']:g}"


def _rests(decision: Mapping[str, Any], lineage: Mapping[str, Any]) -> str:
    text = f"The threshold rests on {decision['statement']}."
    if calibrated := lineage.get("calibrated"):
        source = f"the run {calibrated['run_id']}" if "run_id" in calibrated else ", ".join(calibrated["data"])
        text += f" It was calibrated after the fit, on images of {source}; the flow is that of {calibrated['from']}."
    elif not lineage["n_held_out"]:
        text += (
            f" Each was scored by a flow fitted without its fold, one of {lineage['n_fits'] - 1}, and the flow in use was "
            "fitted on all of them: the bound is approximate."
        )
    return text


def _notes(lineage: Mapping[str, Any]) -> list[str]:
    epochs = ", ".join(map(str, lineage.get("resumed", ())))
    resumed = [f"The fit was interrupted, and went on after epoch {epochs}."] if epochs else []
    return [*resumed, *lineage.get("notes", ())]


def _limits(image_size: int) -> list[str]:
    return [
        "It holds for images that are taken as the good ones were: after a change of camera, light or product, fit again.",
        "The threshold speaks of good images that are called anomalous. How many defects it finds, only labelled ones tell.",
        "Groups of images count as independent. Where several images show one part, they must be one group, or the threshold "
        "is too low: name the parts by --group-by where the groups that were found are not theirs.",
        f"Each image is resized to a square of {image_size} pixels: what cannot be seen in that is not found.",
    ]


def _section(heading: str, items: list[str]) -> list[str]:
    return [f"## {heading}", "\n".join(f"- {item}" for item in items)] if items else []


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
