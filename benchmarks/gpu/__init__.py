"""What a GPU answers: the same numbers, the paper at full size, speed, fits. Needs neither Ray nor the rooms of data."""
