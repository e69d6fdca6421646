"""`compile_repeated_blocks` reaches every block of both bases, and nothing around them."""

PARTS = ("transformer_blocks", "single_transformer_blocks", "blocks")


def test_every_block_is_compiled(base) -> None:
    model = base.build()
    model.compile_repeated_blocks(fullgraph=True, backend="eager")
    blocks = {block for part in PARTS for block in getattr(model, part, ())}
    compiled = {module for module in model.modules() if module._compiled_call_impl}
    assert len(blocks) > 1
    assert compiled == blocks
