"""The main functions: finetune, export, evaluate. Only the order of steps; how each is done is in its own package."""
