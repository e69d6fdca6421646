"""Annotation files that large public video data sets come with."""
