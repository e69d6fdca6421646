"""The benchmark: what a mixer, a network and a whole video cost beside attention, measured side by side in one run."""
