"""Layers of flash_attn that programs import beside its attention."""
