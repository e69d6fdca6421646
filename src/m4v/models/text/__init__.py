"""Prompts to text conditioning: tokenizer and text encoder."""
