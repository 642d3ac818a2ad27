"""BRIDGE: the tables and figures of the paper, run again on a data set in MVTec AD layout."""
