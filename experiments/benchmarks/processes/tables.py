"""The tables of README.md from what equality.py measured."""

from __future__ import annotations

from typing import Any

from threeshnet.reports.markdown import table


def text_of(found: dict[str, Any]) -> str:
    """What stands between the marks."""
    return f"\n{of_steps(found)}\n\n{otherwise(found)}\n\n{trainings(found)}\n"


def of_steps(found: dict[str, Any]) -> str:
    rows = []
    for places in zip(*(found[count]["steps"] for count in counts(found)), strict=True):
        first = places[0]
        whole = "whole" if first["chunk"] is None else f"chunks of {first['chunk']}"
        case = [first["objective"], "yes" if first["masked"] else "no", first["batch"], first["dtype"], whole]
        rows.append([*case, *(f"{row['loss']:.0e} / {row['gradient']:.0e}" for row in places)])
    head = ["objective", "same image masked", "batch", "precision", "encoded", *counts(found)]
    title = (
        "**One step**: largest relative difference of the loss / of any gradient from one process with the whole batch."
    )
    return f"{title}\n\n{table(head, rows)}"


def otherwise(found: dict[str, Any]) -> str:
    rows = []
    for count in counts(found)[1:]:
        for row in found[count]["otherwise"]:
            numbers = [f"{row[key]:.1e}" for key in ("loss", "gradient")]
            rows.append([row["objective"], count, row["way"], *numbers, f"{row['length']:.3f}", f"{row['cosine']:.4f}"])
    head = ["objective", "processes", "way", "loss", "worst gradient", "length of the gradient"]
    title = "**Otherwise**, float64, 8 pairs, same image masked: relative differences; 1.000 and 1.0000 are right."
    return f"{title}\n\n{table([*head, 'cosine with the true one'], rows)}"


def trainings(found: dict[str, Any]) -> str:
    rows = []
    for count in counts(found)[1:]:
        for row in found[count]["trainings"]:
            numbers = [f"{row[key]:.0e}" for key in ("loss", "parameters", "buffers")]
            same = "the same" if row["same_recalls"] else "differ"
            rsum = " / ".join(f"{value:.1f}" for value in row["rsum"])
            rows.append([row["training"], count, str(row["steps"]), *numbers, f"{same} ({rsum})"])
    head = ["training", "processes", "batches", "losses", "parameters", "buffers", "recalls (rsum / of one process)"]
    title = "**Training** through Lightning (float64 unless it says otherwise): largest relative differences."
    return f"{title}\n\n{table(head, rows)}"


def counts(found: dict[str, Any]) -> list[str]:
    return [key for key in found if key.startswith("N=")]
