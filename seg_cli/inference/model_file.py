"""x"""
KEY, INPUT, OUTPUT = "segrun", "images", "logits"
