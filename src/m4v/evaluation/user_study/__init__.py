"""A blind user study: a page to be opened anywhere, and the statistics of its answers (Sec. 4.3, Fig. 7, B.2, B.3)."""
