"""What qa/bench/run is made of: rows, sides (targets), load, figures, report."""
