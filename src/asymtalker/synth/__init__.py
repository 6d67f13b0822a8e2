"""Synthetic talking heads with ground truth: identities, speech, motion, pictures, and the stage that writes them."""
