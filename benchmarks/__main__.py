"""Runs the speed benchmark and prints them as the rows of a Markdown table."""

from benchmarks.scoring import measure

print("| what | seconds per image | against the published way |\n|---|---|---|")
for row in measure():
    print(f"| {row.what} | {row.seconds:.3f} | {row.ratio:.2f} |", flush=True)
