"""What every part stands on: errors, units, threat models, rows, seeds, files, processes; imports none of them."""
