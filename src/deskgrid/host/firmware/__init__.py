"""Virtualisation in the computer's firmware: whether it is on, and how to switch it on."""
