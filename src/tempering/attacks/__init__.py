"""Attacks, one file each: anything that turns a target into a checkpoint that helps with the hazard."""

from tempering.attacks._contract import Attack, AttackEnded, Checkpoint, FineTuningAttack, log_spaced

__all__ = ["Attack", "AttackEnded", "Checkpoint", "FineTuningAttack", "log_spaced"]
