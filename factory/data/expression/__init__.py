"""Pathway scores of gene expression: reads a table, drops genes, scores sets, says what it did."""
