"""What ``python -m skfewshot`` shows, built from public parts only."""
