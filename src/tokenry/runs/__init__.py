"""What a verb does, from names to results: load, check, run, measure, save. The command line only shows it."""
