"""The layouts of data set folders that people already have."""
