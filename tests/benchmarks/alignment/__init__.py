"""Alignment search timed against pyvene, TransformerLens and a loop: `python -m tests.benchmarks alignment`.

`jobs` says what is timed; `ours`, `peer_pyvene`, `peer_bridge`, `peer_hooked` and `peer_loop` are the sides. `draws`
holds what a side in the peers' environment needs too, `rows` what the others share.
"""
