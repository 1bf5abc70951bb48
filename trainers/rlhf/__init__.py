"""RLHF: supervised fine-tuning, a Bradley-Terry reward model, PPO on texts (docs/adr/0021)."""
