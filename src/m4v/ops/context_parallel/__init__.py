"""One sequence split over several processes: exchanges, heads for tokens, and the scan's state from span to span."""
