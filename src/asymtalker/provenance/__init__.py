"""What a video says of itself: tags, signed content credentials, a visible label, an invisible watermark."""
