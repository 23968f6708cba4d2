"""The paper's research questions: each is one experiment that ends in a CSV, a table and a plot."""
