"""One mixer operation: its definition in plain torch and faster paths beside it."""
