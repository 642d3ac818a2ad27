"""The HTML report and the plots in it."""
