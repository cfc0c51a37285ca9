"""Keys that people have: signatures, key files, boxes, the ceremony."""
