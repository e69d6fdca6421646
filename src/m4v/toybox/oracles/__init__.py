"""Rule-based judges: colour, object, motion and count from pixels alone, knowing the world but not the prompt."""
