"""Numbers from rows, with numpy alone: metrics, intervals, paired differences, worst cases, the summary."""
