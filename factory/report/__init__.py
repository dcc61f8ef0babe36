"""One self-contained HTML file on a run: funnel, galleries, scores, copies, acceptance."""
